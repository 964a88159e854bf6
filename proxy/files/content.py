"""The bytes of a file, to be read while they are still arriving.

No byte is passed on that fails the hash: of a content that is still arriving the last part that
a reader asked for is held back until the whole has been verified, so that a reader of wrong bytes
gets an error in the place of the end and can tell its client so.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

from proxy.files.cache import Lease
from proxy.files.download import Fetch

#: Bytes read at once.
CHUNK = 256 * 1024
#: Bytes held back until the content is verified. Contents no longer than that are opened only
#: when they are complete.
HELD_BACK = 64 * 1024


class ContentBrokenError(Exception):
    """The rest of a content cannot be had, or what was read of it was wrong: end the answer
    without its proper end, so that the client sees that it has not got the whole."""


class Content:
    """A content that is open for reading. Close it, or forget it."""

    def __init__(self, origin: Lease | Fetch) -> None:
        self._fetch = origin if isinstance(origin, Fetch) else None
        self._lease = origin if isinstance(origin, Lease) else None
        path = origin.path
        assert path is not None  # noqa: S101
        self._file = os.open(path, os.O_RDONLY)
        self._close_file = weakref.finalize(self, os.close, self._file)
        self._told_size = origin.size
        self._hash = path.name if isinstance(origin, Lease) else None

    @property
    def size(self) -> int | None:
        """Length in bytes; `None` while it is arriving and the storage has not told."""
        if self._told_size is None and self._fetch is not None:
            self._told_size = self._fetch.size
        return self._told_size

    @property
    def hash(self) -> str | None:
        """BLAKE3 in hexadecimal, once the content is complete."""
        return self._hash if self._fetch is None else self._fetch.hash

    @property
    def path(self) -> Path | None:
        """The complete file on disk, which stays there until this is closed; `None` before."""
        lease = self._lease if self._fetch is None else self._fetch.lease
        return None if lease is None else lease.path

    async def whole(self) -> Path:
        """Wait for the complete file. Raises `ContentBrokenError`."""
        while self._fetch is not None and not self._fetch.ended:
            await self._fetch.changed()
        path = self.path
        if path is None:
            raise self._broken()
        return path

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` to `stop` (excluded; the end if `None`).

        Raises `ContentBrokenError` in the place of bytes that cannot be had.
        """
        position = start
        generation = self._fetch.generation if self._fetch is not None else 0
        while True:
            if self._fetch is not None and self._fetch.generation != generation:
                if position > start:
                    raise ContentBrokenError("the bytes that were read turned out to be wrong")
                generation = self._fetch.generation
            if self._fetch is not None and self._fetch.size not in (None, self.size):
                raise ContentBrokenError("the content is not as long as the storage had said")
            end, limit = self._extent(start, stop)
            if position < limit:
                length = min(CHUNK, limit - position)
                data = await self._read(length, position)
                if self._fetch is not None and self._fetch.generation != generation:
                    continue
                if not data:
                    raise ContentBrokenError("the file on disk is shorter than it was")
                position += len(data)
                yield data
            elif end is not None and position >= end:
                return
            else:
                fetch = self._fetch
                if fetch is None or fetch.ended:
                    raise self._broken()
                await fetch.changed()

    def close(self) -> None:
        """Let go of the file; reading is over."""
        self._close_file()
        self._fetch = None
        if self._lease is not None:
            self._lease.release()

    async def _read(self, length: int, position: int) -> bytes:
        """What has just arrived is in memory; what has lain there for long may not be."""
        if self._fetch is not None and (not self._fetch.ended or length <= HELD_BACK):
            return os.pread(self._file, length, position)
        return await asyncio.to_thread(os.pread, self._file, length, position)

    def _extent(self, start: int, stop: int | None) -> tuple[int | None, int]:
        """Where the reading ends, if that is known, and how far it may go now."""
        size = self.size
        end = stop if size is None else min(size, size if stop is None else stop)
        fetch = self._fetch
        if fetch is None or fetch.lease is not None:
            assert end is not None  # noqa: S101
            return end, end
        allowed = fetch.received
        if fetch.expected is not None:
            last = fetch.received if size is None else min(size, end or 0)
            allowed = min(allowed, last - HELD_BACK)
        if end is not None:
            allowed = min(allowed, end)
        return end, max(start, allowed)

    def _broken(self) -> ContentBrokenError:
        reason = self._fetch.error if self._fetch is not None else None
        return ContentBrokenError(f"the content cannot be had: {reason}")
