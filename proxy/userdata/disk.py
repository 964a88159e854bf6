"""User data on the proxy's disk: files that are whole or not there, settings beside them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from proxy.storage.database import StorageError
from proxy.translate import codec
from proxy.userdata.base import (
    DRAFT,
    BadNameError,
    Entry,
    IsFileError,
    IsFolderError,
    LeadsOutError,
    TakenError,
    in_tree_order,
    member_folder,
    parts_of,
)

log = structlog.get_logger(__name__)

FILE = "comfy.settings.json"

#: What a file or a folder takes on a disk at least, in bytes.
BLOCK = 4096

#: What the system says when the name is at fault and not the disk.
_FAULTS_OF_NAMES = frozenset(
    {
        errno.EEXIST,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
    }
)


class Disk:
    """A folder, made when it is first needed.

    Methods raise `LeadsOutError`; `FileNotFoundError` for what is not there and could not be;
    `BadNameError` for what cannot be written there; and `StorageError` when the disk refuses.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._changing = threading.Lock()
        self._stored: int | None = None  # counted when it is first asked for

    def find(self, name: str) -> Path:
        """Where the file or folder of that name is."""
        return self._found(name)[0]

    def read(self, name: str) -> bytes:
        """A file's content."""
        path, _ = self._found(name)
        with _told():
            return path.read_bytes()

    def write(self, name: str, data: bytes, *, overwrite: bool = True) -> Entry:
        """Write a file, whole or not at all. Raises `TakenError` unless it may `overwrite`."""
        path, steps = self._place(name)
        if not steps:
            raise BadNameError(name)
        with _told():
            return self._write(path, steps, data, overwrite=overwrite)

    def usage(self, name: str) -> tuple[int, int]:
        """The bytes that everything takes, and how many a file of the name would take the place of.

        A file or a folder counts as a block at least. Folders that a write would make are
        subtracted from the second number, which may be negative.
        """
        path, _ = self._place(name)
        with _told(), self._changing:
            if self._stored is None:
                entries = self._walk(self._root, (), recurse=True, hidden=True)
                self._stored = sum(map(_taken, entries))
            return self._stored, _taken_at(path) - BLOCK * _missing_folders(path)

    def _write(self, path: Path, steps: tuple[str, ...], data: bytes, *, overwrite: bool) -> Entry:
        if not overwrite and os.path.lexists(path):
            raise TakenError
        self._make_folders(path)
        number, name = tempfile.mkstemp(prefix=DRAFT, dir=path.parent)
        draft = Path(name)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with self._changing:
                if not overwrite and os.path.lexists(path):
                    raise TakenError
                before = _taken_at(path)
                draft.replace(path)
                self._count(_taken_at(path) - before)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        _settle(path.parent)
        return _entry(path, steps)

    def delete(self, name: str) -> None:
        """Remove a file. Raises `IsFolderError` for a folder."""
        path, _ = self._found(name)
        with _told():
            if path.is_dir() and not path.is_symlink():
                raise IsFolderError
            with self._changing:
                before = _taken_at(path)
                path.unlink()
                self._count(-before)
            _settle(path.parent)

    def move(self, name: str, target: str, *, overwrite: bool = True) -> Entry:
        """Give a file or folder another name. Raises `TakenError` and `IsFolderError`."""
        source, _ = self._found(name)
        path, steps = self._place(target)
        with _told():
            self._make_folders(path)
            with self._changing:
                if not overwrite and os.path.lexists(path):
                    raise TakenError
                if path.is_dir():
                    raise IsFolderError
                before = 0 if path == source else _taken_at(path)
                _rename(source, path)
                self._count(-before)
            _settle(path.parent)
            _settle(source.parent)
            return _entry(path, steps)

    def files(self, name: str, *, recurse: bool) -> list[Entry]:
        """The files in a folder, by their paths from it; hidden ones are left out, as by glob."""
        top, _ = self._found(name)
        with _told():
            found = self._walk(top, (), recurse=recurse, hidden=False)
            return sorted(
                (entry for entry in found if not entry.is_folder), key=lambda entry: entry.path
            )

    def tree(self, name: str) -> list[Entry]:
        """All folders and files below a folder, by their paths from the member's.

        Folders come first, then by name in small letters. Raises `IsFileError`.
        """
        top, steps = self._found(name)
        with _told():
            if not top.is_dir():
                raise IsFileError
            found = self._walk(top, steps, recurse=True, hidden=True)
            return sorted(found, key=in_tree_order)

    def tidy(self) -> None:
        """Remove what a process that was killed had begun to write."""
        for folder, _, names in os.walk(self._root):
            for name in names:
                if name.startswith(DRAFT):
                    with suppress(OSError):
                        Path(folder, name).unlink()

    def _make_folders(self, path: Path) -> None:
        """Make the folders above a path."""
        with self._changing:
            missing = _missing_folders(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._count(BLOCK * missing)

    def _count(self, more: int) -> None:
        if self._stored is not None:
            self._stored += more

    def _found(self, name: str) -> tuple[Path, tuple[str, ...]]:
        """The place of what is there, and its steps."""
        try:
            path, steps = self._place(name)
            with _told():
                path.lstat()
        except BadNameError as error:
            raise FileNotFoundError(name) from error
        return path, steps

    def _place(self, name: str) -> tuple[Path, tuple[str, ...]]:
        """A path that lies in the folder whatever links there are on the way, and its steps."""
        steps = parts_of(name)
        with _told():
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = self._root.joinpath(*steps)
            if not self._holds(path):
                raise LeadsOutError(name)
        return path, steps

    def _holds(self, path: str | Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self._root))

    def _walk(
        self, top: Path, steps: tuple[str, ...], *, recurse: bool, hidden: bool
    ) -> Iterator[Entry]:
        waiting = [(top, steps)]
        while waiting:
            folder, above = waiting.pop()
            try:
                children = list(os.scandir(folder))
            except (NotADirectoryError, FileNotFoundError):
                continue
            for child in children:
                if child.name.startswith(DRAFT) or (not hidden and child.name.startswith(".")):
                    continue
                if child.is_symlink() and not self._holds(child.path):
                    continue
                below = (*above, child.name)
                with suppress(FileNotFoundError):
                    yield _entry(Path(child.path), below)
                if recurse and child.is_dir(follow_symlinks=False):
                    waiting.append((Path(child.path), below))


@contextmanager
def _told() -> Iterator[None]:
    """Say what the system's errors mean here."""
    try:
        yield
    except ValueError as error:
        raise BadNameError(str(error)) from error
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise
        if error.errno in _FAULTS_OF_NAMES:
            raise BadNameError(str(error.strerror)) from error
        raise StorageError(f"user data: {error.strerror}") from error


def _entry(path: Path, steps: tuple[str, ...]) -> Entry:
    found = path.stat()
    return Entry(
        path="/".join(steps) or ".",
        size=found.st_size,
        modified=found.st_mtime,
        created=found.st_ctime,
        is_folder=path.is_dir(),
    )


def _taken(entry: Entry) -> int:
    """What an entry counts for; of what is in a folder its own entries tell."""
    return BLOCK if entry.is_folder else max(entry.size, BLOCK)


def _taken_at(path: Path) -> int:
    """What the file at a path counts for, 0 if there is none."""
    return max(path.lstat().st_size, BLOCK) if os.path.lexists(path) and not path.is_dir() else 0


def _missing_folders(path: Path) -> int:
    missing = 0
    for folder in path.parents:
        if folder.exists():
            break
        missing += 1
    return missing


def _rename(source: Path, path: Path) -> None:
    try:
        source.replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(source, path)


def _settle(folder: Path) -> None:
    """Have a folder's names on the disk, where the system can be asked to."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class SettingsFile:
    """The settings on a disk. Methods raise `StorageError` when it refuses."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._changing = threading.Lock()

    def read(self) -> dict[str, Any]:
        """All settings; none where the file is missing or is no JSON object."""
        try:
            settings = codec.loads(self._disk.read(FILE))
        except FileNotFoundError:
            return {}
        except (ValueError, BadNameError):
            settings = None
        if not isinstance(settings, dict):
            log.warning("settings_read_failed", file=FILE)
            return {}
        return settings

    def change(self, changes: Mapping[str, Any]) -> None:
        """Set some and keep the others."""
        with self._changing:
            settings = {**self.read(), **changes}
            self._disk.write(FILE, json.dumps(settings, indent=4).encode())


class UserDataOnDisk:
    """The members' folders below `folder`. Methods raise what those of `Disk` raise."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._members: dict[str, tuple[Disk, SettingsFile]] = {}

    async def start(self) -> None:
        """Remove what a process that was killed had begun to write."""
        await asyncio.to_thread(Disk(self._folder).tidy)

    async def read(self, member: str, name: str) -> Path:
        """Where a file or folder is."""
        return await asyncio.to_thread(self._disk(member).find, name)

    async def usage(self, member: str, name: str = FILE) -> tuple[int, int]:
        """The bytes that a member has stored, and how many a write to `name` takes the place of."""
        return await asyncio.to_thread(self._disk(member).usage, name)

    async def write(self, member: str, name: str, data: bytes, *, overwrite: bool = True) -> Entry:
        """Write a file, whole or not at all."""
        return await asyncio.to_thread(self._disk(member).write, name, data, overwrite=overwrite)

    async def delete(self, member: str, name: str) -> None:
        """Remove a file."""
        await asyncio.to_thread(self._disk(member).delete, name)

    async def move(self, member: str, name: str, target: str, *, overwrite: bool = True) -> Entry:
        """Give a file another name."""
        return await asyncio.to_thread(self._disk(member).move, name, target, overwrite=overwrite)

    async def files(self, member: str, name: str, *, recurse: bool) -> list[Entry]:
        """The files in a folder, by their paths from it."""
        return await asyncio.to_thread(self._disk(member).files, name, recurse=recurse)

    async def tree(self, member: str, name: str) -> list[Entry]:
        """All folders and files below a folder, by their paths from the member's."""
        return await asyncio.to_thread(self._disk(member).tree, name)

    async def settings(self, member: str) -> dict[str, Any]:
        """All settings of the member."""
        return await asyncio.to_thread(self._of(member)[1].read)

    async def setting(self, member: str, name: str) -> Any:
        """The value of one setting, or `None`."""
        return (await self.settings(member)).get(name)

    async def change_settings(self, member: str, changes: Mapping[str, Any]) -> None:
        """Set some settings and keep the others."""
        await asyncio.to_thread(self._of(member)[1].change, changes)

    def _disk(self, member: str) -> Disk:
        return self._of(member)[0]

    def _of(self, member: str) -> tuple[Disk, SettingsFile]:
        if member not in self._members:
            disk = Disk(self._folder / member_folder(member))
            self._members[member] = disk, SettingsFile(disk)
        return self._members[member]
