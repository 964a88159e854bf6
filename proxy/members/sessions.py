"""Browsers that have signed in: a session is another, shorter name for a token.

Its id is a secret of 256 bits that a cookie carries; kept is the SHA-256 of it. It ends with its
token, with its time, and when the member signs out.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from proxy.storage.members import MemberRepository, StoredSession

#: How long a session lasts, in ms.
LIFETIME = 30 * 24 * 3600 * 1000
#: So many sessions of one token live at once; the oldest goes first.
PER_TOKEN = 50


@dataclass(frozen=True, slots=True)
class Session:
    """A session of the token with the id `token`; times are in ms since 1970."""

    token: str
    created: int
    expires: int


class Sessions:
    """The sessions, in memory and, with a repository, in the database.

    `changing` is held by whoever changes them or reads all of them.
    """

    def __init__(
        self,
        repository: MemberRepository | None,
        changing: asyncio.Lock,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._changing = changing
        self._now = now
        self._sessions: dict[str, Session] = {}

    def take(self, sessions: Mapping[str, Session]) -> None:
        """Let these be all sessions, by `name_of`."""
        self._sessions = dict(sessions)

    async def begin(self, token_id: str) -> str:
        """A new session of a token; the secret id for the cookie. Raises `StorageError`."""
        now, text = self._ms(), secrets.token_urlsafe(32)
        name, session = name_of(text), Session(token_id, now, now + LIFETIME)
        async with self._changing:
            if self._repository is not None:
                stored = StoredSession(name, session.token, session.created, session.expires)
                await self._repository.begin_session(stored, most=PER_TOKEN)
                await self._repository.end_sessions(expired_at=now)
            self._sessions[name] = session
            mine = [key for key, one in self._sessions.items() if one.token == token_id]
            for old in mine[:-PER_TOKEN]:
                del self._sessions[old]
        return text

    def token_of(self, name: str) -> str | None:
        """The id of the token whose session has this `name_of`."""
        session = self._sessions.get(name)
        return session.token if session is not None and session.expires > self._ms() else None

    async def end(self, name: str) -> None:
        """Sign out. Raises `StorageError`."""
        async with self._changing:
            if self._sessions.pop(name, None) is not None and self._repository is not None:
                await self._repository.end_sessions([name])

    def forget(self, known: Collection[str]) -> None:
        """Forget the sessions of tokens that are not known any more; the database does so too."""
        self._sessions = {key: one for key, one in self._sessions.items() if one.token in known}

    def _ms(self) -> int:
        return int(self._now() * 1000)


def name_of(text: str) -> str:
    """The name by which the server knows a session with this secret id."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
