"""Contents of files that are open for reading, also during their download.

The last part that a reader asks for is held back until the hash of the whole content has been
verified, so that a reader of wrong bytes gets an error instead of the end.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

from proxy.files.cache import CacheLease, open_to_read, read_at
from proxy.files.fetch import Fetch
from proxy.files.picture_parts import Edits, Slice
from proxy.files.picture_workflows import edits_for
from proxy.files.workflow_names import MetadataText, texts

#: Bytes of one read.
CHUNK = 256 * 1024
#: Bytes held back until the content is verified. Smaller contents are opened when complete.
HELD_BACK = 64 * 1024


class ContentBrokenError(Exception):
    """Raised if the rest of a content is not available, or what was read of it was wrong.

    The answer must then be aborted, so that the client sees that it is incomplete.
    """


class Content:
    """A content that is open for reading. `close` it, or let it be garbage collected.

    With `edits` the size and the bytes are those of the edited file; `path` and the descriptor
    `file`, which may still grow, are those of the unedited one.
    """

    def __init__(self, origin: CacheLease | Fetch) -> None:
        self._fetch = origin if isinstance(origin, Fetch) else None
        self._lease = origin if isinstance(origin, CacheLease) else None
        path = origin.path
        assert path is not None  # noqa: S101
        self.file = open_to_read(path)
        self._close_file = weakref.finalize(self, os.close, self.file)
        self._origin_size = origin.size
        self._texts_generation: int | None = None  # in which the texts were read
        self.edits = Edits()

    @property
    def size(self) -> int | None:
        """The size in bytes, `None` during a download whose size is not known yet."""
        size = self._size
        return size if size is None or not self.edits.edits else size + self.edits.added

    @property
    def _size(self) -> int | None:
        if self._origin_size is None and self._fetch is not None:
            self._origin_size = self._fetch.size
        return self._origin_size

    @property
    def path(self) -> Path | None:
        """The complete file on disk, which is kept until `close`; `None` during a download."""
        lease = self._lease if self._fetch is None else self._fetch.lease
        return None if lease is None else lease.path

    async def whole(self) -> Path:
        """Wait for the complete file. Raises `ContentBrokenError`."""
        if self._fetch is not None:
            await self._fetch.wait()
        path = self.path
        if path is None:
            raise broken(self._fetch)
        return path

    async def texts(self) -> list[MetadataText]:
        """Return the texts of a picture that contain the cloud's names, as soon as they arrive."""
        while True:
            fetch = self._fetch
            if fetch is None or fetch.ended:
                return await asyncio.to_thread(texts, self._look, self._size or 0, whole=True) or []
            found = texts(self._look, fetch.received, whole=False)
            if found is not None:
                self._texts_generation = fetch.generation
                return found
            await fetch.changed.wait()

    def with_workflow(self, workflow: bytes) -> Edits:
        """Return what writes a workflow into a complete picture; blocks."""
        return edits_for(self._look, self._size or 0, workflow)

    def _look(self, offset: int, count: int) -> bytes:
        return read_at(self.file, count, offset)

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` to `stop` (excluded; the end if `None`).

        Raises `ContentBrokenError` instead of bytes that are not available.
        """
        async for piece in self.pieces(start, stop):
            if isinstance(piece, bytes):
                yield piece
                continue
            position, end = piece
            while position < end:
                data = await self._read(min(CHUNK, end - position), position)
                if not data:
                    raise ContentBrokenError("the file on disk is shorter than it was")
                position += len(data)
                yield data

    async def pieces(
        self, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes | tuple[int, int]]:
        """Yield what the bytes from `start` to `stop` are made of, as they arrive: parts of `file`
        (from, to), and bytes of what has just arrived and instead of what is edited.

        Raises `ContentBrokenError` instead of bytes that are not available.
        """
        if not self.edits.edits:
            async for part in self._parts(start, stop, last=stop):
                yield part
            return
        pieces = list(self.edits.pieces(start, stop))
        last = pieces[-1].stop if pieces and isinstance(pieces[-1], Slice) else None
        fetch, generation = self._fetch, self._texts_generation
        if generation is None and fetch is not None:
            generation = fetch.generation
        for piece in pieces:
            if piece is pieces[-1] and not isinstance(piece, Slice):
                await self.whole()
            if fetch is not None and fetch.generation != generation:
                raise ContentBrokenError("the texts that were read turned out to be wrong")
            if isinstance(piece, Slice):
                async for part in self._parts(piece.start, piece.stop, last=last):
                    yield part
            else:
                yield piece

    async def _parts(
        self, start: int, stop: int | None, *, last: int | None
    ) -> AsyncIterator[bytes | tuple[int, int]]:
        """Yield parts of the file that may be read, or the bytes of one that has just arrived.

        What a reader wants in all ends at `last` (the end if `None`).
        """
        position, fetch = start, self._fetch
        generation = 0 if fetch is None else fetch.generation
        while True:
            if fetch is not None and fetch.generation != generation:
                if position > start:
                    raise ContentBrokenError("the bytes that were read turned out to be wrong")
                generation = fetch.generation
            size = self._size
            if fetch is not None and fetch.size not in (None, size):
                raise ContentBrokenError(
                    "the content does not have the size that the storage reported"
                )
            end, limit = self._extent(size, start, stop, last)
            if position < limit:
                part = b"" if fetch is None else fetch.arrived(position, limit)
                yield part or (position, limit)
                position = limit
            elif end is not None and position >= end:
                return
            elif fetch is None or fetch.ended:
                raise broken(self._fetch)
            else:
                await fetch.changed.wait()

    def close(self) -> None:
        """Close the file, and release the content."""
        self._close_file()
        self._fetch = None
        if self._lease is not None:
            self._lease.release()

    async def _read(self, length: int, position: int) -> bytes:
        """Read on the event loop what has just arrived and is in memory, otherwise in a thread."""
        if self._fetch is not None and (not self._fetch.ended or length <= HELD_BACK):
            return read_at(self.file, length, position)
        return await asyncio.to_thread(read_at, self.file, length, position)

    def _extent(
        self, size: int | None, start: int, stop: int | None, last: int | None
    ) -> tuple[int | None, int]:
        """Return the end of the reading, `None` if it is unknown, and how far it may go now."""
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


def broken(fetch: Fetch | None) -> ContentBrokenError:
    """Return the error of a content that a download did not bring."""
    reason = None if fetch is None else fetch.error
    return ContentBrokenError(f"the content is not available: {reason}")
