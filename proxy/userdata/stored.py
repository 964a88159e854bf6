"""Members' files and settings in the proxy's own database: a file is whole or not there.

Each change is one unit that has the member's files for itself, so that limits and names hold
whatever other replicas do at the same time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote

import structlog
from msgspec import Struct
from sqlalchemy import Connection

from proxy.storage.database import Database
from proxy.storage.members import ROOT, StoredEntry, UserDataUnit
from proxy.storage.statements import get_meta, put_meta
from proxy.storage.tables import escaped
from proxy.translate import codec
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

T = TypeVar("T")

SETTINGS = "comfy.settings.json"

#: Bytes of a path; a database's index takes no longer ones.
_LONGEST_PATH = 2000
#: Folders within folders, and bytes of a name, as most file systems have it.
MOST_STEPS, LONGEST_STEP = 100, 255


#: Bytes of the settings of a member as JSON: all are written with each change. Those of the web
#: interface take 10 to 100 KB.
MAX_SETTINGS_BYTES = 2 * 1024 * 1024
#: Up to this size the file is laid out as by ComfyUI, a setting a line.
_LAID_OUT = 64 * 1024


#: The user that a ComfyUI has from the beginning, and how many more a member may add.
DEFAULT_USER, MAX_USERS = "default", 100


class SettingsTooLargeError(LocalError):
    """The settings are, or would be, larger than `MAX_SETTINGS_BYTES`."""

    def __init__(self) -> None:
        super().__init__(
            "settings_too_large",
            f"The settings of a member have at most {MAX_SETTINGS_BYTES:,} bytes; store large data "
            f"as files in /userdata, and delete {SETTINGS} there if it is too large already.",
            kind="too_large",
        )


class LeadsOutError(Exception):
    """The name leads out of the member's folder."""


class BadNameError(Exception):
    """No file can have this name, or not there: it is too long, or a folder is in its place."""


class MissingError(Exception):
    """There is no file or folder of that name."""


class TakenError(Exception):
    """There is a file of that name, and it was not to be overwritten."""


class FullError(Exception):
    """More would be stored than the member may. `stored` is what is there, in bytes."""

    def __init__(self, stored: int) -> None:
        super().__init__(stored)
        self.stored = stored


class IsFolderError(Exception):
    """What was to be a file is a folder."""


class IsFileError(Exception):
    """What was to be a folder is a file."""


class UserDataEntry(Struct, frozen=True):
    """A file or folder: its path from the member's folder or from the one that was listed.

    Times are seconds since 1970; `created` is what the system has nearest to that.
    """

    path: str
    size: int
    modified: float
    created: float
    is_folder: bool = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def listed(self) -> dict[str, Any]:
        """Return the entry as ComfyUI's `GET /v2/userdata` lists it."""
        if self.is_folder:
            return {"name": self.name, "path": self.path, "type": "directory"}
        return {
            "name": self.name,
            "path": self.path,
            "type": "file",
            "size": self.size,
            "modified": self.modified,
        }


def parts_of(name: str) -> tuple[str, ...]:
    """The steps from the member's folder to what `name` means; none for the folder itself.

    As in ComfyUI the name is unescaped once more than the URL was. A backslash counts as a slash,
    so that the name means the same on every system. Raises `LeadsOutError` and `BadNameError`.
    """
    if "%" in name:
        name = unquote(name)
    folded = name.replace("\\", "/")
    if folded.startswith("/"):
        raise LeadsOutError(name)
    steps: list[str] = []
    for step in folded.split("/"):
        if step == "..":
            if not steps:
                raise LeadsOutError(name)
            steps.pop()
        elif step not in ("", "."):
            if "\0" in step or len(step.encode(errors="surrogatepass")) > LONGEST_STEP:
                raise BadNameError(step)
            steps.append(step)
    if len(steps) > MOST_STEPS:
        raise BadNameError(name)
    return tuple(steps)


def path_to(name: str) -> str:
    """The path of what is to be there already, empty for the member's folder itself. Raises
    `MissingError` and `LeadsOutError`."""
    try:
        return "/".join(parts_of(name))
    except BadNameError as error:
        raise MissingError(name) from error


def in_tree_order(entry: UserDataEntry) -> tuple[bool, str]:
    """The key by which a tree is sorted."""
    return not entry.is_folder, entry.name.lower()


def is_listed(path: str, *, recurse: bool) -> bool:
    """Whether a list of files has this one, by its path from the folder: no hidden ones."""
    steps = path.split("/")
    return (recurse or len(steps) == 1) and not any(step.startswith(".") for step in steps)


class StoredUserData:
    """The members' files.

    Methods raise `LeadsOutError`; `MissingError` for what is not there and could not be;
    `BadNameError` for what cannot be written there; `StorageError` when the database refuses. Where
    `most` is given, `FullError` when more than this many bytes would be stored for the member.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, member: str, name: str) -> tuple[bytes, UserDataEntry | None]:
        """A file's content, and what is known of it. Raises `IsFolderError`."""
        path = path_to(name)

        def work(unit: UserDataUnit) -> tuple[StoredEntry, bytes]:
            found = unit.read(path)
            if found is None:
                _find(unit, path)
                raise IsFolderError
            return found

        entry, data = await self._read(member, work)
        return data, _shown(entry)

    async def find(self, member: str, name: str) -> UserDataEntry | None:
        """Return what is known of a file, without its content. Raises `IsFolderError`."""
        path = path_to(name)

        def work(unit: UserDataUnit) -> StoredEntry:
            found = unit.get([path]).get(path) if path else None
            if found is None:
                _find(unit, path)
                raise IsFolderError
            return found

        return _shown(await self._read(member, work))

    async def write(
        self,
        member: str,
        name: str,
        data: bytes,
        *,
        overwrite: bool = True,
        most: int | None = None,
    ) -> UserDataEntry:
        """Write a file, whole or not at all. Raises `TakenError` unless it may `overwrite`."""
        path = _place(name)
        return await self._change(
            member, lambda unit, now: _write(unit, path, data, now, overwrite=overwrite), most=most
        )

    async def delete(self, member: str, name: str) -> None:
        """Remove a file. Raises `IsFolderError` for a folder."""
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
        most: int | None = None,
    ) -> UserDataEntry:
        """Give a file or folder another name. Raises `TakenError`, `IsFolderError`."""
        path, place = path_to(name), _place(target)
        return await self._change(
            member, lambda unit, now: _move(unit, path, place, now, overwrite=overwrite), most=most
        )

    async def files(self, member: str, name: str, *, recurse: bool) -> list[UserDataEntry]:
        """The files in a folder, by their paths from it; hidden ones are left out, as by glob."""

        def work(unit: UserDataUnit) -> list[UserDataEntry]:
            folder = _find(unit, path_to(name))
            start = 0 if folder == ROOT else len(folder)
            if not folder.endswith("/"):
                return []
            found = (_shown(entry, start) for entry in unit.below(folder))
            files = (one for one in found if not one.is_folder)
            return [one for one in files if is_listed(one.path, recurse=recurse)]

        return sorted(await self._read(member, work), key=lambda entry: entry.path)

    async def tree(self, member: str, name: str) -> list[UserDataEntry]:
        """All folders and files below a folder, by their paths from the member's. Folders come
        first, then by name in small letters. Raises `IsFileError`."""

        def work(unit: UserDataUnit) -> list[UserDataEntry]:
            folder = _find(unit, path_to(name))
            if not folder.endswith("/"):
                raise IsFileError
            return [_shown(entry) for entry in unit.below(folder)]

        return sorted(await self._read(member, work), key=in_tree_order)

    async def settings(self, member: str) -> dict[str, Any]:
        """All settings; none where the file is missing or is no JSON object."""
        return await self._read(member, _settings)

    async def setting(self, member: str, name: str) -> Any:
        """The value of one setting, or `None`."""
        return (await self.settings(member)).get(name)

    async def change_settings(
        self, member: str, changes: Mapping[str, Any], *, most: int | None = None
    ) -> None:
        """Set some settings and keep the others. Raises `SettingsTooLargeError`."""

        def work(unit: UserDataUnit, now: float) -> None:
            settings = {**_settings(unit), **changes}
            data = codec.dump_bytes(settings)
            if len(data) > MAX_SETTINGS_BYTES:
                raise SettingsTooLargeError
            if len(data) <= _LAID_OUT:
                data = json.dumps(settings, indent=4).encode()
            _write(unit, SETTINGS, data, now)

        await self._change(member, work, most=most)

    async def add_user(self, member: str, name: str) -> bool:
        """Note the name of one more user of a member; false for one that is known.

        Nothing belongs to these users: without ComfyUI's --multi-user all is the one user's.
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
        self, member: str, work: Callable[[UserDataUnit, float], T], *, most: int | None = None
    ) -> T:
        now = time.time()

        def locked(connection: Connection) -> T:
            unit = UserDataUnit(connection, member)
            unit.lock(now)
            before = unit.stored() if most is not None else 0
            done = work(unit, now)
            if most is not None and (after := unit.stored()) > before and after > most:
                raise FullError(before)
            return done

        return await self._database.write(locked)


def _write(
    unit: UserDataUnit, path: str, data: bytes, now: float, *, overwrite: bool = True
) -> UserDataEntry:
    there = unit.get([path, f"{path}/"])
    if there and not overwrite:
        raise TakenError
    if f"{path}/" in there:
        raise BadNameError(path)
    _make_folders(unit, path, now)
    return _shown(unit.put(path, data, created=now, modified=now))


def _move(
    unit: UserDataUnit, path: str, target: str, now: float, *, overwrite: bool
) -> UserDataEntry:
    source = _find(unit, path)
    there = unit.get([target, f"{target}/"])
    if there and not overwrite:
        raise TakenError
    if f"{target}/" in there:
        raise IsFolderError
    is_folder = source.endswith("/")
    if is_folder and (source == ROOT or target in there or f"{target}/".startswith(source)):
        raise BadNameError(target)
    _make_folders(unit, target, now)
    if is_folder:
        for entry in unit.below(source):
            unit.rename(entry.path, f"{target}/{entry.path.removeprefix(source)}", now)
        unit.rename(source, f"{target}/", now)
        return _shown(unit.get([f"{target}/"])[f"{target}/"])
    if target != path:
        unit.remove(target)
        unit.rename(path, target, now)
    return _shown(unit.get([target])[target])


def _make_folders(unit: UserDataUnit, path: str, now: float) -> None:
    """Make the folders above a path. Raises `BadNameError` where a file is in their place."""
    above = list(_above(path))
    if any(not one.endswith("/") for one in unit.get([*above, *(one[:-1] for one in above)])):
        raise BadNameError(path)
    unit.add_folders(above, now)


def _above(path: str) -> Iterable[str]:
    """The folders above a path, `a/` and `a/b/` of `a/b/c`."""
    steps = path.split("/")[:-1]
    return ("".join(f"{step}/" for step in steps[: count + 1]) for count in range(len(steps)))


def _find(unit: UserDataUnit, path: str) -> str:
    """The path of the file, or of the folder, that is there; `ROOT` without a path. Raises
    `MissingError`."""
    if not path:
        return ROOT
    there = unit.get([path, f"{path}/"])
    if not there:
        raise MissingError(path)
    (found,) = there
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


def _place(name: str) -> str:
    """A path to write to. Raises `BadNameError` and `LeadsOutError`."""
    path = "/".join(parts_of(name))
    if not path or len(escaped(path).encode()) > _LONGEST_PATH:
        raise BadNameError(name)
    return path


def _shown(entry: StoredEntry, start: int = 0) -> UserDataEntry:
    is_folder = entry.path.endswith("/")
    path = entry.path.removesuffix("/")[start:]
    return UserDataEntry(path, entry.size, entry.modified, entry.created, is_folder)
