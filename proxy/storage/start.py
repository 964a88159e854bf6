"""The database of the settings, as it must be before anything uses it, and the data folder, which
is one process's alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import structlog
from filelock import FileLock, Timeout

from proxy.settings import ConfigError, Settings
from proxy.storage.database import (
    FILE,
    DamagedError,
    Database,
    SqliteDatabase,
    StorageError,
    open_sqlite,
    set_aside,
)
from proxy.storage.legacy import take_over
from proxy.storage.migrations import migrate, revision

log = structlog.get_logger(__name__)


@contextmanager
def locked_folder(path: Path) -> Iterator[Path]:
    """The folder at `path`, this process's alone for the length of the block.

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
    """The database of a folder with the newest schema and the records of earlier versions.

    A damaged file is refused; with `start_empty` it is kept under another name, and an empty one
    takes its place. Nobody else may be opening the folder. Raises `StorageError`.
    """
    path = folder / FILE
    try:
        return await _open(folder, path)
    except DamagedError as error:
        if not start_empty:
            raise
        kept = await asyncio.to_thread(set_aside, path)
        log.warning("database_replaced", database=str(path), kept_as=str(kept), reason=str(error))
        return await _open(folder, path)


async def _open(folder: Path, path: Path) -> SqliteDatabase:
    database = await open_sqlite(path)
    try:
        await migrate(database)
        await take_over(folder, database)
    except BaseException:
        await database.close()
        raise
    return database


@asynccontextmanager
async def opened_database(settings: Settings) -> AsyncIterator[Database]:
    """The database of the settings with the newest schema, for a command beside a server or not.

    Raises `StorageError`.
    """
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


async def open_server(settings: Settings, *, direct: bool = False) -> Database:
    """The PostgreSQL database of the settings; `direct` is past a connection pooler.

    Raises `StorageError`.
    """
    try:
        from proxy.storage.postgresql import open_postgresql
    except ModuleNotFoundError as error:
        raise StorageError(
            "a PostgreSQL database needs the extra `cluster`: install the package with it"
        ) from error
    assert settings.database is not None  # noqa: S101 (who calls has looked)
    address = settings.database_direct if direct else None
    return await open_postgresql((address or settings.database).get_secret_value())


async def migrate_server(settings: Settings) -> str | None:
    """Bring the PostgreSQL database of the settings to the newest schema; the one before.

    Raises `StorageError`.
    """
    database = await open_server(settings, direct=True)
    try:
        before = await database.read(revision)
        await migrate(database)
        return before
    finally:
        await database.close()
