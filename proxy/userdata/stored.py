"""Members' files and settings in the proxy's database.

Each change is one transaction that locks the member's files, so that limits and names hold whatever
other changes run at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection

from proxy.runtime import clock
from proxy.storage.database import Database
from proxy.storage.members import ROOT, StoredEntry, UserDataUnit
from proxy.storage.statements import get_meta, put_meta
from proxy.storage.tables import escaped
from proxy.translate import codec
from proxy.translate.errors import LocalError
from proxy.userdata.entries import (
    BadNameError,
    FullError,
    IsFileError,
    IsFolderError,
    MissingError,
    TakenError,
    UserDataEntry,
    in_tree_order,
    is_listed,
    new_path,
    path_to,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")

SETTINGS = "comfy.settings.json"

#: Maximum bytes of a path: the limit of a database index.
_MAX_PATH_BYTES = 2000

#: Maximum bytes of a member's settings as JSON: all are written with each change. Those of the web
#: interface take 10 to 100 KB.
MAX_SETTINGS_BYTES = 2 * 1024 * 1024
#: Maximum bytes up to which settings are indented, as by ComfyUI.
_MAX_INDENTED_BYTES = 64 * 1024

#: The user that a ComfyUI always has, and how many more a member may add.
DEFAULT_USER, MAX_USERS = "default", 100


class SettingsTooLargeError(LocalError):
    """Raised when settings are, or would be, larger than `MAX_SETTINGS_BYTES`."""

    def __init__(self) -> None:
        super().__init__(
            "settings_too_large",
            f"The settings of a member have at most {MAX_SETTINGS_BYTES:,} bytes; store large data "
            f"as files in /userdata, and delete {SETTINGS} there if it is too large already.",
            kind="too_large",
        )


class StoredUserData:
    """The members' files.

    Methods raise `LeadsOutError`; `MissingError` for a name that does not exist; `BadNameError` for
    one that cannot be written; `StorageError` if the database fails; and `FullError` if more than
    `max_bytes` would be stored for the member.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, member: str, name: str) -> tuple[bytes, UserDataEntry | None]:
        """Return a file's content and its entry. Raises `IsFolderError`."""
        path = path_to(name)

        def work(unit: UserDataUnit) -> tuple[StoredEntry, bytes]:
            found = unit.read(path)
            if found is None:
                _find(unit, path)
                raise IsFolderError
            return found

        entry, data = await self._read(member, work)
        return data, _entry_of(entry)

    async def find(self, member: str, name: str) -> UserDataEntry | None:
        """Return a file's entry, without its content. Raises `IsFolderError`."""
        path = path_to(name)

        def work(unit: UserDataUnit) -> StoredEntry:
            found = unit.get([path]).get(path) if path else None
            if found is None:
                _find(unit, path)
                raise IsFolderError
            return found

        return _entry_of(await self._read(member, work))

    async def write(
        self,
        member: str,
        name: str,
        data: bytes,
        *,
        overwrite: bool = True,
        max_bytes: int | None = None,
    ) -> UserDataEntry:
        """Write a file. Raises `TakenError` if it exists, unless with `overwrite`."""
        path = _new_path(name)
        return await self._change(
            member,
            lambda unit, now: _write(unit, path, data, now, overwrite=overwrite),
            max_bytes=max_bytes,
        )

    async def delete(self, member: str, name: str) -> None:
        """Delete a file. Raises `IsFolderError`."""
        path = path_to(name)

        def work(unit: UserDataUnit, _: float) -> None:
            if _find(unit, path).endswith("/"):
                raise IsFolderError
            unit.remove(path)

        await self._change(member, work)

    async def move(
        self,
        member: str,
        name: str,
        target: str,
        *,
        overwrite: bool = True,
        max_bytes: int | None = None,
    ) -> UserDataEntry:
        """Rename a file or folder. Raises `TakenError`, `IsFolderError`."""
        path, new_path = path_to(name), _new_path(target)
        return await self._change(
            member,
            lambda unit, now: _move(unit, path, new_path, now, overwrite=overwrite),
            max_bytes=max_bytes,
        )

    async def files(self, member: str, name: str, *, recurse: bool) -> list[UserDataEntry]:
        """Return the files in a folder, with paths relative to it, without hidden ones."""

        def work(unit: UserDataUnit) -> list[UserDataEntry]:
            folder = _find(unit, path_to(name))
            start = 0 if folder == ROOT else len(folder)
            if not folder.endswith("/"):
                return []
            entries = (_entry_of(entry, start) for entry in unit.below(folder))
            return [
                entry
                for entry in entries
                if not entry.is_folder and is_listed(entry.path, recurse=recurse)
            ]

        return sorted(await self._read(member, work), key=lambda entry: entry.path)

    async def tree(self, member: str, name: str) -> list[UserDataEntry]:
        """Return all folders and files below a folder, with paths from the member's folder, in the
        order of `in_tree_order`. Raises `IsFileError`."""

        def work(unit: UserDataUnit) -> list[UserDataEntry]:
            folder = _find(unit, path_to(name))
            if not folder.endswith("/"):
                raise IsFileError
            return [_entry_of(entry) for entry in unit.below(folder)]

        return sorted(await self._read(member, work), key=in_tree_order)

    async def settings(self, member: str) -> dict[str, Any]:
        """Return all settings; none if the file is missing or is not a JSON object."""
        return await self._read(member, _settings)

    async def setting(self, member: str, name: str) -> Any:
        """Return the value of a setting, or `None`."""
        return (await self.settings(member)).get(name)

    async def change_settings(
        self, member: str, changes: Mapping[str, Any], *, max_bytes: int | None = None
    ) -> None:
        """Set some settings, and leave the others unchanged. Raises `SettingsTooLargeError`."""

        def work(unit: UserDataUnit, now: float) -> None:
            settings = {**_settings(unit), **changes}
            data = codec.dump_bytes(settings)
            if len(data) > MAX_SETTINGS_BYTES:
                raise SettingsTooLargeError
            if len(data) <= _MAX_INDENTED_BYTES:
                data = json.dumps(settings, indent=4).encode()
            _write(unit, SETTINGS, data, now)

        await self._change(member, work, max_bytes=max_bytes)

    async def add_user(self, member: str, name: str) -> bool:
        """Store the name of one more user of a member. Return false for a known one.

        These users own nothing: without ComfyUI's --multi-user everything is the default user's.
        """

        def work(connection: Connection) -> bool:
            key = f"users of {member}"
            names = get_meta(connection, key, lock=True) or [DEFAULT_USER]
            if name in names or len(names) > MAX_USERS:
                return False
            put_meta(connection, key, [*names, name])
            return True

        return await self._database.write(work)

    async def _read(self, member: str, work: Callable[[UserDataUnit], T]) -> T:
        return await self._database.read(lambda connection: work(UserDataUnit(connection, member)))

    async def _change(
        self, member: str, work: Callable[[UserDataUnit, float], T], *, max_bytes: int | None = None
    ) -> T:
        now = clock.time()

        def locked(connection: Connection) -> T:
            unit = UserDataUnit(connection, member)
            unit.lock(now)
            before = unit.stored() if max_bytes is not None else 0
            done = work(unit, now)
            if max_bytes is not None and (after := unit.stored()) > before and after > max_bytes:
                raise FullError(before)
            return done

        return await self._database.write(locked)


def _write(
    unit: UserDataUnit, path: str, data: bytes, now: float, *, overwrite: bool = True
) -> UserDataEntry:
    existing = unit.get([path, f"{path}/"])
    if existing and not overwrite:
        raise TakenError
    if f"{path}/" in existing:
        raise BadNameError(path)
    _make_folders(unit, path, now)
    return _entry_of(unit.put(path, data, created=now, modified=now))


def _move(
    unit: UserDataUnit, path: str, target: str, now: float, *, overwrite: bool
) -> UserDataEntry:
    source = _find(unit, path)
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
        for entry in unit.below(source):
            unit.rename(entry.path, f"{target}/{entry.path.removeprefix(source)}", now)
        unit.rename(source, f"{target}/", now)
        return _entry_of(unit.get([f"{target}/"])[f"{target}/"])
    if target != path:
        unit.remove(target)
        unit.rename(path, target, now)
    return _entry_of(unit.get([target])[target])


def _make_folders(unit: UserDataUnit, path: str, now: float) -> None:
    """Create the parent folders of a path. Raises `BadNameError` if a file has the name of one."""
    folders = list(_parents(path))
    files = [folder.removesuffix("/") for folder in folders]
    if any(not found.endswith("/") for found in unit.get([*folders, *files])):
        raise BadNameError(path)
    unit.add_folders(folders, now)


def _parents(path: str) -> Iterable[str]:
    """Yield the parent folders of a path, `a/` and `a/b/` of `a/b/c`."""
    steps = path.split("/")[:-1]
    return ("".join(f"{step}/" for step in steps[: count + 1]) for count in range(len(steps)))


def _find(unit: UserDataUnit, path: str) -> str:
    """Return the stored path of a file, or of a folder with a slash at its end; `ROOT` for an empty
    path. Raises `MissingError`."""
    if not path:
        return ROOT
    existing = unit.get([path, f"{path}/"])
    if not existing:
        raise MissingError(path)
    (found,) = existing
    return found


def _settings(unit: UserDataUnit) -> dict[str, Any]:
    entry = unit.get([SETTINGS]).get(SETTINGS)
    if entry is not None and entry.size > 2 * MAX_SETTINGS_BYTES:
        raise SettingsTooLargeError
    found = unit.read(SETTINGS)
    if found is None:
        return {}
    try:
        settings = codec.loads(found[1])
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        log.warning("settings_read_failed", file=SETTINGS)
        return {}
    return settings


def _new_path(name: str) -> str:
    """Return a path to write to, which is in an index. Raises `BadNameError`, `LeadsOutError`."""
    path = new_path(name)
    if len(escaped(path).encode()) > _MAX_PATH_BYTES:
        raise BadNameError(name)
    return path


def _entry_of(entry: StoredEntry, start: int = 0) -> UserDataEntry:
    is_folder = entry.path.endswith("/")
    path = entry.path.removesuffix("/")[start:]
    return UserDataEntry(path, entry.size, entry.modified, entry.created, is_folder)
