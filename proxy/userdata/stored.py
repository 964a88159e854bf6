"""Members' files and settings in the proxy's database.

Each change is one transaction that locks the member's files, so that limits and names hold, but for
a folder with many files that is moved, and for settings, which are read before they are changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection

from proxy.runtime import clock
from proxy.sharing.turns import Turns, thread_turns
from proxy.storage.database import Database
from proxy.storage.statements import get_meta, put_meta
from proxy.storage.tables import escaped
from proxy.storage.userdata import PAGE, ROOT, StoredEntry, UserDataUnit
from proxy.translate import codec
from proxy.translate.errors import LocalError
from proxy.userdata import units
from proxy.userdata.entries import (
    BadNameError,
    IsFileError,
    IsFolderError,
    UserDataEntry,
    in_tree_order,
    is_listed,
    path_to,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")

SETTINGS = "comfy.settings.json"

#: Maximum bytes of a member's settings as JSON: all are written with each change. Those of the web
#: interface take 10 to 100 KB.
MAX_SETTINGS_BYTES = 2 * 1024 * 1024
#: Maximum bytes up to which settings are indented, as by ComfyUI.
_MAX_INDENTED_BYTES = 64 * 1024

#: The user that a ComfyUI always has, and how many more a member may add.
DEFAULT_USER, MAX_USERS = "default", 100

#: Bytes of a listed file or folder in memory, without its path.
_ENTRY_BYTES = 600


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

    def __init__(self, database: Database, turns: Turns | None = None) -> None:
        self._database = database
        #: The turns of members at work on what is read.
        self._turns = turns or thread_turns()
        #: Members whose settings change, each once at a time.
        self._changing = Turns(1)
        #: Members whose settings are read, so that few of them are in memory.
        self._reading = Turns(1)

    async def read(self, member: str, name: str) -> tuple[bytes, UserDataEntry]:
        """Return a file's content and its entry. Raises `IsFolderError`."""
        path = path_to(name)

        def work(unit: UserDataUnit) -> tuple[StoredEntry, bytes]:
            found = unit.read(path)
            if found is None:
                units.find(unit, path)
                raise IsFolderError
            return found

        entry, data = await self._read(member, work)
        return data, units.entry_of(entry)

    async def find(self, member: str, name: str) -> UserDataEntry:
        """Return a file's entry, without its content. Raises `IsFolderError`."""
        path = path_to(name)

        def work(unit: UserDataUnit) -> StoredEntry:
            found = unit.get([path]).get(path) if path else None
            if found is None:
                units.find(unit, path)
                raise IsFolderError
            return found

        return units.entry_of(await self._read(member, work))

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
        path = units.new_path_of(name)
        return await self._change(
            member,
            lambda unit, now: units.write(unit, path, data, now, overwrite=overwrite),
            max_bytes=max_bytes,
        )

    async def delete(self, member: str, name: str) -> None:
        """Delete a file. Raises `IsFolderError`."""
        path = path_to(name)

        def work(unit: UserDataUnit, _: float) -> None:
            if units.find(unit, path).endswith("/"):
                raise IsFolderError
            unit.remove([unit.get([path])[path]])

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
        """Rename a file or folder. Raises `TakenError`, `IsFolderError`.

        A folder with many files moves in several transactions: until the last one, readers find
        some of them at their old paths. A file whose new path is written meanwhile stays where it
        is, as does the rest of the folder if the process ends.
        """
        path, new_path = path_to(name), units.new_path_of(target)
        await self._check_move(member, path, new_path)
        now = clock.time()
        moved: UserDataEntry | None = None

        def part(connection: Connection, after: str) -> str | None:
            nonlocal moved
            with units.locked(connection, member, now, max_bytes) as unit:
                if after != path:
                    return units.move_some(unit, f"{path}/", f"{new_path}/", after, now)
                moved = units.begin_move(unit, path, new_path, now, overwrite=overwrite)
                return f"{path}/" if moved.is_folder else None

        await self._database.write_in_slices(part, path)
        assert moved is not None  # noqa: S101 (the first part has set it)
        return moved

    async def _check_move(self, member: str, path: str, target: str) -> None:
        """Check that all paths below a folder fit into an index below another one. Raises
        `BadNameError`."""
        longer = len(escaped(target).encode()) - len(escaped(path).encode())
        if longer > 0 and path:
            _, entries = await self._below(member, path)
            if any(
                len(escaped(entry.path).encode()) + longer > units.MAX_PATH_BYTES
                for entry in entries
            ):
                raise BadNameError(target)

    async def files(
        self, member: str, name: str, *, recurse: bool, reserve: Callable[[int], object] = int
    ) -> list[UserDataEntry]:
        """Return the files in a folder, with paths relative to it, without hidden ones.

        `reserve` is called with the bytes of all that is read before more is; files that are added
        or removed meanwhile may be there or not.
        """
        folder, stored = await self._below(member, path_to(name), reserve)
        start = 0 if folder == ROOT else len(folder)

        def listed() -> list[UserDataEntry]:
            entries = (units.entry_of(entry, start) for entry in stored if not entry.is_folder)
            return [entry for entry in entries if is_listed(entry.path, recurse=recurse)]

        return await self._made(member, len(stored), listed)

    async def tree(
        self, member: str, name: str, *, reserve: Callable[[int], object] = int
    ) -> list[UserDataEntry]:
        """Return all folders and files below a folder, with paths from the member's folder, in the
        order of `in_tree_order`, and `reserve` as `files` does. Raises `IsFileError`."""
        folder, stored = await self._below(member, path_to(name), reserve)
        if not folder.endswith("/"):
            raise IsFileError
        return await self._made(
            member, len(stored), lambda: sorted(map(units.entry_of, stored), key=in_tree_order)
        )

    async def settings(self, member: str) -> dict[str, Any]:
        """Return all settings; none if the file is missing or is not a JSON object."""
        return _settings_of(await self._settings(member))

    async def settings_json(
        self, member: str, name: str | None = None, *, reserve: Callable[[int], object] = int
    ) -> bytes:
        """Return all settings, or the value of one, `null` without it, as JSON. `reserve` is called
        with the bytes of all before they are read."""

        def encode(data: bytes | None) -> bytes:
            settings = _settings_of(data)
            return codec.dump_bytes(settings if name is None else settings.get(name))

        async with self._reading.hold(member):
            data = await self._settings(member, reserve)
            return await self._made(member, len(data or b""), partial(encode, data))

    async def change_settings(
        self, member: str, changes: Mapping[str, Any], *, max_bytes: int | None = None
    ) -> None:
        """Set some settings, and leave the others unchanged. Raises `SettingsTooLargeError`."""

        def work(unit: UserDataUnit, now: float) -> bool:
            found = unit.read(SETTINGS)
            if (None if found is None else found[1]) != before:
                return False
            units.write(unit, SETTINGS, data, now)
            return True

        async with self._changing.hold(member):
            written = False
            while not written:  # unless the file was written meanwhile
                before = await self._settings(member)
                data = await self._turns.run(member, partial(_changed, before, changes))
                written = await self._change(member, work, max_bytes=max_bytes)

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

    async def _below(
        self, member: str, path: str, reserve: Callable[[int], object] = int
    ) -> tuple[str, Sequence[StoredEntry]]:
        """Return a folder as it is stored and all that is below it, read in pages; of a file, its
        path alone."""

        def first(unit: UserDataUnit) -> tuple[str, list[StoredEntry]]:
            folder = units.find(unit, path)
            return folder, unit.below(folder) if folder.endswith("/") else []

        folder, found = await self._read(member, first)
        size, page = 0, found
        while len(page) == PAGE:
            size += sum(_ENTRY_BYTES + 2 * len(entry.path) for entry in page)
            reserve(size)
            rest = partial(UserDataUnit.below, folder=folder, after=page[-1].path)
            page = await self._read(member, rest)
            found += page
        return folder, found

    async def _settings(self, member: str, reserve: Callable[[int], object] = int) -> bytes | None:
        entry = (await self._read(member, lambda unit: unit.get([SETTINGS]))).get(SETTINGS)
        if entry is None:
            return None
        if entry.size > 2 * MAX_SETTINGS_BYTES:
            raise SettingsTooLargeError
        reserve(entry.size)
        found = await self._read(member, lambda unit: unit.read(SETTINGS))
        return None if found is None else found[1]

    async def _made(self, member: str, size: int, work: Callable[[], T]) -> T:
        """Return the result of work on so many rows or bytes, in a thread if they are many."""
        return work() if size <= PAGE else await self._turns.run(member, work)

    async def _change(
        self, member: str, work: Callable[[UserDataUnit, float], T], *, max_bytes: int | None = None
    ) -> T:
        now = clock.time()

        def locked(connection: Connection) -> T:
            with units.locked(connection, member, now, max_bytes) as unit:
                return work(unit, now)

        return await self._database.write(locked)


def _settings_of(data: bytes | None) -> dict[str, Any]:
    """Return the settings in a file; none if there is none, or it is not a JSON object."""
    if data is None:
        return {}
    try:
        settings = codec.loads(data)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        log.warning("settings_read_failed", file=SETTINGS)
        return {}
    return settings


def _changed(data: bytes | None, changes: Mapping[str, Any]) -> bytes:
    """Return the file of settings with some changes. Raises `SettingsTooLargeError`."""
    settings = {**_settings_of(data), **changes}
    changed = codec.dump_bytes(settings)
    if len(changed) > MAX_SETTINGS_BYTES:
        raise SettingsTooLargeError
    if len(changed) <= _MAX_INDENTED_BYTES:
        changed = json.dumps(settings, indent=4).encode()
    return changed
