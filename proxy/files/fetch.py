"""Downloads of contents into the cache, which readers share while they arrive.

A download that breaks off is resumed; a content that turns out wrong is downloaded again from the
start.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from blake3 import blake3

from proxy.cloud.downloads import Download
from proxy.cloud.errors import CloudError, CloudRefused
from proxy.cloud.resilience import Attempts, RetryPolicy
from proxy.files.blobs import BlobError
from proxy.files.cache import Cache, CacheLease, open_new, write_all
from proxy.translate.errors import kept

_log = structlog.get_logger(__name__)

#: Seconds between an attempt that brought bytes and the next.
RETRY_DELAY = 0.1
#: How contents that cannot be opened are tried again: a client waits for the first byte.
RETRIES = RetryPolicy(budget=10.0)
#: How many answers in a row that break off before their first byte are followed by another attempt.
MAX_IDLE = 3
#: How often a content is downloaded from its start before it counts as wrong.
MAX_GENERATIONS = 3
#: Maximum number of answers of which a content is put together.
MAX_ATTEMPTS = 100


#: Opens a content from an offset on. Raises `CloudError`, `BlobError`.
Opener = Callable[[int], AbstractAsyncContextManager[Download]]


class ContentWrongError(Exception):
    """Raised when the cloud's storage repeatedly delivers bytes that are not the content."""


@dataclass(eq=False)
class Fetch:
    """A download of a content into the cache.

    `expected` is its BLAKE3 in hexadecimal if the cloud's name contains it, else `None`: then only
    its size can be checked. `owner` is the member for whom the cache keeps it. `generation` counts
    how often the bytes were discarded; what was read in a previous generation is invalid. `ahead`
    is whether nobody waits for the content. `latest` are the bytes that arrived last. `changed` is
    set with more bytes, the size, or the end, and then replaced: check the state before waiting.
    """

    _open: Opener
    _cache: Cache
    expected: str | None
    ahead: bool = False
    owner: str = ""
    generation: int = field(init=False, default=0)
    received: int = field(init=False, default=0)
    latest: bytes = field(init=False, default=b"", repr=False)
    size: int | None = field(init=False, default=None)
    lease: CacheLease | None = field(init=False, default=None)
    error: Exception | None = field(init=False, default=None)
    path: Path | None = field(init=False, default=None)
    changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _hasher: blake3 = field(init=False, default_factory=blake3)
    _file: int = field(init=False, default=-1)

    @property
    def ended(self) -> bool:
        """Whether the content is complete and verified, or has failed with `error`."""
        return self.lease is not None or self.error is not None

    def arrived(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop` (excluded) if they are among those that arrived
        last; else none."""
        begin = self.received - len(self.latest)
        return self.latest[start - begin : stop - begin] if start >= begin else b""

    async def wait(self, enough: float = math.inf) -> None:
        """Wait for the end, or until the size is known if that is more than `enough` bytes."""
        while not self.ended:
            if (self.received if self.size is None else self.size) > enough:
                return
            await self.changed.wait()

    async def run(self) -> None:
        """Download the content; errors are in `error`. Raises only if it is cancelled."""
        try:
            self._file, self.path = open_new(self._cache.partials)
            await self._fetch()
            self.size = self.received
            hash_ = self._hasher.hexdigest()
            self.lease = self._cache.keep(
                self.path, hash_, admitted=self.received, owner=self.owner
            )
            self.path = self.lease.path
        except (CloudError, BlobError, ContentWrongError, OSError) as error:
            self.error = kept(error)
            _log.warning("content_download_failed", reason=str(error))
        except BaseException:
            self.error = ConnectionAbortedError("the proxy is stopping")
            raise
        finally:
            self.latest = b""
            if self._file >= 0:
                os.close(self._file)
            if self.lease is None and self.path is not None:
                self._cache.dismiss(self.received)
                with suppress(OSError):
                    self.path.unlink()
            self._notify()

    async def _fetch(self) -> None:
        patience = _Patience()
        for _ in range(MAX_ATTEMPTS):
            before, opened, wait = (self.generation, self.received), False, RETRY_DELAY
            try:
                async with self._open(self.received) as download:
                    opened = True
                    await self._receive(download)
                if self._is_whole():
                    return
                self._start_over()
                patience = _Patience()
            except (CloudError, BlobError) as error:
                if self.expected is not None and self._is_whole():
                    return
                if isinstance(error, CloudRefused) and error.status == 416:
                    self._start_over()  # there are fewer bytes than have been received
                advanced = before != (self.generation, self.received)
                wait = patience.after(error, opened=opened, advanced=advanced)
            await asyncio.sleep(wait)
        raise ContentWrongError("the storage did not deliver the complete file")

    async def _receive(self, download: Download) -> None:
        """Read one answer until its end, or until it has not the size of the content. Raises
        `CloudError`, `BlobError` if it ends too early."""
        if self.size is None and download.size is not None:
            self._cache.admit(download.size - self.received, self.received, ahead=self.ahead)
            self._cache.dismiss(download.size - self.received)
            self.size = download.size
            self._notify()
        if download.size not in (None, self.size):
            return
        async for chunk in download.chunks():
            if self.size is not None and self.received + len(chunk) > self.size:
                return
            write_all(self._file, chunk)  # the page cache is faster than a thread
            self._cache.admit(len(chunk), self.received, ahead=self.ahead)
            self._hasher.update(chunk)
            self.received += len(chunk)
            self.latest = chunk
            self._notify()
            if self.received != self.size:
                await asyncio.sleep(0)  # readers that keep up take it from memory

    def _is_whole(self) -> bool:
        """Return whether the bytes are complete: whatever their announced size if they have the
        expected hash, and if no hash is known by their size."""
        if self.expected is None:
            return self.size in (None, self.received)
        return self._hasher.hexdigest() == self.expected

    def _start_over(self) -> None:
        """Discard the bytes; readers that have passed some on must fail. Raises
        `ContentWrongError`."""
        if self.generation + 1 == MAX_GENERATIONS:
            raise ContentWrongError("the storage repeatedly delivered wrong bytes")
        self.generation += 1
        self._cache.dismiss(self.received)
        self.received, self.latest, self.size = 0, b"", None
        self._hasher = blake3()
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self._notify()

    def _notify(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class _Patience:
    """How long a download is attempted that brings nothing."""

    def __init__(self) -> None:
        self._opening = Attempts(RETRIES)
        self._idle = 0

    def after(self, error: CloudError | BlobError, *, opened: bool, advanced: bool) -> float:
        """Return the seconds before the next attempt, after one that `opened` an answer or not,
        and `advanced` with its bytes or not. Raises the error of the last attempt."""
        if opened:
            self._opening = Attempts(RETRIES)
        if advanced:
            self._idle = 0
            return RETRY_DELAY
        if not opened:
            return self._opening.failed(error)
        self._idle += 1
        if self._idle > MAX_IDLE:
            raise error
        return RETRIES.backoff.after(self._idle)
