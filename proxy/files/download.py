"""One download of a content, however many want it.

The bytes go to a file on disk; readers follow it as it grows and never slow it down or stop it.
A connection that breaks is taken up where it broke; contents that turn out wrong are fetched
again from the start. What the cloud refuses is refused: its client has been patient already.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import structlog
from blake3 import blake3

from proxy.cloud.errors import CloudError, CloudRefused
from proxy.files.cache import Cache, Lease

_log = structlog.get_logger(__name__)

#: Waits in seconds before another try, for tries in a row that brought no byte.
PAUSES = (0.1, 0.4, 1.5)
#: How often a content is fetched from its start before it is given up as wrong.
WRONG_LIMIT = 3
#: How many answers a content may be pieced together from.
TRIES = 100


class Download(Protocol):
    """A content that is arriving, from byte `offset` on; `size` is that of the whole."""

    offset: int
    size: int | None

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come."""


class DownloadSource(Protocol):
    """What the files need of the cloud to fetch contents."""

    def download(
        self,
        cloud_name: str,
        *,
        type: str,  # noqa: A002
        offset: int = 0,
    ) -> AbstractAsyncContextManager[Download]:
        """Open a content from `offset` on. Raises `CloudError`."""


class ContentWrongError(Exception):
    """The cloud's storage delivered bytes that are not the content, again and again."""


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
        self.lease: Lease | None = None
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
            partial = self.path = await asyncio.to_thread(self._cache.new_partial)
            self._file = os.open(partial, os.O_WRONLY)
            await self._fetch()
            self.hash = self._hasher.hexdigest()
            self.lease = self._cache.keep(partial, self.hash)
            self.path = self.lease.path
        except (CloudError, ContentWrongError, OSError) as error:
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
            except CloudError as error:
                if self._is_expected():
                    return
                idle = idle + 1 if before == (self.generation, self.received) else 0
                nothing_there = isinstance(error, CloudRefused) and error.status == 416
                if not (self._opened or nothing_there) or idle > len(PAUSES):
                    raise
                if nothing_there:
                    self._start_over()
            await asyncio.sleep(PAUSES[max(0, idle - 1)])
        raise ContentWrongError("the storage does not deliver the whole of it")

    async def _receive(self) -> None:
        """Take one answer to its end. Raises `CloudError` if it ends too early."""
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
            raise ContentWrongError("the storage keeps delivering wrong bytes")
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


class Downloads:
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
        self._running: dict[tuple[str, str], tuple[Fetch, asyncio.Task[None]]] = {}

    def fetch(self, account: str, cloud_name: str, type_: str, expected: str | None) -> Fetch:
        """The download of a content, joined if it is under way."""
        running = self._running.get((account, cloud_name))
        if running is not None and not running[0].ended:
            return running[0]
        source = self._sources[account]
        fetch = Fetch(source, self._cache, account, cloud_name, type_, expected)
        task = asyncio.create_task(self._run(fetch), name=f"fetch {cloud_name}")
        self._running[account, cloud_name] = (fetch, task)
        return fetch

    async def _run(self, fetch: Fetch) -> None:
        try:
            await fetch.run()
            if fetch.error is None:
                self._on_fetched(fetch)
        finally:
            place = fetch.account, fetch.cloud_name
            running = self._running.get(place)
            if running is not None and running[0] is fetch:
                del self._running[place]

    async def close(self) -> None:
        """Stop all downloads; what follows them gets an error."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
