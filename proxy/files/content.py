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
from proxy.files.metadata import Edits, Slice, Text, texts

#: Bytes read at once.
CHUNK = 256 * 1024
#: Bytes held back until the content is verified. Contents no longer than that are opened only
#: when they are complete.
HELD_BACK = 64 * 1024


class ContentBrokenError(Exception):
    """The rest of a content cannot be had, or what was read of it was wrong: end the answer
    without its proper end, so that the client sees that it has not got the whole."""


class Content:
    """A content that is open for reading. Close it, or forget it.

    With `edits` its size and the bytes that are read are those of the edited file; `path` and
    `hash` are those of the cloud's.
    """

    def __init__(self, origin: Lease | Fetch) -> None:
        self._fetch = origin if isinstance(origin, Fetch) else None
        self._lease = origin if isinstance(origin, Lease) else None
        path = origin.path
        assert path is not None  # noqa: S101
        self._file = os.open(path, os.O_RDONLY)
        self._close_file = weakref.finalize(self, os.close, self._file)
        self._told_size = origin.size
        self._hash = path.name if isinstance(origin, Lease) else None
        self._looked_at: int | None = None  # the generation that the texts are of
        self.edits = Edits()

    @property
    def size(self) -> int | None:
        """Length in bytes; `None` while it is arriving and the storage has not told."""
        size = self._size
        return None if size is None else size + self.edits.added

    @property
    def _size(self) -> int | None:
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

    async def texts(self) -> list[Text]:
        """The texts of a picture that name files as the cloud does, as soon as they are there."""
        while True:
            fetch = self._fetch
            if fetch is None or fetch.ended:
                return await asyncio.to_thread(self._texts, whole=True) or []
            found = self._texts(whole=False)
            if found is not None:
                self._looked_at = fetch.generation
                return found
            await fetch.changed()

    def _texts(self, *, whole: bool) -> list[Text] | None:
        available = self._size if whole or self._fetch is None else self._fetch.received
        return texts(
            lambda offset, count: os.pread(self._file, count, offset), available or 0, whole=whole
        )

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` to `stop` (excluded; the end if `None`).

        Raises `ContentBrokenError` in the place of bytes that cannot be had.
        """
        if not self.edits.edits:
            async for data in self._read_original(start, stop, last=stop):
                yield data
            return
        pieces = list(self.edits.pieces(start, stop))
        last = pieces[-1].stop if pieces and isinstance(pieces[-1], Slice) else None
        generation = self._looked_at
        if generation is None and self._fetch is not None:
            generation = self._fetch.generation
        for piece in pieces:
            if piece is pieces[-1] and not isinstance(piece, Slice):
                await self.whole()
            if self._fetch is not None and self._fetch.generation != generation:
                raise ContentBrokenError("the texts that were looked at turned out to be wrong")
            if isinstance(piece, Slice):
                async for data in self._read_original(piece.start, piece.stop, last=last):
                    yield data
            else:
                yield piece

    async def _read_original(
        self, start: int, stop: int | None, *, last: int | None
    ) -> AsyncIterator[bytes]:
        """Read from the file; what a reader wants in all ends at `last` (the end if `None`)."""
        position = start
        generation = self._fetch.generation if self._fetch is not None else 0
        while True:
            if self._fetch is not None and self._fetch.generation != generation:
                if position > start:
                    raise ContentBrokenError("the bytes that were read turned out to be wrong")
                generation = self._fetch.generation
            if self._fetch is not None and self._fetch.size not in (None, self._size):
                raise ContentBrokenError("the content is not as long as the storage had said")
            end, limit = self._extent(start, stop, last)
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

    def _extent(self, start: int, stop: int | None, last: int | None) -> tuple[int | None, int]:
        """Where the reading ends, if that is known, and how far it may go now."""
        size = self._size
        end = stop if size is None else min(size, size if stop is None else stop)
        fetch = self._fetch
        if fetch is None or fetch.lease is not None:
            assert end is not None  # noqa: S101
            return end, end
        allowed = fetch.received
        if fetch.expected is not None:
            wanted = fetch.received if size is None else min(size, size if last is None else last)
            allowed = min(allowed, wanted - HELD_BACK)
        if end is not None:
            allowed = min(allowed, end)
        return end, max(start, allowed)

    def _broken(self) -> ContentBrokenError:
        reason = self._fetch.error if self._fetch is not None else None
        return ContentBrokenError(f"the content cannot be had: {reason}")
