"""Tickets: addresses of one file that work for a while for anyone who has them.

They are like the cloud's signed URLs: programs that were written for the cloud fetch the address to
which `/api/view` redirects them without their key.
"""

from __future__ import annotations

from yarl import URL

from proxy.runtime import clock
from proxy.storage.encryption import Cipher

#: The route that takes tickets, the name of their parameter, and their lifetime in seconds.
TICKETED = "/view"
TICKET = "ticket"
TICKET_LIFETIME = 600


class Tickets:
    """Makes tickets, and checks those that were made with a secret of the cipher."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher

    def add(self, url: URL, token_id: str) -> URL:
        """Return the URL with a ticket for the token with this id."""
        until = int(clock.time()) + TICKET_LIFETIME
        proof = self._cipher.sign(_promise(url, until, token_id))
        return url.update_query({TICKET: f"{until}.{token_id}.{proof}"})

    def token_of(self, url: URL) -> str | None:
        """Return the id of the token for which a URL has a valid ticket, else `None`."""
        until, _, rest = url.query.get(TICKET, "").partition(".")
        token_id, _, proof = rest.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) < 16 and proof.isascii()):
            return None
        good = self._cipher.proves(_promise(url, int(until), token_id), proof)
        return token_id if good and int(until) > clock.time() else None


def _promise(url: URL, until: int, token_id: str) -> bytes:
    """Return what a ticket signs: the name of the route, the rest of the query, time and token."""
    query = sorted((key, value) for key, value in url.query.items() if key != TICKET)
    return repr((url.name, query, until, token_id)).encode(errors="surrogatepass")
