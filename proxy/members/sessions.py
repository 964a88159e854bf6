"""Browsers that have signed in: a session is another, shorter name for a token.

Its id is a secret of 256 bits that a cookie carries; kept is the SHA-256 of it. It ends with its
token, with its time, and when the member signs out.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from proxy.store.base import Delete, StoreError
from proxy.store.sqlite import SqliteStore

#: How long a session lasts, in ms.
LIFETIME = 30 * 24 * 3600 * 1000
#: So many sessions of one token live at once; the oldest goes first.
PER_TOKEN = 50

_COLLECTION = "sessions"


@dataclass(frozen=True, slots=True)
class Session:
    """A session of the token with the id `token`; times are in ms since 1970."""

    token: str
    created: int
    expires: int


_SESSION = msgspec.json.Decoder(Session)


class Sessions:
    """The sessions, in memory and, with a store, over a restart."""

    def __init__(
        self, store: SqliteStore | None = None, *, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._now = now
        self._sessions: dict[str, Session] = {}

    async def load(self) -> None:
        """Take up those in the store. Raises `StoreError`."""
        if self._store is None:
            return
        try:
            found = {key: _SESSION.decode(v) async for key, v in self._store.scan(_COLLECTION)}
        except msgspec.DecodeError as error:
            raise StoreError(f"the members' database holds what is no session: {error}") from error
        now = self._ms()
        self._sessions = {key: one for key, one in found.items() if one.expires > now}
        await self._delete(found.keys() - self._sessions.keys())

    async def begin(self, token_id: str) -> str:
        """A new session of a token; the secret id for the cookie."""
        now, text = self._ms(), secrets.token_urlsafe(32)
        session = Session(token_id, now, now + LIFETIME)
        if self._store is not None:
            await self._store.put(_COLLECTION, name_of(text), msgspec.json.encode(session))
        self._sessions[name_of(text)] = session
        mine = [key for key, one in self._sessions.items() if one.token == token_id]
        await self._delete(set(mine[:-PER_TOKEN]))
        return text

    def token_of(self, name: str) -> str | None:
        """The id of the token whose session has this `name_of`."""
        session = self._sessions.get(name)
        return session.token if session is not None and session.expires > self._ms() else None

    async def end(self, name: str) -> None:
        """Sign out."""
        await self._delete({name} & self._sessions.keys())

    async def forget(self, known: Callable[[str], bool]) -> None:
        """Forget the sessions of tokens that are not known any more."""
        await self._delete({key for key, one in self._sessions.items() if not known(one.token)})

    async def _delete(self, names: set[str]) -> None:
        for name in names:
            self._sessions.pop(name, None)
        if names and self._store is not None:
            await self._store.write([Delete(_COLLECTION, name) for name in sorted(names)])

    def _ms(self) -> int:
        return int(self._now() * 1000)


def name_of(text: str) -> str:
    """The name by which the server knows a session with this secret id."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
