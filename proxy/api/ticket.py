"""Tickets: addresses of one file that let in for a while whoever has them, as the cloud's do.

Programs that were written for the cloud fetch the address to which `/api/view` leads them without
their key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable

from yarl import URL

NAME = "ticket"
#: How long a ticket is good, in seconds.
LIFETIME = 600


class Tickets:
    """Makes tickets and checks them. They end with the process. `now` is in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._secret = secrets.token_bytes(32)

    def add(self, url: URL, token_id: str) -> URL:
        """The address with a ticket, on the strength of the token with this id."""
        until = int(self._now()) + LIFETIME
        return url.update_query({NAME: f"{until}.{token_id}.{self._proof(url, until, token_id)}"})

    def token_of(self, url: URL) -> str | None:
        """The id of the token on whose strength the address lets in."""
        until, _, rest = url.query.get(NAME, "").partition(".")
        token_id, _, proof = rest.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) < 16 and proof.isascii()):
            return None
        expected = self._proof(url, int(until), token_id)
        good = hmac.compare_digest(expected, proof) and int(until) > self._now()
        return token_id if good else None

    def _proof(self, url: URL, until: int, token_id: str) -> str:
        """Covers the name of the route, the rest of the query, the time and the token."""
        query = sorted((key, value) for key, value in url.query.items() if key != NAME)
        said = repr((url.name, query, until, token_id)).encode(errors="surrogatepass")
        return hmac.new(self._secret, said, hashlib.sha256).hexdigest()
