"""A folder of this machine that other programs share, such as ComfyUI's `output` and `input`.

Without members it belongs to everybody; each member has a folder of their own in it. No name leads
out of it, not even a link: links are followed for reading alone, and only to files inside.
"""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import re
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from proxy.members.member import LOCAL
from proxy.runtime import clock, randomness, threads
from proxy.translate.names import MAX_FOLDERS, folders_of, is_storable

T = TypeVar("T")

#: Calls at once. They have threads of their own: a disk that hangs stops nothing else.
_THREADS = 4
#: Seconds after which a file that was left half written is deleted.
_PARTIAL_AGE = 3600.0

_PARTIAL = re.compile(r"\.comfy-cloud-proxy-[0-9a-f]{16}")

#: Errors that come from the name of a file, or from what is in its place.
_NAME_ERRORS = frozenset(
    {
        *(errno.EEXIST, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ELOOP),
        *(errno.ENAMETOOLONG, errno.ENOTDIR),
    }
)

#: With these a file system says that it has no `fsync`.
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})

#: With these it says that it has no hard link to a file, such as one of another file system.
_NO_LINKS = frozenset(
    {errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EXDEV}
)

_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = os.O_RDONLY | _DIRECTORY
_BINARY = getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_RELATIVE = os.open in os.supports_dir_fd


class UnusableNameError(Exception):
    """The folder cannot have a file of this name: it is no name there, or the name of a folder,
    of a symbolic link or of another file."""


class FileStatus(NamedTuple):
    """What is known of a file without reading it: bytes, and ns since 1970."""

    size: int
    modified_ns: int


class _Folder(NamedTuple):
    """An open folder: a descriptor, or where the system has none, the path before a name."""

    descriptor: int | None
    prefix: str

    def path(self, name: str) -> str:
        return self.prefix + name


class DiskFolder:
    """Files of members below `root`, by paths with `/` between their parts.

    Raises `OSError` where the disk refuses, and `UnusableNameError`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._threads = threads.pool(_THREADS, f"folder {root.name}")

    def close(self) -> None:
        """Begin nothing more; what runs is not waited for, since the disk may hang."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(
        self,
        work: Callable[..., T],
        *arguments: object,
        drop: Callable[[T], object] | None = None,
    ) -> T:
        """Return what blocking `work` returns. If cancelled, work under way continues; then `drop`
        gets what it returns, in the thread."""
        working = self._threads.submit(partial(work, *arguments))

        def ended(_: object) -> None:
            if drop is not None and not working.cancelled() and working.exception() is None:
                drop(working.result())

        try:
            return await asyncio.wrap_future(working)
        except asyncio.CancelledError:
            working.add_done_callback(ended)
            raise

    # --- in threads ------------------------------------------------------------------------------

    def write(self, member: str, path: str, pour: Callable[[int], None]) -> bool:
        """Write a file that appears as a whole, unless its name is taken; return whether it was
        written. `pour` writes the content to a descriptor. It is in at most `MAX_FOLDERS`."""
        _check_depth(path)
        with self._open(member, posixpath.dirname(path), create=True) as folder:
            name = _checked(posixpath.basename(path))
            if _status(folder, name) is not None:
                return False
            partial_ = f".comfy-cloud-proxy-{randomness.token_hex(8)}"
            at = folder.descriptor
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _BINARY
            descriptor = os.open(folder.path(partial_), flags, 0o666, dir_fd=at)
            try:
                try:
                    pour(descriptor)
                    _sync(descriptor)
                finally:
                    os.close(descriptor)
                os.replace(folder.path(partial_), folder.path(name), src_dir_fd=at, dst_dir_fd=at)
            except BaseException:
                with suppress(OSError):
                    os.unlink(folder.path(partial_), dir_fd=at)
                raise
        return True

    def link(self, member: str, path: str, source: Path) -> bool | None:
        """Make a file a hard link of a complete one, unless its name is taken; return whether it
        was made, `None` where the file systems cannot do that. It is in at most `MAX_FOLDERS`."""
        _check_depth(path)
        with self._open(member, posixpath.dirname(path), create=True) as folder:
            name = _checked(posixpath.basename(path))
            if _status(folder, name) is not None:
                return False
            try:
                os.link(source, folder.path(name), dst_dir_fd=folder.descriptor)
            except OSError as error:
                if error.errno in _NO_LINKS:
                    return None
                raise
        return True

    def status(self, member: str, path: str) -> FileStatus | None:
        """Return the size and the time of a regular file, `None` if there is none."""
        try:
            try:
                found = self._status(member, path)
            except UnusableNameError:  # perhaps because of a link
                found = self._status(member, self._resolved(member, path))
            if found is not None and stat.S_ISLNK(found.st_mode):
                found = self._status(member, self._resolved(member, path))
        except (FileNotFoundError, UnusableNameError):
            return None
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        return FileStatus(found.st_size, found.st_mtime_ns)

    def open(self, member: str, path: str) -> int:
        """Return a descriptor of a regular file, open for reading; the caller closes it."""
        try:
            descriptor = self._open_file(member, path)
        except UnusableNameError:  # perhaps because of a link
            descriptor = self._open_file(member, self._resolved(member, path))
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise UnusableNameError(path)

    def listing(self, member: str, *, max_files: int) -> dict[str, FileStatus]:
        """Return the regular files below the member's folder by path, at most `max_files`."""
        found: dict[str, FileStatus] = {}
        waiting = [""]
        for subfolder in waiting:
            try:
                with self._open(member, subfolder) as folder:
                    for entry in _entries(folder):
                        path = posixpath.join(subfolder, entry.name)
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(path)
                        elif (status := self._listed(member, path, entry)) is not None:
                            found[path] = status
                        if len(found) + len(waiting) > max_files:
                            return found
            except (FileNotFoundError, UnusableNameError):
                continue
        return found

    def has_folder(self, member: str, path: str) -> bool:
        """Return whether there is a folder at a path."""
        try:
            with self._open(member, path):
                return True
        except (FileNotFoundError, UnusableNameError):
            return False

    def names(self, member: str, subfolder: str, starts: tuple[str, ...]) -> frozenset[str]:
        """Return the names in a folder that begin with one of `starts`.

        Deletes on the way what a process that died has left half written.
        """
        try:
            with self._open(member, subfolder) as folder:
                present = [entry.name for entry in _entries(folder)]
                for name in present:
                    if _PARTIAL.fullmatch(name):
                        _delete_left(folder, name)
        except (FileNotFoundError, UnusableNameError):
            return frozenset()
        return frozenset(name for name in present if name.startswith(starts))

    def path_of(self, member: str) -> Path:
        """Return the path of a member's folder."""
        return self.root if member == LOCAL else self.root / member

    def _resolved(self, member: str, path: str) -> str:
        """Return the path of a file behind links, if that is in the member's folder, too.

        What is opened afterwards follows no links, so that one that is made meanwhile does not
        count.
        """
        for part in path.split("/"):
            _checked(part)
        inside = Path(os.path.realpath(self.path_of(member)))
        real = Path(os.path.realpath(inside / path))
        if not real.is_relative_to(inside) or real == inside:
            raise UnusableNameError(path)
        return real.relative_to(inside).as_posix()

    def _status(self, member: str, path: str) -> os.stat_result | None:
        with self._open(member, posixpath.dirname(path)) as folder:
            return _status(folder, _checked(posixpath.basename(path)))

    def _open_file(self, member: str, path: str) -> int:
        with self._open(member, posixpath.dirname(path)) as folder:
            name = folder.path(_checked(posixpath.basename(path)))
            flags = os.O_RDONLY | _NO_LINK | _NO_WAIT | _BINARY
            return os.open(name, flags, dir_fd=folder.descriptor)

    def _listed(self, member: str, path: str, entry: os.DirEntry[str]) -> FileStatus | None:
        """Return what is known of a file in a folder that is being listed."""
        with suppress(OSError):
            if entry.is_symlink():
                return self.status(member, path)
            if entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                return FileStatus(status.st_size, status.st_mtime_ns)
        return None

    @contextmanager
    def _open(self, member: str, path: str, *, create: bool = False) -> Iterator[_Folder]:
        """Open a folder below that of the member, step by step, so that no link is followed."""
        parts = [*([] if member == LOCAL else [member]), *filter(None, path.split("/"))]
        for part in parts:
            _checked(part)
        with _translated(path):
            if not _RELATIVE:
                yield _Folder(None, _checked_path(self.root, parts, create=create))
                return
            descriptor = _descend(os.open(self.root, _FOLDER), parts, create=create)
            try:
                yield _Folder(descriptor, "")
            finally:
                os.close(descriptor)


def _descend(descriptor: int, parts: Sequence[str], *, create: bool) -> int:
    """Open a folder below one, which is closed, and below that the next."""
    for part in parts:
        try:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
            inner = os.open(part, _FOLDER | _NO_LINK, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor


def _check_depth(path: str) -> None:
    if folders_of(path) > MAX_FOLDERS:
        raise UnusableNameError(f"more than {MAX_FOLDERS} nested folders")


def _checked(name: str) -> str:
    """Return a name that stands for something in the folder. Raises `UnusableNameError`."""
    if name in ("", ".", "..") or "/" in name or not is_storable(name):
        raise UnusableNameError(name)
    return name


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """Raise `UnusableNameError` for errors that come from a name."""
    try:
        yield
    except OSError as error:
        if error.errno in _NAME_ERRORS:
            raise UnusableNameError(f"{path}: {error.strerror}") from error
        raise


def _checked_path(root: Path, parts: Collection[str], *, create: bool) -> str:
    """Return the path of a folder, on systems that cannot open one relative to another."""
    path = root.resolve(strict=True)
    for part in parts:
        path /= part
        if create:
            path.mkdir(exist_ok=True)
        if path.resolve(strict=True) != path:
            raise UnusableNameError(str(path))
    return f"{path}{os.sep}"


def _sync(descriptor: int) -> None:
    """Have a file on the disk, as far as its file system can do that."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _status(folder: _Folder, name: str) -> os.stat_result | None:
    try:
        return os.stat(folder.path(name), dir_fd=folder.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _entries(folder: _Folder) -> Iterator[os.DirEntry[str]]:
    target = folder.prefix if folder.descriptor is None else folder.descriptor
    with os.scandir(target) as entries:
        yield from entries


def _delete_left(folder: _Folder, name: str) -> None:
    with suppress(OSError):
        status = _status(folder, name)
        if status is not None and clock.time() - status.st_mtime > _PARTIAL_AGE:
            os.unlink(folder.path(name), dir_fd=folder.descriptor)
