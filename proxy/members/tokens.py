"""Tokens and the sessions of browsers: how they look, and what is kept of them.

A token is `ccp_`, an id of 8 letters and a secret of 32 letters that holds 160 random bits, all in
the small letters and digits of base32, so that it fits headers, URLs and passwords as it is. Kept
is its SHA-256. The slow hashes made for passwords protect what can be guessed; 160 random bits
cannot be, and a slow hash would cost every request.

A session is another, shorter name for a token, for browsers that have signed in. Its id is a secret
of 256 bits that a cookie carries; kept is the SHA-256 of it. It ends with its token, with its time,
and when the member signs out.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.storage.members import MemberRepository, StoredSession, StoredToken

PREFIX = "ccp_"

_ID_BYTES = 5
_SECRET_BYTES = 20
_ID_LENGTH = 8

#: How long a session lasts, in ms.
LIFETIME = 30 * 24 * 3600 * 1000
#: This many sessions of one token live at once; the oldest goes first.
PER_TOKEN = 50

_SHAPE = re.compile(r"ccp_[a-z2-7]{8}[a-z2-7]{32}")
_NOBODYS_DIGEST = hashlib.sha256(b"").hexdigest()


class Token(StoredToken, frozen=True):
    """What is kept of a token."""

    @property
    def shown(self) -> str:
        """How people and logs name the token."""
        return f"{PREFIX}{self.id}…"

    def expired(self, now: int) -> bool:
        """Whether its time is over at `now` (ms)."""
        return self.expires is not None and self.expires <= now


class Use(NamedTuple):
    """When (ms) and from which address a token was used last."""

    at: int
    address: str


def make(member: str, *, note: str = "", created: int, expires: int | None) -> tuple[str, Token]:
    """A new token, and what is kept of it."""
    id_ = _letters(_ID_BYTES)
    text = f"{PREFIX}{id_}{_letters(_SECRET_BYTES)}"
    return text, Token(id_, member, digest(text), note, created, expires)


def id_of(text: str) -> str | None:
    """The id of what has the shape of a token."""
    start = len(PREFIX)
    return text[start : start + _ID_LENGTH] if _SHAPE.fullmatch(text) else None


def matches(text: str, token: Token | None) -> bool:
    """Whether `text` is the token; takes the same way and time where there is no such token."""
    expected = _NOBODYS_DIGEST if token is None else token.digest
    return hmac.compare_digest(digest(text), expected) and token is not None


def id_prefix(text: str) -> str:
    """The beginning of an id that people write: `ccp_ab12`, `ab12`, `ccp_ab12cd34…`, a token."""
    return text.strip().removesuffix("…").removeprefix(PREFIX)[:_ID_LENGTH].lower()


def _letters(count: int) -> str:
    return base64.b32encode(secrets.token_bytes(count)).decode().lower()


def digest(text: str) -> str:
    """What is kept of a token or of the secret id of a session."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


@dataclass(eq=False, repr=False)
class Sessions:
    """The sessions, in memory and, with a repository, in the database.

    `_changing` is held while tokens are changed or all are read.
    """

    _repository: MemberRepository | None
    _changing: asyncio.Lock
    _now: Callable[[], float]
    _sessions: dict[str, StoredSession] = field(default_factory=dict)

    def take(self, sessions: Iterable[StoredSession]) -> None:
        """Let these be all sessions."""
        self._sessions = {one.name: one for one in sessions}

    async def begin(self, token_id: str) -> str:
        """A new session of a token; the secret id for the cookie. Raises `StorageError`."""
        now, text = self._ms(), secrets.token_urlsafe(32)
        session = StoredSession(digest(text), token_id, now, now + LIFETIME)
        async with self._changing:
            if self._repository is not None:
                await self._repository.begin_session(session, limit=PER_TOKEN)
                await self._repository.end_sessions(expired_at=now)
            self._sessions[session.name] = session
            mine = [key for key, one in self._sessions.items() if one.token == token_id]
            for old in mine[:-PER_TOKEN]:
                del self._sessions[old]
        return text

    def token_of(self, name: str) -> str | None:
        """The id of the token whose session has this `digest`."""
        session = self._sessions.get(name)
        return session.token if session is not None and session.expires > self._ms() else None

    async def end(self, name: str) -> None:
        """Sign out. Raises `StorageError`."""
        async with self._changing:
            if self._sessions.pop(name, None) is not None and self._repository is not None:
                await self._repository.end_sessions([name])

    def forget(self, known: Collection[str]) -> None:
        """Forget the sessions of tokens that are no longer known; the database does so too."""
        self._sessions = {key: one for key, one in self._sessions.items() if one.token in known}

    def _ms(self) -> int:
        return int(self._now() * 1000)
