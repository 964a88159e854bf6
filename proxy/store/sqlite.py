"""The store in one SQLite file.

Write-ahead log, `synchronous=FULL`: what was written survives a power cut. Writes that arrive
while a transaction is being synced wait and share the next one, so that many small writers cost
one sync and not one each.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiosqlite
import structlog

from proxy.store.base import Delete, Put, StoreError

_log = structlog.get_logger(__name__)

#: How long a write waits for another process that holds the file, in milliseconds.
BUSY_TIMEOUT = 5000
#: Documents fetched at once by a scan.
PAGE = 500

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    collection TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (collection, key)
) WITHOUT ROWID
"""
_PUT = "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)"
_INSERT = "INSERT OR IGNORE INTO documents VALUES (?, ?, ?)"
_DELETE = "DELETE FROM documents WHERE collection = ? AND key = ?"
_GET = "SELECT value FROM documents WHERE collection = ? AND key = ?"
_SCAN = "SELECT key, value FROM documents WHERE collection = ? AND key {} ? ORDER BY key LIMIT ?"

#: Primary result codes that mean the file is broken, and not merely busy or unwritable.
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


@dataclass(slots=True)
class _Write:
    """Changes waiting for their transaction; `result` is whether the first one took effect."""

    changes: Sequence[Put | Delete]
    insert: bool
    result: asyncio.Future[bool] = field(default_factory=asyncio.Future)


class SqliteStore:
    """A `Store` in the file at `path`. Make one with `await SqliteStore.open(path)`."""

    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        self._path = path
        self._connection = connection
        self._waiting: list[_Write] = []
        self._writer: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(cls, path: Path, *, set_aside: bool = True) -> SqliteStore:
        """Open or create the file and its folder.

        A damaged file is set aside as `<name>.damaged-<n>` with a warning, and an empty store is
        opened in its place, unless `set_aside` is false. Raises `StoreError` when the file cannot
        be opened or written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                connection = await _connect(path)
            except sqlite3.DatabaseError as error:
                if not set_aside or _code(error) not in _DAMAGE:
                    raise
                aside = _set_aside(path)
                _log.warning(
                    "damaged_database_replaced",
                    database=str(path),
                    kept_as=str(aside),
                    reason=str(error),
                )
                connection = await _connect(path)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"cannot open the database {path}: {error}; check that the folder is writable and "
                "that no other process uses it"
            ) from error
        return cls(path, connection)

    async def get(self, collection: str, key: str) -> bytes | None:
        """The document, or `None`."""
        rows = await self._read(_GET, (collection, key))
        return bytes(rows[0][0]) if rows else None

    async def put(self, collection: str, key: str, value: bytes) -> None:
        """Write a document."""
        await self._write(_Write([Put(collection, key, value)], insert=False))

    async def insert(self, collection: str, key: str, value: bytes) -> bool:
        """Write a document if the key is free; says whether it was."""
        return await self._write(_Write([Put(collection, key, value)], insert=True))

    async def delete(self, collection: str, key: str) -> None:
        """Remove a document."""
        await self._write(_Write([Delete(collection, key)], insert=False))

    async def write(self, changes: Sequence[Put | Delete]) -> None:
        """Make all of the changes or none, in their order."""
        if changes:
            await self._write(_Write(list(changes), insert=False))

    async def scan(self, collection: str, prefix: str = "") -> AsyncIterator[tuple[str, bytes]]:
        """All documents whose key begins with `prefix`, in the order of their keys."""
        comparison, last = ">=", prefix
        while True:
            rows = await self._read(_SCAN.format(comparison), (collection, last, PAGE))
            for key, value in rows:
                if not key.startswith(prefix):
                    return
                yield key, bytes(value)
            if len(rows) < PAGE:
                return
            comparison, last = ">", rows[-1][0]

    async def version(self) -> int:
        """A number that is another one whenever somebody else has written into the file."""
        rows = await self._read("PRAGMA data_version", ())
        return int(rows[0][0])

    async def close(self) -> None:
        """Finish the writes that were asked for, and close."""
        if self._closed:
            return
        self._closed = True
        if self._writer is not None:
            await self._writer
        with contextlib.suppress(sqlite3.Error):
            await self._connection.close()

    async def _read(self, sql: str, parameters: tuple[object, ...]) -> list[sqlite3.Row]:
        self._refuse_if_closed()
        with _as_store_error(self._path):
            return list(await self._connection.execute_fetchall(sql, parameters))

    async def _write(self, write: _Write) -> bool:
        self._refuse_if_closed()
        self._waiting.append(write)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting())
        return await asyncio.shield(write.result)

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                with _as_store_error(self._path):
                    results = await self._transaction(batch)
            except StoreError as error:
                for write in batch:
                    write.result.set_exception(error)
                    write.result.exception()  # a caller that was cancelled does not fetch it
            else:
                for write, result in zip(batch, results, strict=True):
                    write.result.set_result(result)

    async def _transaction(self, batch: list[_Write]) -> list[bool]:
        await self._connection.execute("BEGIN IMMEDIATE")
        try:
            results = [await self._apply(write) for write in batch]
            await self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                await self._connection.execute("ROLLBACK")
            raise
        return results

    async def _apply(self, write: _Write) -> bool:
        if write.insert:
            (put,) = write.changes
            assert isinstance(put, Put)  # noqa: S101
            cursor = await self._connection.execute(_INSERT, (put.collection, put.key, put.value))
            return cursor.rowcount == 1
        for change in write.changes:
            if isinstance(change, Put):
                parameters = (change.collection, change.key, change.value)
                await self._connection.execute(_PUT, parameters)
            else:
                await self._connection.execute(_DELETE, (change.collection, change.key))
        return True

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreError(f"the database {self._path} is closed")


async def _connect(path: Path) -> aiosqlite.Connection:
    """A connection to a sound database. Raises `sqlite3.Error` or `OSError`."""
    await asyncio.to_thread(_make_private, path)
    connection = await aiosqlite.connect(path, isolation_level=None)
    try:
        await connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("PRAGMA synchronous = FULL")
        await connection.execute(_SCHEMA)
        for (verdict,) in await connection.execute_fetchall("PRAGMA quick_check(1)"):
            if verdict != "ok":
                raise _damaged(verdict)
    except BaseException:
        await connection.close()
        raise
    return connection


def _make_private(path: Path) -> None:
    """Create the file, if there is none, for its owner alone: it holds prompts."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _damaged(verdict: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(verdict)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _code(error: sqlite3.Error) -> int:
    """The primary result code; SQLite puts details into the higher bits."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


@contextlib.contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeEncodeError) as error:
        raise StoreError(f"the database {path} refused: {error}") from error
