"""The small database of the members, which a server and the command line use at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from proxy.members.member import Member
from proxy.members.tokens import Token, Use
from proxy.store.base import Delete, Put, StoreError
from proxy.store.sqlite import SqliteStore

FILE = "members.sqlite"

MEMBERS, TOKENS, USES, REMOVED = "members", "tokens", "uses", "removed"

#: How long a change waits for that of another process, in seconds.
_PATIENCE = 5.0

_MEMBER = msgspec.json.Decoder(Member)
_TOKEN = msgspec.json.Decoder(Token)
_USE = msgspec.json.Decoder(Use)
_TEXT = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class Held:
    """What the database holds: members and the names of removed ones by their name in small
    letters, tokens and their last use by the token's id."""

    members: dict[str, Member]
    tokens: dict[str, Token]
    uses: dict[str, Use]
    removed: dict[str, str]


class Database:
    """The members' file of a data folder. Everything raises `StoreError`.

    A file that cannot be opened or is damaged is left where it is: never does a broken one pass for
    a proxy without members.
    """

    def __init__(self, store: SqliteStore, lock: FileLock) -> None:
        self.store = store
        self._lock = lock
        self._version = -1

    @classmethod
    async def open(cls, folder: Path) -> Database:
        """Open the file, which may be another process's, or make it."""
        try:
            await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the folder {folder}: {error}") from error
        store = await SqliteStore.open(folder / FILE, set_aside=False)
        return cls(store, FileLock(folder / "members.lock", thread_local=False))

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """No other process changes anything while the block runs."""
        try:
            await asyncio.to_thread(self._lock.acquire, timeout=_PATIENCE)
        except (Timeout, OSError) as error:
            raise StoreError(f"the members cannot be changed: {error}") from error
        try:
            yield
        finally:
            self._lock.release()

    async def news(self) -> Held | None:
        """All that is held, if another process has changed something since; `None` if not."""
        version = await self.store.version()
        if version == self._version:
            return None
        scan = self.store.scan
        try:
            held = Held(
                members={key: _MEMBER.decode(value) async for key, value in scan(MEMBERS)},
                tokens={key: _TOKEN.decode(value) async for key, value in scan(TOKENS)},
                uses={key: _USE.decode(value) async for key, value in scan(USES)},
                removed={key: _TEXT.decode(value) async for key, value in scan(REMOVED)},
            )
        except msgspec.DecodeError as error:
            raise StoreError(f"the members' database holds what is no member: {error}") from error
        self._version = version
        return held

    async def write(self, *changes: Put | Delete) -> None:
        """Make all of the changes or none."""
        await self.store.write(changes)

    async def close(self) -> None:
        """Close the file."""
        await self.store.close()


def put(collection: str, key: str, value: Member | Token | Use | str) -> Put:
    """The writing of one thing."""
    return Put(collection, key, msgspec.json.encode(value))
