"""A database in one file, by SQLite.

SQLite has one writer. Units that arrive while a transaction is being synced wait and share the
next one, each in a savepoint of its own: many small writers cost one sync and not one each, and a
unit that fails fails alone. Of those that wait the owners have turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError

from proxy.runtime import clock, threads
from proxy.storage.database import DamagedError, Database, StorageError, ValueRefusedError
from proxy.storage.unit_queue import Unit, UnitQueue

T = TypeVar("T")

#: The file of a data folder.
FILE = "proxy.db"

#: Milliseconds for which a write waits for another process that writes.
BUSY_TIMEOUT = 5000
#: Maximum number of units in a transaction, so that the first does not wait for ever.
MAX_UNITS = 256
#: Seconds of a transaction from which on it takes no more units.
MAX_TRANSACTION = 0.02
#: Maximum number of concurrent reads, and of those of one owner.
READERS, READERS_EACH = 2, 1
#: Bytes of a database that is checked whole at each start; of a larger one the first pages are.
CHECKED_BYTES = 128 * 1024 * 1024
#: Bytes of the write-ahead log that are kept on disk after a checkpoint.
_LOG_BYTES = 16 * 1024 * 1024

#: Primary result codes of SQLite that mean a broken file, and not a busy or unwritable one.
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

#: Exceptions of the database and its driver.
_REFUSALS = (sqlite3.Error, SQLAlchemyError, OSError, OverflowError, UnicodeError)
#: Those of them that say that a value does not fit.
_VALUE_REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeError)


class SqliteDatabase(Database):
    """A database in one file. Make one with `open_sqlite`."""

    def __init__(self, path: Path, engine: Engine, writer: Connection) -> None:
        super().__init__()
        self.path = path
        self._engine = engine
        self._writes = UnitQueue(self.waiting)
        self._reads = UnitQueue(self.waiting, READERS_EACH)
        self._closed = False
        self._threads = [
            threads.start(partial(self._write_on, writer), "database writer"),
            *(threads.start(self._read_on, f"database reader {n}") for n in range(READERS)),
        ]

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a unit that only reads, on one snapshot. Raises `StorageError`."""
        if self._closed:
            raise self._refusal()
        return await self._reported("read", self._reads.run(work))

    async def write(
        self, work: Callable[[Connection], T], *, long: bool = False, urgent: bool = False
    ) -> T:
        """Run a unit that writes; it is on disk when this returns. Raises `StorageError`."""
        if self._closed:
            raise self._refusal()
        return await self._reported("write", self._writes.run(work))

    async def close(self) -> None:
        """Finish the units that were asked for, and close."""
        if not self._closed:
            self._closed = True
            self._writes.close()
            self._reads.close()
            await asyncio.to_thread(self._end)

    def _end(self) -> None:
        for thread in self._threads:
            thread.join()
        self._engine.dispose()

    def _refusal(self) -> StorageError:
        return StorageError(f"the database {self.path} is closed")

    # --- the readers' threads ---------------------------------------------------------------

    def _read_on(self) -> None:
        connection: Connection | None = None
        while (unit := self._reads.next(wait=True)) is not None:
            began = clock.monotonic()
            if not unit.result.cancelled():
                try:
                    if connection is None:
                        connection = self._engine.connect()
                    unit.value = _read(connection, unit.work)
                except BaseException as error:  # noqa: BLE001 (who waits must hear of it)
                    unit.error = _translate(self.path, error)
            self._reads.end(unit, clock.monotonic() - began)
            self._reads.settle([unit])
            del unit  # its result may be large
        if connection is not None:
            connection.close()

    # --- the writer's thread ----------------------------------------------------------------

    def _write_on(self, connection: Connection) -> None:
        while (unit := self._writes.next(wait=True)) is not None:
            units, began = [unit], clock.monotonic()
            self._transaction(connection, units)
            self._writes.charge_rest(units, clock.monotonic() - began)
            self._writes.settle(units)
            del unit, units
        connection.close()

    def _transaction(self, connection: Connection, units: list[Unit]) -> None:
        """Run the first unit, and those that wait meanwhile, which are added to `units`; what came
        of each is known when this has been synced or has failed."""
        raw = _raw(connection)
        ends = clock.monotonic() + MAX_TRANSACTION
        try:
            raw.execute("BEGIN IMMEDIATE")
            unit: Unit | None = units[0]
            apart = bool(self._writes)
            while unit is not None:
                began = clock.monotonic()
                self._apply(connection, raw, unit, apart)
                now = clock.monotonic()
                self._writes.end(unit, now - began)
                unit = None
                if apart and now < ends and len(units) < MAX_UNITS:
                    unit = self._writes.next(wait=False)
                if unit is not None:
                    units.append(unit)
            if apart or units[0].error is None:
                raw.execute("COMMIT")
                self.commits += 1
                self.units += len(units)
            else:
                raw.execute("ROLLBACK")
        except BaseException as error:  # noqa: BLE001 (anyone who waits must hear of it)
            with contextlib.suppress(sqlite3.Error):
                if raw.in_transaction:
                    raw.execute("ROLLBACK")
            failure = _translate(self.path, error)
            for unit in units:
                unit.error = failure

    def _apply(
        self, connection: Connection, raw: sqlite3.Connection, unit: Unit, apart: bool
    ) -> None:
        """Run one unit of several, `apart` from the others. Raises what ends the transaction."""
        if apart:
            raw.execute("SAVEPOINT unit")
        try:
            unit.value = unit.work(connection)
        except BaseException as error:
            if not raw.in_transaction:  # the database has given up all units: a full disk
                raise
            unit.error = _translate(self.path, error)
            if apart:
                raw.execute("ROLLBACK TO unit")
        if apart:
            raw.execute("RELEASE unit")


def _read(connection: Connection, work: Callable[[Connection], T]) -> T:
    """Run a unit on one snapshot."""
    raw = _raw(connection)
    raw.execute("BEGIN")
    try:
        return work(connection)
    finally:
        raw.execute("ROLLBACK")


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteDatabase]:
    """Return a context manager that opens a database with `open_sqlite` and closes it."""
    database = await open_sqlite(path)
    try:
        yield database
    finally:
        await database.close()


async def open_sqlite(path: Path) -> SqliteDatabase:
    """Open the file, or make it, for its owner alone: it holds prompts.

    Raises `DamagedError`, and `StorageError` when the file cannot be opened or written.
    """
    return await asyncio.to_thread(_open, path)


def _open(path: Path) -> SqliteDatabase:
    with _translated(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        engine = create_engine(
            URL.create("sqlite", database=str(path)),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",  # transactions are begun here, at once for writing
            connect_args={"check_same_thread": False},
        )
        event.listen(engine, "connect", _prepare)
        writer = engine.connect()
        try:
            _check_file(writer, path)
        except BaseException:
            writer.close()
            raise
        return SqliteDatabase(path, engine, writer)


def _prepare(connection: Any, _record: object) -> None:
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT}",
        "journal_mode = WAL",
        "synchronous = FULL",
        f"journal_size_limit = {_LOG_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _check_file(connection: Connection, path: Path) -> None:
    """Look whether the file is sound. Raises `DamagedError` or what the database raises."""
    raw = _raw(connection)
    raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if path.stat().st_size <= CHECKED_BYTES:
        ((verdict,),) = raw.execute("PRAGMA quick_check(1)").fetchall()
        if verdict != "ok":
            raise _damaged(path, verdict)


def _raw(connection: Connection) -> sqlite3.Connection:
    """Return SQLite's own connection, on which transactions begin and end: that takes 1 µs, and
    10 µs through Core."""
    return cast(sqlite3.Connection, connection.connection.driver_connection)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except _REFUSALS as error:
        raise _translate(path, error) from error


def _translate(path: Path, error: BaseException) -> BaseException:
    """Return an error of the database or its driver as a `StorageError`; any other as it is."""
    if not isinstance(error, _REFUSALS):
        return error
    cause = (error.orig or error) if isinstance(error, StatementError) else error
    is_conversion = isinstance(error, StatementError) and not isinstance(error, DBAPIError)
    is_value = is_conversion or isinstance(cause, _VALUE_REFUSALS)
    kind = ValueRefusedError if is_value else StorageError
    translated = kind(f"the database {path} refused: {cause}")
    if getattr(cause, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:  # details are in higher bits
        translated = _damaged(path, str(cause))
    translated.__cause__ = error
    return translated


def _damaged(path: Path, reason: str) -> DamagedError:
    return DamagedError(
        f"the database {path} is damaged ({reason}): restore a backup with `comfy-cloud-proxy "
        "restore FILE`, or use --start-empty to start with an empty database. It keeps the damaged "
        "file"
    )


def free_path(path: Path) -> Path:
    """Return `path-N` with the lowest number that is free."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(1))
    return next(candidate for candidate in numbered if not candidate.exists())


def set_aside(path: Path) -> Path:
    """Rename a damaged database to `NAME.damaged-N`, with its log; its new name.

    Raises `OSError`.
    """
    aside = free_path(path.with_name(f"{path.name}.damaged"))
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside
