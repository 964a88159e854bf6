"""The input directory: files of this machine that graphs can name, as in a local ComfyUI's `input`.

They are read where they are. A file has no record in the storage; accounts get its content when
one of their jobs needs it.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeVar

import structlog
from cachetools import LRUCache

from proxy.cloud.downloads import Download
from proxy.files.blobs import BlobError
from proxy.files.cache import hash_file, read_at
from proxy.files.disk_folder import DiskFolder, FileStatus, UnusableNameError
from proxy.storage.file_tables import FileRecord
from proxy.translate.media_types import media_type

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: The account of these files; no account has this name.
ON_DISK = "/input"
#: Files that are listed of a member. A local ComfyUI lists all: its page is too slow with more.
MAX_LISTED = 20_000
#: Seconds after which a disk that does not answer has no files.
TIMEOUT = 10.0
#: Maximum seconds of one read of a file, which may wait for others. A file that is hashed has a
#: second more for each `_MIN_RATE` bytes.
READ_TIMEOUT, _MIN_RATE = 60.0, 1_000_000
#: Files whose hashes are remembered.
_REMEMBERED = 20_000
_CHUNK = 256 * 1024


class InputGoneError(BlobError):
    """Raised for a file that was deleted or changed since it was found."""


class InputDirectory:
    """The files in `folder`, as sources of contents. Nothing is written to it."""

    def __init__(self, folder: DiskFolder) -> None:
        self._folder = folder
        self._hashes: LRUCache[FileRecord, str] = LRUCache(_REMEMBERED)

    def path_of(self, member: str) -> str:
        """Return the path of a member's folder, with `/` between its parts."""
        return self._folder.path_of(member).as_posix()

    async def find(self, member: str, paths: Iterable[str]) -> dict[str, FileRecord]:
        """Return the files of a member that exist at these paths."""
        found = await self._read(self._find, member, tuple(paths))
        return {path: _record(member, path, status) for path, status in (found or {}).items()}

    async def listing(self, member: str) -> dict[str, FileRecord]:
        """Return the files of a member by path, at most `MAX_LISTED`."""
        found = await self._read(self._list, member)
        return {path: _record(member, path, status) for path, status in (found or {}).items()}

    async def has_folder(self, member: str, path: str) -> bool:
        """Return whether a member has a folder at a path."""
        return bool(await self._read(self._folder.has_folder, member, path))

    async def hash_of(self, record: FileRecord) -> str | None:
        """Return the BLAKE3 of a file in hexadecimal, `None` if it is no longer the same."""
        known = self._hashes.get(record)
        if known is None:
            seconds = READ_TIMEOUT + (record.size or 0) / _MIN_RATE
            try:
                async with asyncio.timeout(seconds):
                    known = await self._folder.run(self._hash, record.cloud_name)
            except OSError as error:  # a timeout is one
                reason = error.strerror or "timeout"
                log.warning("input_read_failed", path=record.path, reason=reason)
                return None
            except InputGoneError:
                return None
            self._hashes[record] = known
        return known

    @asynccontextmanager
    async def download(self, name: str, _: str, offset: int = 0) -> AsyncIterator[Download]:
        """Open a file from `offset` on, by the `cloud_name` of its record.

        Raises `InputGoneError`.
        """
        descriptor, size = await self._in_time(name, self._open, name, drop=_close)
        try:

            async def chunks() -> AsyncIterator[bytes]:
                position = offset
                while data := await self._in_time(name, read_at, descriptor, _CHUNK, position):
                    position += len(data)
                    yield data

            yield Download(size, chunks)
        finally:
            os.close(descriptor)

    async def _in_time(
        self,
        name: str,
        work: Callable[..., T],
        *arguments: object,
        drop: Callable[[T], object] | None = None,
    ) -> T:
        """Return what blocking `work` on a file reads, up to `READ_TIMEOUT`; `drop` gets what comes
        too late. Raises `InputGoneError`."""
        with _as_gone(name):
            async with asyncio.timeout(READ_TIMEOUT):
                return await self._folder.run(work, *arguments, drop=drop)

    async def _read(self, work: Callable[..., T], *arguments: object) -> T | None:
        """Return what blocking `work` reads, `None` where the disk does not answer."""
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._folder.run(work, *arguments)
        except OSError as error:  # a timeout is one
            log.warning("input_directory_failed", reason=error.strerror or "timeout")
            return None

    # --- in threads ------------------------------------------------------------------------------

    def _find(self, member: str, paths: Iterable[str]) -> dict[str, FileStatus]:
        found = {}
        for path in paths:
            with suppress(PermissionError):
                if (status := self._folder.status(member, path)) is not None:
                    found[path] = status
        return found

    def _list(self, member: str) -> dict[str, FileStatus]:
        return self._folder.listing(member, max_files=MAX_LISTED)

    def _open(self, name: str) -> tuple[int, int]:
        """Open the file of a record's `cloud_name`, if it is still the same. Return its descriptor
        and its size."""
        member, modified, path = name.split("/", 2)
        descriptor = self._folder.open(member, path)
        status = os.fstat(descriptor)
        if status.st_mtime_ns != int(modified):
            os.close(descriptor)
            raise InputGoneError(f"{path} has changed")
        return descriptor, status.st_size

    def _hash(self, name: str) -> str:
        with _as_gone(name):
            descriptor, _ = self._open(name)
        return hash_file(descriptor)


def _close(opened: tuple[int, int]) -> None:
    """Close what `_open` has opened."""
    os.close(opened[0])


def _record(member: str, path: str, status: FileStatus) -> FileRecord:
    return FileRecord(
        member=member,
        type="input",
        path=path,
        cloud_name=f"{member}/{status.modified_ns}/{path}",
        cloud_type="input",
        hash=None,
        size=status.size,
        media_type=media_type(posixpath.basename(path)),
        modified=status.modified_ns / 1e9,
        account=ON_DISK,
    )


@contextmanager
def _as_gone(name: str) -> Iterator[None]:
    """Raise `InputGoneError` where a file cannot be read."""
    try:
        yield
    except (OSError, UnusableNameError) as error:
        raise InputGoneError(f"{posixpath.basename(name)} cannot be read") from error
