"""Contents on their way: from the cloud into the cache, and to readers while they arrive.

However many want a content, it is one download. The bytes go to a file on disk; readers follow it
as it grows and never slow it down or stop it. A connection that breaks is resumed where it broke;
contents that turn out wrong are fetched again from the start. What the cloud refuses is refused:
its client has been patient already.

No byte is passed on that fails the hash: of a content that is still arriving the last part that
a reader asked for is held back until the whole has been verified, so that a reader of wrong bytes
gets an error instead of the end and can tell its client so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import structlog
from blake3 import blake3

from proxy.cloud.errors import CloudError, CloudRefused
from proxy.files.blobs import BlobError
from proxy.files.cache import Cache, CacheLease
from proxy.files.descriptors import open_to_read, read_at
from proxy.files.metadata import Edits, MetadataText, Slice, texts
from proxy.supervisor import Supervisor

_log = structlog.get_logger(__name__)

#: Waits in seconds before another try, for tries in a row that brought no byte.
PAUSES = (0.1, 0.4, 1.5)
#: How often a content is fetched from its start before it is given up as wrong.
WRONG_LIMIT = 3
#: How many answers a content may be pieced together from.
TRIES = 100


class ContentWrongError(Exception):
    """The cloud's storage delivered bytes that are not the content, again and again."""


class Arriving(Protocol):
    """A content as its source gives it, from `offset` on; `size` is that of the whole in bytes."""

    offset: int
    size: int | None

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come. Raises `CloudError`, `BlobError`."""


class DownloadSource(Protocol):
    """A client of an account, or the store of blobs."""

    def download(
        self,
        cloud_name: str,
        /,
        *,
        type: str,  # noqa: A002
        offset: int = 0,
    ) -> AbstractAsyncContextManager[Arriving]:
        """A content from `offset` on. Raises `CloudError`, `BlobError`."""


class Fetch:
    """A content of an account on its way into the cache.

    `expected` is its BLAKE3 in hexadecimal if the cloud's name tells it, else `None`: then nothing
    but its length can be checked. `generation` counts how often the bytes had to be thrown away;
    what was read in an earlier generation is void.
    """

    def __init__(
        self,
        source: DownloadSource,
        cache: Cache,
        account: str,
        cloud_name: str,
        type_: str,
        expected: str | None,
    ) -> None:
        self.account = account
        self.cloud_name = cloud_name
        self.expected = expected
        self.generation = 0
        self.received = 0
        self.size: int | None = None
        self.lease: CacheLease | None = None
        self.hash: str | None = None
        self.error: Exception | None = None
        self.path: Path | None = None
        self._source = source
        self._cache = cache
        self._type = type_
        self._hasher = blake3()
        self._file = -1
        self._wrong = 0
        self._opened = False
        self._news = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether the content is complete and verified, or given up (then `error` says why)."""
        return self.lease is not None or self.error is not None

    async def changed(self) -> None:
        """Wait for more bytes, the size, or the end; check the state before waiting again."""
        await self._news.wait()

    async def began(self, enough: int) -> None:
        """Wait until the size is known, and for the end if that is within `enough` bytes."""
        while not self.ended:
            if self.path is not None and self.size is not None and self.size > enough:
                return
            if self.size is None and self.received > enough:
                return
            await self.changed()

    async def run(self) -> None:
        """Fetch; never raises but for cancellation."""
        partial = None
        try:
            self._file, partial = self._cache.open_partial()
            self.path = partial
            await self._fetch()
            self.hash = self._hasher.hexdigest()
            self.lease = self._cache.keep(partial, self.hash)
            self.path = self.lease.path
        except (CloudError, BlobError, ContentWrongError, OSError) as error:
            self.error = error
            _log.warning("content_download_failed", reason=str(error))
        except BaseException:
            self.error = ConnectionAbortedError("the proxy is stopping")
            raise
        finally:
            if self._file >= 0:
                os.close(self._file)
            if self.lease is None and partial is not None:
                with contextlib.suppress(OSError):
                    partial.unlink()
            self._tell()

    async def _fetch(self) -> None:
        idle = 0
        for _ in range(TRIES):
            before = (self.generation, self.received)
            self._opened = False
            try:
                await self._receive()
                if self._is_whole():
                    return
                self._start_over()
            except (CloudError, BlobError) as error:
                if self._is_expected():
                    return
                idle = idle + 1 if before == (self.generation, self.received) else 0
                nothing_there = isinstance(error, CloudRefused) and error.status == 416
                if not (self._opened or nothing_there) or idle > len(PAUSES):
                    raise
                if nothing_there:
                    self._start_over()
            await asyncio.sleep(PAUSES[max(0, idle - 1)])
        raise ContentWrongError("the storage did not deliver the complete file")

    async def _receive(self) -> None:
        """Take one answer to its end. Raises `CloudError`, `BlobError` if it ends too early."""
        async with self._source.download(
            self.cloud_name, type=self._type, offset=self.received
        ) as download:
            self._opened = True
            if self.size is not None and download.size not in (None, self.size):
                self._start_over()
            if download.offset > self.received:
                return
            if self.size is None and download.size is not None:
                self.size = download.size
                self._tell()
            skip = self.received - download.offset
            async for chunk in download.chunks():
                fresh = chunk[skip:] if skip else chunk
                skip = max(0, skip - len(chunk))
                if fresh:
                    self._write(fresh)
                    self.received += len(fresh)
                    self._tell()

    def _write(self, data: bytes) -> None:
        """Into the page cache: for one piece that is quicker than a hop to a thread and back."""
        self._hasher.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def _is_whole(self) -> bool:
        """Whether the bytes are the content, as far as that can be told."""
        if self.expected is not None:
            return self._is_expected()
        if self.size is None:
            self.size = self.received
        return self.size == self.received

    def _is_expected(self) -> bool:
        """Whether the bytes have the expected hash; then they are all, whatever was announced."""
        if self.expected is None or self._hasher.hexdigest() != self.expected:
            return False
        self.size = self.received
        return True

    def _start_over(self) -> None:
        """Throw the bytes away; readers that have passed some on must give up."""
        self._wrong += 1
        if self._wrong == WRONG_LIMIT:
            raise ContentWrongError("the storage repeatedly delivered wrong bytes")
        self.generation += 1
        self.received = 0
        self.size = None
        self._hasher = blake3()
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class ActiveDownloads:
    """The downloads in flight, one for each content of an account."""

    def __init__(
        self,
        sources: Mapping[str, DownloadSource],
        cache: Cache,
        *,
        on_fetched: Callable[[Fetch], None] = lambda _: None,
    ) -> None:
        self._sources = sources
        self._cache = cache
        self._on_fetched = on_fetched
        self._running: dict[tuple[str, str], Fetch] = {}
        self._supervisor = Supervisor()

    def fetch(self, account: str, cloud_name: str, type_: str, expected: str | None) -> Fetch:
        """The download of a content, joined if it is under way."""
        running = self._running.get((account, cloud_name))
        if running is not None and not running.ended:
            return running
        source = self._sources[account]
        fetch = Fetch(source, self._cache, account, cloud_name, type_, expected)
        self._running[account, cloud_name] = fetch
        self._supervisor.spawn(self._run(fetch), f"fetch {cloud_name}")
        return fetch

    async def _run(self, fetch: Fetch) -> None:
        try:
            await fetch.run()
            if fetch.error is None:
                self._on_fetched(fetch)
        finally:
            place = fetch.account, fetch.cloud_name
            if self._running.get(place) is fetch:
                del self._running[place]

    async def close(self) -> None:
        """Stop all downloads; what follows them gets an error."""
        await self._supervisor.close()


#: Bytes read at once.
CHUNK = 256 * 1024
#: Bytes held back until the content is verified. Contents no longer than that are opened only
#: when they are complete.
HELD_BACK = 64 * 1024


class ContentBrokenError(Exception):
    """The rest of a content is not available, or what was read of it was wrong: end the answer
    without its proper end, so that the client sees that it has not got the whole."""


class Content:
    """A content that is open for reading. Close it, or forget it.

    With `edits` its size and the bytes that are read are those of the edited file; `path` and
    `hash` are those of the cloud's.
    """

    def __init__(self, origin: CacheLease | Fetch) -> None:
        self._fetch = origin if isinstance(origin, Fetch) else None
        self._lease = origin if isinstance(origin, CacheLease) else None
        path = origin.path
        assert path is not None  # noqa: S101
        self._file = open_to_read(path)
        self._close_file = weakref.finalize(self, os.close, self._file)
        self._told_size = origin.size
        self._hash = path.name if isinstance(origin, CacheLease) else None
        self._looked_at: int | None = None  # the generation that the texts are of
        self.edits = Edits()

    @property
    def size(self) -> int | None:
        """Length in bytes; `None` while it is arriving and the storage has not reported."""
        size = self._size
        return size if size is None or not self.edits.edits else size + self.edits.added

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
    def file(self) -> int:
        """The descriptor of the file, which may still grow."""
        return self._file

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

    async def texts(self) -> list[MetadataText]:
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

    def _texts(self, *, whole: bool) -> list[MetadataText] | None:
        available = self._size if whole or self._fetch is None else self._fetch.received
        return texts(
            lambda offset, count: read_at(self._file, count, offset), available or 0, whole=whole
        )

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` to `stop` (excluded; the end if `None`).

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
        """What the bytes from `start` to `stop` are made of, as they arrive: parts of `file`
        (from, to), and bytes instead of what is edited.

        Raises `ContentBrokenError` instead of bytes that are not available.
        """
        if not self.edits.edits:
            async for part in self._parts(start, stop, last=stop):
                yield part
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
                async for part in self._parts(piece.start, piece.stop, last=last):
                    yield part
            else:
                yield piece

    async def _parts(
        self, start: int, stop: int | None, *, last: int | None
    ) -> AsyncIterator[tuple[int, int]]:
        """Parts of the file that may be read; what a reader wants in all ends at `last` (the end
        if `None`)."""
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
                part, position = (position, limit), limit
                yield part
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
            return read_at(self._file, length, position)
        return await asyncio.to_thread(read_at, self._file, length, position)

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
        return ContentBrokenError(f"the content is not available: {reason}")
