"""Migrates the user data of 0.1.0, which was in a folder for each member, to the database."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy import Connection

from proxy.members.member import LOCAL
from proxy.storage.database import Database, StorageError
from proxy.storage.legacy import keep_folder
from proxy.storage.members import MemberRepository, UserDataUnit
from proxy.userdata.base import member_folder

log = structlog.get_logger(__name__)

FOLDER = "userdata"
#: What a file was called that was being written.
_DRAFT = ".comfy-cloud-proxy-"


async def take_over(folder: Path, database: Database) -> None:
    """Bring the user data of a data folder into the database; its files go to those that are kept.

    What is in the database already stays. Raises `StorageError`; then nothing is changed.
    """
    source = folder / FOLDER
    if not await asyncio.to_thread(source.is_dir):
        return
    stored = await MemberRepository(database).load()
    names = {member_folder(name): name for name in [LOCAL, *(one.name for one in stored.members)]}
    try:
        found = {
            path: names.get(path.name, path.name)
            for path in sorted(source.iterdir())
            if path.is_dir() and (path.name in names or not path.name.startswith("_"))
        }
        await database.write(partial(_take, folders=found), long=True)
        kept = await asyncio.to_thread(keep_folder, source)
    except OSError as error:
        raise StorageError(
            f"the user data of version 0.1.0 in {source} cannot be migrated ({error.strerror}): "
            "correct its permissions, or move it out of the data folder"
        ) from error
    log.info("userdata_imported", members=len(found), kept_in=str(kept))


def _take(connection: Connection, folders: Mapping[Path, str]) -> None:
    for root, member in folders.items():
        unit = UserDataUnit(connection, member)
        for path, is_folder in _walk(root):
            name, about = path.relative_to(root).as_posix(), path.stat()
            if is_folder:
                unit.add_folders([f"{name}/"], about.st_mtime)
            else:
                times = {"created": about.st_ctime, "modified": about.st_mtime}
                unit.add(name, path.read_bytes(), **times)


def _walk(root: Path) -> Iterator[tuple[Path, bool]]:
    """All that is in a folder and whether it is a folder; no links that lead out of it."""
    for folder, folders, files in os.walk(root):
        for name in sorted(folders):
            if not (path := Path(folder, name)).is_symlink():
                yield path, True
        for name in sorted(files):
            path = Path(folder, name)
            if name.startswith(_DRAFT):
                continue
            if path.is_file() and path.resolve().is_relative_to(root.resolve()):
                yield path, False
