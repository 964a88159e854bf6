"""The file of a data folder that says that there are members.

It is kept apart from the database, so that a lost or emptied database does not open the proxy to
everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

from proxy.settings import Settings
from proxy.storage.database import StorageError
from proxy.storage.sqlite import FILE

#: The name of the file.
MARKER = "has-members"
_TEXT = """\
This proxy has members. It does not start without them while this file exists, because anyone who
reaches it could use it. Delete this file only to stop requiring tokens.
"""


def marker_of(settings: Settings) -> Path | None:
    """Return the path of `MARKER`, `None` with PostgreSQL: processes share that, but no folder."""
    return None if settings.database is not None else settings.data_dir / MARKER


async def mark(marker: Path | None, *, expected: bool) -> None:
    """Create or delete the marker file, if there is to be one. Raises `StorageError`."""
    if marker is None or await asyncio.to_thread(marker.exists) is expected:
        return
    try:
        if expected:
            await asyncio.to_thread(marker.write_text, _TEXT)
        else:
            await asyncio.to_thread(marker.unlink, missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot change {marker}: {error.strerror}") from error


def any_members(folder: Path) -> bool:
    """Return whether the data folder has members, or has had some and is damaged.

    Creates nothing.
    """
    try:
        return _found(folder / FILE, "SELECT 1 FROM members WHERE NOT removed LIMIT 1")
    except sqlite3.Error:  # the start reports what to do
        return (folder / MARKER).exists()


def _found(path: Path, query: str) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        return connection.execute(query).fetchone() is not None
