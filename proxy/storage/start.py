"""Opens the database of a data folder as it must be before anything uses it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from proxy.storage.database import FILE, DamagedError, SqliteDatabase, open_sqlite, set_aside
from proxy.storage.legacy import take_over
from proxy.storage.migrations import migrate

log = structlog.get_logger(__name__)


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
