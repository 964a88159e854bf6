"""Tokens: how they look, and what is kept of them.

A token is `ccp_`, an id of 8 letters and a secret of 32 letters that holds 160 random bits, all in
the small letters and digits of base32, so that it fits headers, URLs and passwords as it is. Kept
is its SHA-256. The slow hashes made for passwords protect what can be guessed; 160 random bits
cannot be, and a slow hash would cost every request.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

PREFIX = "ccp_"

_ID_BYTES = 5
_SECRET_BYTES = 20
_ID_LENGTH = 8

#: A whole token, for what removes tokens from logs.
SHAPE = r"ccp_[a-z2-7]{8}[a-z2-7]{32}"

_SHAPE = re.compile(SHAPE)
_NOBODYS_DIGEST = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token. `member` is a name; times are in ms since 1970."""

    id: str
    member: str
    digest: str
    note: str = ""
    created: int = 0
    expires: int | None = None

    @property
    def shown(self) -> str:
        """How people and logs name the token."""
        return f"{PREFIX}{self.id}…"

    def expired(self, now: int) -> bool:
        """Whether its time is over at `now` (ms)."""
        return self.expires is not None and self.expires <= now


@dataclass(frozen=True, slots=True)
class Use:
    """When (ms) and from which address a token was used last."""

    at: int
    address: str


def make(member: str, *, note: str = "", created: int, expires: int | None) -> tuple[str, Token]:
    """A new token, and what is kept of it."""
    id_ = _letters(_ID_BYTES)
    text = f"{PREFIX}{id_}{_letters(_SECRET_BYTES)}"
    return text, Token(id_, member, _digest(text), note, created, expires)


def id_of(text: str) -> str | None:
    """The id of what has the shape of a token."""
    start = len(PREFIX)
    return text[start : start + _ID_LENGTH] if _SHAPE.fullmatch(text) else None


def matches(text: str, token: Token | None) -> bool:
    """Whether `text` is the token; takes the same way and time where there is no such token."""
    expected = _NOBODYS_DIGEST if token is None else token.digest
    return hmac.compare_digest(_digest(text), expected) and token is not None


def id_prefix(text: str) -> str:
    """The beginning of an id that people write: `ccp_ab12`, `ab12`, `ccp_ab12cd34…`, a token."""
    return text.strip().removesuffix("…").removeprefix(PREFIX)[:_ID_LENGTH].lower()


def _letters(count: int) -> str:
    return base64.b32encode(secrets.token_bytes(count)).decode().lower()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
