"""Changes of a member's files within one unit of work, and what their rules are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from proxy.storage.tables import escaped
from proxy.storage.userdata import BLOCK, ROOT, StoredEntry, UserDataUnit
from proxy.userdata.entries import (
    BadNameError,
    FullError,
    IsFolderError,
    MissingError,
    TakenError,
    UserDataEntry,
    new_path,
)

#: Maximum bytes of a path: the limit of a database index.
MAX_PATH_BYTES = 2000
#: Files and folders that are moved at once.
_MOVED = 200


@contextmanager
def locked(
    connection: Connection, member: str, now: float, max_bytes: int | None
) -> Iterator[UserDataUnit]:
    """Return a context manager in whose block nobody else changes the member's files. Raises
    `FullError` if more is stored after it than the member may."""
    unit = UserDataUnit(connection, member)
    unit.lock(now)
    before = unit.stored
    yield unit
    stored = unit.stored - unit.freed_later
    if max_bytes is not None and stored > before and stored > max_bytes:
        raise FullError(before)
    unit.settle()


def write(
    unit: UserDataUnit, path: str, data: bytes, now: float, *, overwrite: bool = True
) -> UserDataEntry:
    existing = unit.get([path, f"{path}/"])
    if existing and not overwrite:
        raise TakenError
    if f"{path}/" in existing:
        raise BadNameError(path)
    _make_folders(unit, path, now)
    return entry_of(unit.put(path, data, created=now, modified=now, previous=existing.get(path)))


def begin_move(
    unit: UserDataUnit, path: str, target: str, now: float, *, overwrite: bool
) -> UserDataEntry:
    """Rename a file; of a folder, make the new one, into which `move_some` moves all."""
    source = find(unit, path)
    existing = unit.get([target, f"{target}/"])
    if existing and not overwrite:
        raise TakenError
    if f"{target}/" in existing:
        raise IsFolderError
    is_folder = source.endswith("/")
    if is_folder and (source == ROOT or target in existing or f"{target}/".startswith(source)):
        raise BadNameError(target)
    _make_folders(unit, target, now)
    if is_folder:
        unit.add_folders([f"{target}/"], now)
        unit.freed_later = BLOCK  # the old folder goes with the last part
        return entry_of(unit.get([f"{target}/"])[f"{target}/"])
    if target != path:
        unit.remove(list(existing.values()))
        unit.rename([(path, target)], now)
    return entry_of(unit.get([target])[target])


def move_some(unit: UserDataUnit, source: str, target: str, after: str, now: float) -> str | None:
    """Move files and folders that follow a path from one folder to another; return the last path,
    `None` at the end."""
    entries = unit.below(source, after, _MOVED)
    targets = {entry.path: target + entry.path.removeprefix(source) for entry in entries}
    taken = unit.get(targets.values())
    unit.rename([(old, new) for old, new in targets.items() if new not in taken], now)
    if len(entries) == _MOVED:
        return entries[-1].path
    left = unit.below(source)
    if all(entry.is_folder for entry in left):
        unit.remove([*left, *unit.get([source]).values()])
    return None


def _make_folders(unit: UserDataUnit, path: str, now: float) -> None:
    """Create the parent folders of a path. Raises `BadNameError` if a file has the name of one."""
    folders = list(_parents(path))
    if not folders:
        return
    existing = unit.get([*folders, *(folder.removesuffix("/") for folder in folders)])
    if any(not entry.is_folder for entry in existing.values()):
        raise BadNameError(path)
    unit.add_folders([folder for folder in folders if folder not in existing], now)


def _parents(path: str) -> Iterable[str]:
    """Yield the parent folders of a path, `a/` and `a/b/` of `a/b/c`."""
    steps = path.split("/")[:-1]
    return ("".join(f"{step}/" for step in steps[: count + 1]) for count in range(len(steps)))


def find(unit: UserDataUnit, path: str) -> str:
    """Return the stored path of a file, or of a folder with a slash at its end; `ROOT` for an empty
    path. Raises `MissingError`."""
    if not path:
        return ROOT
    existing = unit.get([path, f"{path}/"])
    if not existing:
        raise MissingError(path)
    (found,) = existing
    return found


def new_path_of(name: str) -> str:
    """Return a path to write to, which is in an index. Raises `BadNameError`, `LeadsOutError`."""
    path = new_path(name)
    if len(escaped(path).encode()) > MAX_PATH_BYTES:
        raise BadNameError(name)
    return path


def entry_of(entry: StoredEntry, start: int = 0) -> UserDataEntry:
    path = entry.path.removesuffix("/")[start:]
    return UserDataEntry(path, entry.size, entry.modified, entry.created, entry.is_folder)
