"""The database as it must be before anything uses it: its schema, and the data folder, which is one
process's alone.

A new database gets the tables as they are in `metadata`; an older one goes through the revisions
in `migrations` (Alembic). Both happen in one transaction, so that two processes do not do it at
once.

Processes are upgraded one after the other, so a release works with the schema of the next one:
a revision adds what older programs need not know (expand), and what they need goes with a later
release (contract). The database says which is the oldest revision whose program may use it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import structlog
from filelock import FileLock, Timeout
from sqlalchemy import Connection, inspect, text

from proxy.runtime import clock
from proxy.settings import ConfigError, Settings
from proxy.storage import (  # noqa: F401 (they define tables)
    balances,
    budget_notices,
    costs,
    file_tables,
    job_tables,
    members,
    missing_outputs,
    payloads,
    run_times,
    shares,
    temporary,
    usage,
    userdata,
    workflows,
)
from proxy.storage.database import BusyError, DamagedError, Database, StorageError
from proxy.storage.sqlite import FILE, SqliteDatabase, open_sqlite, set_aside
from proxy.storage.statements import get_meta, put_meta
from proxy.storage.tables import metadata

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Seconds for which a start asks a database again that has too much to do, and between two tries.
BUSY_TIMEOUT, BUSY_PAUSE = 60.0, 0.5

#: The revision of the tables in `metadata`.
HEAD = "0001"
#: The revision of the oldest program that may use this schema. A revision that only adds leaves it;
#: one that takes something away makes it the first revision whose program does without.
OLDEST = "0001"

#: A number for PostgreSQL's lock, any that nothing else uses.
_LOCK = 0x636F6D6679

_OLDEST = "oldest_schema"
_REVISIONS = Path(__file__).parent / "migrations"


async def at_start(call: Callable[[], Awaitable[T]]) -> T:
    """Return the result of a call that a start needs, which is repeated for `BUSY_TIMEOUT` while
    the database has too much to do. Raises `StorageError`."""
    ends = clock.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            return await call()
        except BusyError as error:
            if clock.monotonic() >= ends:
                raise
            log.warning("start_delayed", reason=str(error))
            await asyncio.sleep(BUSY_PAUSE)


async def migrate(database: Database) -> bool:
    """Bring the schema to `HEAD`, and return whether it has changed. A newer one that supports this
    program stays. Raises `UnknownSchemaError`, `StorageError`."""
    if await database.read(_is_ready):
        return False
    before, now = await database.write(_migrate, long=True)
    if before not in (None, now):  # another process may have migrated it meanwhile
        log.info("schema_migrated", before=before, now=now)
    return before != now


def revision(connection: Connection) -> str | None:
    """Return the schema's revision, `None` where there is no schema."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def is_usable(connection: Connection) -> bool:
    """Return whether this version of the program can use the schema as it is, or migrate it."""
    found = revision(connection)
    return found is None or knows(found) or _supports_us(connection)


def knows(schema: str) -> bool:
    """Return whether this version of the program can use or migrate a schema."""
    return any(_REVISIONS.glob(f"r{schema}_*.py"))


def _is_ready(connection: Connection) -> bool:
    found = revision(connection)
    return found == HEAD or (found is not None and not knows(found) and _supports_us(connection))


def _supports_us(connection: Connection) -> bool:
    """Return whether an unknown schema supports this version of the program."""
    oldest = get_meta(connection, _OLDEST)
    return isinstance(oldest, str) and oldest <= HEAD


def _migrate(connection: Connection) -> tuple[str | None, str | None]:
    """Bring the schema to `HEAD`; the revision that was there before, and the one now."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    before = revision(connection)
    if _is_ready(connection):
        return before, before
    if before is None:
        _create(connection)
    else:
        from proxy.storage.revisions import upgrade  # Alembic takes 11 MB, and 0.14 s of a start

        upgrade(connection, before, _REVISIONS)
    put_meta(connection, _OLDEST, OLDEST)
    return before, HEAD


def _create(connection: Connection) -> None:
    """Create the tables of a new database as they are now, without Alembic."""
    metadata.create_all(connection)
    connection.execute(
        text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    )
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})


@contextmanager
def locked_folder(path: Path) -> Iterator[Path]:
    """Return a context manager that locks the folder at `path` for this process.

    The system lets go of it when the process ends, however it ends. Raises `ConfigError` when the
    folder cannot be made or written, or is another process's.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(path / "lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"Another comfy-cloud-proxy uses the data folder {path}: stop it, or choose another "
            "folder with --data-dir."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"The data folder {path} cannot be written ({error.strerror}): correct its "
            "permissions, or choose another one with --data-dir."
        ) from error
    try:
        yield path
    finally:
        lock.release()


async def open_folder(folder: Path, *, start_empty: bool = False) -> SqliteDatabase:
    """Return the database of a folder with the newest schema.

    A damaged file is refused; with `start_empty` it is kept under another name, and an empty one
    takes its place. Nobody else may be opening the folder. Raises `StorageError`.
    """
    path = folder / FILE
    try:
        return await _open(path)
    except DamagedError as error:
        if not start_empty:
            raise
        kept = await asyncio.to_thread(set_aside, path)
        log.warning("database_replaced", database=str(path), kept_as=str(kept), reason=str(error))
        return await _open(path)


async def _open(path: Path) -> SqliteDatabase:
    database = await open_sqlite(path)
    try:
        await migrate(database)
    except BaseException:
        await database.close()
        raise
    return database


def has_database(settings: Settings) -> bool:
    """Return whether the records of the settings have a database: a server's, or a file where a
    proxy has run."""
    return settings.database is not None or (settings.data_dir / FILE).exists()


@asynccontextmanager
async def opened_database(settings: Settings) -> AsyncIterator[Database]:
    """Return a context manager that opens the database of the settings with the newest schema, for
    a command beside a server or not. Raises `StorageError`."""
    database: Database
    if settings.database is not None:
        await migrate_server(settings)
        database = await open_server(settings)
    else:
        database = await open_sqlite(settings.data_dir / FILE)
    try:
        if settings.database is None:
            await migrate(database)
        yield database
    finally:
        await database.close()


async def open_server(settings: Settings) -> Database:
    """Open the PostgreSQL database of the settings. Raises `StorageError`."""
    try:
        from proxy.storage.postgresql import open_postgresql
    except ModuleNotFoundError as error:
        raise StorageError(
            "a PostgreSQL database needs the extra `cluster`: install the package with it"
        ) from error
    assert settings.database is not None  # noqa: S101 (who calls has looked)
    return await open_postgresql(settings.database.get_secret_value())


async def migrate_server(settings: Settings) -> str | None:
    """Bring the PostgreSQL database of the settings to the newest schema; the one before. Raises
    `StorageError`."""
    database = await open_server(settings)
    try:
        before = await database.read(revision)
        await migrate(database)
        return before
    finally:
        await database.close()
