"""User data in the proxy's own database: files that are whole or not there, settings beside them.

Each change is one unit that has the member's files for itself, so that limits and names hold
whatever other replicas do at the same time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import structlog

from proxy.storage.members import ROOT, StoredEntry, UserDataRepository, UserDataUnit
from proxy.storage.tables import escaped
from proxy.translate import codec
from proxy.userdata.base import (
    BadNameError,
    FullError,
    IsFileError,
    IsFolderError,
    MissingError,
    TakenError,
    UserDataEntry,
    in_tree_order,
    is_listed,
    parts_of,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")

SETTINGS = "comfy.settings.json"

#: Bytes of a path; a database's index takes no longer ones.
_LONGEST_PATH = 2000


class StoredUserData:
    """The members' files. Everything raises `StorageError` when the database refuses.

    `now` gives seconds since 1970.
    """

    def __init__(
        self, repository: UserDataRepository, *, now: Callable[[], float] = time.time
    ) -> None:
        self._repository = repository
        self._now = now

    async def read(self, member: str, name: str) -> tuple[bytes, UserDataEntry | None]:
        """A file's content, and what is known of it. Raises `IsFolderError`."""
        path = _there(name)

        def work(unit: UserDataUnit) -> tuple[StoredEntry, bytes]:
            found = None if path == ROOT else unit.read(path)
            if found is None:
                _find(unit, path)
                raise IsFolderError
            return found

        entry, data = await self._repository.read(member, work)
        return data, _shown(entry)

    async def write(
        self,
        member: str,
        name: str,
        data: bytes,
        *,
        overwrite: bool = True,
        most: int | None = None,
    ) -> UserDataEntry:
        """Write a file, whole or not at all; no more than `most` bytes may be stored then.

        Raises `TakenError` unless it may `overwrite`, `FullError`.
        """
        path = _place(name)
        return await self._change(
            member,
            lambda unit, now: _write(unit, path, data, now, overwrite=overwrite),
            most=most,
        )

    async def delete(self, member: str, name: str) -> None:
        """Remove a file. Raises `IsFolderError` for a folder."""
        path = _there(name)

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
        """Give a file or folder another name. Raises `TakenError`, `IsFolderError`, `FullError`."""
        path, there = _there(name), _place(target)
        return await self._change(
            member, lambda unit, now: _move(unit, path, there, now, overwrite=overwrite), most=most
        )

    async def files(self, member: str, name: str, *, recurse: bool) -> list[UserDataEntry]:
        """The files in a folder, by their paths from it; hidden ones are left out, as by glob."""

        def work(unit: UserDataUnit) -> list[UserDataEntry]:
            folder = _find(unit, _there(name))
            start = 0 if folder == ROOT else len(folder)
            if not folder.endswith("/"):
                return []
            found = (_shown(entry, start) for entry in unit.below(folder))
            files = (one for one in found if not one.is_folder)
            return [one for one in files if is_listed(one.path, recurse=recurse)]

        return sorted(await self._repository.read(member, work), key=lambda entry: entry.path)

    async def tree(self, member: str, name: str) -> list[UserDataEntry]:
        """All folders and files below a folder, by their paths from the member's.

        Folders come first, then by name in small letters. Raises `IsFileError`.
        """

        def work(unit: UserDataUnit) -> list[UserDataEntry]:
            folder = _find(unit, _there(name))
            if not folder.endswith("/"):
                raise IsFileError
            return [_shown(entry) for entry in unit.below(folder)]

        return sorted(await self._repository.read(member, work), key=in_tree_order)

    async def settings(self, member: str) -> dict[str, Any]:
        """All settings; none where the file is missing or is no JSON object."""
        return await self._repository.read(member, _settings)

    async def setting(self, member: str, name: str) -> Any:
        """The value of one setting, or `None`."""
        return (await self.settings(member)).get(name)

    async def change_settings(
        self, member: str, changes: Mapping[str, Any], *, most: int | None = None
    ) -> None:
        """Set some settings and keep the others. Raises `FullError`."""

        def work(unit: UserDataUnit, now: float) -> None:
            data = json.dumps({**_settings(unit), **changes}, indent=4).encode()
            _write(unit, SETTINGS, data, now)

        await self._change(member, work, most=most)

    async def _change(
        self, member: str, work: Callable[[UserDataUnit, float], T], *, most: int | None = None
    ) -> T:
        now = self._now()

        def locked(unit: UserDataUnit) -> T:
            unit.lock(now)
            before = unit.stored() if most is not None else 0
            done = work(unit, now)
            if most is not None and (after := unit.stored()) > before and after > most:
                raise FullError(before)
            return done

        return await self._repository.write(member, locked)


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
    """The path of the file, or of the folder, that is there. Raises `MissingError`."""
    if path == ROOT:
        return ROOT
    there = unit.get([path, f"{path}/"])
    if not there:
        raise MissingError(path)
    (found,) = there
    return found


def _settings(unit: UserDataUnit) -> dict[str, Any]:
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


def _there(name: str) -> str:
    """The path of what is to be there already. Raises `MissingError` and `LeadsOutError`."""
    try:
        return "/".join(parts_of(name)) or ROOT
    except BadNameError as error:
        raise MissingError(name) from error


def _shown(entry: StoredEntry, start: int = 0) -> UserDataEntry:
    is_folder = entry.path.endswith("/")
    path = entry.path.removesuffix("/")[start:]
    return UserDataEntry(path, entry.size, entry.modified, entry.created, is_folder)
