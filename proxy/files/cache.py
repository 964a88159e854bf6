"""Contents on disk, found by their hash, the least recently used thrown out; and downloads to it.

A file's name is its key and its modification time the moment of its last use, so that a restart
needs no index. Contents of an earlier run are hashed again when they are first used: a power cut
may have left half of one.

A download that breaks is resumed where it broke; contents that turn out wrong are fetched again
from the start. What the cloud refuses is refused: its client has been patient already.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
import tempfile
import threading
import time
import weakref
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from blake3 import blake3
from msgspec import Struct

from proxy.cloud.client import CloudClient
from proxy.cloud.resilience import CloudError, CloudRefused
from proxy.files.blobs import BlobError, BlobStore

_log = structlog.get_logger(__name__)

_DIGEST = 32

#: Waits in seconds before another try, for tries in a row that brought no byte.
PAUSES = (0.1, 0.4, 1.5)
#: How often a content is fetched from its start before it is given up as wrong.
WRONG_LIMIT = 3
#: How many answers a content may be pieced together from.
TRIES = 100

#: The bytes for which a file counts at least when files are too many, and how many there may be of
#: any size: each takes some hundred bytes of memory.
FILE_BYTES, MIN_FILES = 32 * 1024, 1000

#: What a content that nobody waits for may have of the cache's limit, and the least bytes of it.
AHEAD_SHARE, MIN_AHEAD = 1 / 4, 1024 * 1024
#: Bytes that all contents on their way may have together, where the cache's limit is smaller.
MIN_ARRIVING = 1024 * 1024 * 1024

if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes

    _create = ctypes.WinDLL("kernel32", use_last_error=True).CreateFileW
    _create.restype = wintypes.HANDLE
    _create.argtypes = (
        *(wintypes.LPCWSTR, wintypes.DWORD, wintypes.DWORD, wintypes.LPVOID),
        *(wintypes.DWORD, wintypes.DWORD, wintypes.HANDLE),
    )
    _READ, _READ_AND_WRITE = 0x80000000, 0xC0000000
    _SHARED_FOR_ALL, _OPEN_EXISTING, _NORMAL = 0x7, 3, 0x80
    _reading = threading.Lock()

    def _open(path: Path, access: int, flags: int) -> int:
        """Open a file as POSIX does; `os.open` would not let it be renamed or deleted."""
        handle = _create(str(path), access, _SHARED_FOR_ALL, None, _OPEN_EXISTING, _NORMAL, None)
        if handle is None or handle == wintypes.HANDLE(-1).value:
            raise ctypes.WinError(ctypes.get_last_error())
        return msvcrt.open_osfhandle(handle, flags | os.O_BINARY)

    def open_to_read(path: Path) -> int:
        """A descriptor that the caller closes. Raises `OSError`."""
        return _open(path, _READ, os.O_RDONLY)

    def read_at(descriptor: int, count: int, offset: int) -> bytes:
        """At most `count` bytes from `offset` on, fewer at the end of the file."""
        with _reading:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, count)

else:
    read_at = os.pread

    def open_to_read(path: Path) -> int:
        """A descriptor that the caller closes. Raises `OSError`."""
        return os.open(path, os.O_RDONLY)


def open_new(folder: Path) -> tuple[int, Path]:
    """A new empty file, open for writing; the caller closes it. Raises `OSError`."""
    handle, name = tempfile.mkstemp(dir=folder)
    path = Path(name)
    if sys.platform == "win32":
        os.close(handle)
        handle = _open(path, _READ_AND_WRITE, os.O_RDWR)
    return handle, path


class _Entry(Struct):
    size: int
    trusted: bool
    users: int = 0


class CacheLease:
    """Keeps a content from being thrown out until it is released or forgotten.

    Made under the cache's mutex.
    """

    def __init__(self, cache: Cache, key: str, entry: _Entry) -> None:
        self.path = cache.path_of(key)
        self.size = entry.size
        entry.users += 1
        self._release = weakref.finalize(self, cache._leave, key, entry)
        self._release.atexit = False

    def release(self) -> None:
        """The content may be thrown out; once more is nothing."""
        self._release()


class CacheFullError(OSError):
    """A content that is larger than the cache may take."""


class Cache:
    """At most `limit` bytes below `folder`, except for what is in use.

    There are no more files than bytes allow of `FILE_BYTES` each, or `MIN_FILES`. Contents on their
    way count, too. One that is larger than the limit still reaches its readers,
    but together they have no more than the limit or `MIN_ARRIVING`, the larger of the two.

    `hits` and `misses` count the contents that were sought here; `total` is the bytes of all
    contents and conversions, `arriving` those of contents on their way.

    Its methods are quick or touch the disk once; `start`, `check` and those that carry data
    belong in a thread.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._contents = folder / "content"
        self._conversions = folder / "converted"
        self._partials = folder / "partial"
        self._limit = limit
        self._max_files = max(limit // FILE_BYTES, MIN_FILES)
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._mutex = threading.RLock()
        self.hits = self.misses = self.total = self.arriving = 0

    def start(self) -> None:
        """Find what earlier runs left, and remove their unfinished files. Raises `OSError`."""
        shutil.rmtree(self._partials, ignore_errors=True)
        for folder in (self._contents, self._conversions, self._partials):
            folder.mkdir(parents=True, exist_ok=True)
        found = []
        for folder, prefix in ((self._contents, ""), (self._conversions, "c:")):
            for path in folder.glob("??/*"):
                if path.parent.name != path.name[:2]:
                    continue
                with suppress(OSError):
                    status = path.stat()
                    entry = _Entry(status.st_size, trusted=False)
                    found.append((status.st_mtime_ns, prefix + path.name, entry))
        with self._mutex:
            for _, key, entry in sorted(found, key=lambda item: item[0]):
                self._put(key, entry)
            self._throw_out()

    def path_of(self, key: str) -> Path:
        """Return where the content of this hash is, or behind `c:` the conversion of this key."""
        if key.startswith("c:"):
            return self._conversions / key[2:4] / key[2:]
        return self._contents / key[:2] / key

    def new_partial(self) -> Path:
        """A new empty file for bytes that are on their way. Raises `OSError`."""
        handle, path = self.open_partial()
        os.close(handle)
        return path

    def open_partial(self) -> tuple[int, Path]:
        """As `new_partial`, with the file open; the caller closes the descriptor."""
        return open_new(self._partials)

    def admit(self, count: int, received: int, *, ahead: bool) -> None:
        """Count bytes of a content that arrive behind those that it `received`; `ahead` says that
        nobody waits for it. Raises `CacheFullError`."""
        if ahead:
            limit = max(int(self._limit * AHEAD_SHARE), MIN_AHEAD)
            is_over = received + count > limit
        else:
            limit = max(self._limit, MIN_ARRIVING)
            is_over = self.arriving + count > limit
        if is_over:
            raise CacheFullError(f"contents on their way have more than {limit:,} bytes")
        with self._mutex:
            self.arriving += count
            self._throw_out()

    def dismiss(self, count: int) -> None:
        """The content of these bytes is no longer on its way."""
        with self._mutex:
            self.arriving -= count

    def lease(self, hash_: str) -> CacheLease | None:
        """Use a content if it is here and sound. Hashes it if an earlier run left it."""
        with self._mutex:
            entry = self._use(hash_)
            if entry is None:
                return None
            lease = CacheLease(self, hash_, entry)
        if not entry.trusted:
            with suppress(OSError):
                entry.trusted = hash_file(lease.path) == hash_
        if entry.trusted:
            return lease
        _log.warning("cached_file_damaged", content=hash_)
        lease.release()
        self._remove(hash_, entry)
        return None

    def is_trusted(self, hash_: str) -> bool:
        """Whether `lease` will not have to read the whole content."""
        entry = self._entries.get(hash_)
        return entry is None or entry.trusted

    def keep(self, partial: Path, hash_: str) -> CacheLease:
        """Take in a finished file whose hash is known to be `hash_`. Raises `OSError`."""
        with self._mutex:
            entry = self._use(hash_)
            if entry is None or not entry.trusted:
                size = partial.stat().st_size
                _move(partial, self.path_of(hash_))
                entry = _Entry(size, trusted=True)
                self._put(hash_, entry)
            else:
                partial.unlink(missing_ok=True)
            lease = CacheLease(self, hash_, entry)
            self._throw_out()
        return lease

    def conversion(self, key: str) -> bytes | None:
        """A conversion that was kept under this key, if it is here and sound."""
        with self._mutex:
            entry = self._use(f"c:{key}")
        if entry is None:
            return None
        with suppress(OSError):
            stored = self.path_of(f"c:{key}").read_bytes()
            data, digest = stored[:-_DIGEST], stored[-_DIGEST:]
            if new_hash(data).digest() == digest:
                return data
        self._remove(f"c:{key}", entry)
        return None

    def keep_conversion(self, key: str, data: bytes) -> None:
        """Keep a conversion with its digest behind it; a full disk is no reason to fail."""
        try:
            partial = self.new_partial()
            partial.write_bytes(data + new_hash(data).digest())
            _move(partial, self.path_of(f"c:{key}"))
        except OSError as error:
            _log.warning("conversion_store_failed", reason=str(error))
            return
        with self._mutex:
            self._put(f"c:{key}", _Entry(len(data) + _DIGEST, trusted=True))
            self._throw_out()

    def _use(self, key: str) -> _Entry | None:
        """The entry, marked as used now; `None` too if somebody has removed its file."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = time.time_ns()
        try:
            os.utime(self.path_of(key), ns=(now, now))
        except OSError:
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def _leave(self, key: str, entry: _Entry) -> None:
        with self._mutex:
            entry.users -= 1
            if self._entries.get(key) is entry:
                self._throw_out()

    def _put(self, key: str, entry: _Entry) -> None:
        self._forget(key)
        self._entries[key] = entry
        self.total += entry.size

    def _forget(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.total -= entry.size

    def _remove(self, key: str, entry: _Entry) -> None:
        with self._mutex, suppress(OSError):
            if self._entries.get(key) is entry:
                self._forget(key)
                self.path_of(key).unlink(missing_ok=True)

    def _throw_out(self) -> None:
        """Remove what was not used for longest until the bound holds; never what is in use."""
        over = self.total - (self._limit - self.arriving)
        too_many = len(self._entries) - self._max_files
        gone = []
        for key, entry in self._entries.items():
            if over <= 0 and too_many <= 0:
                break
            if entry.users == 0:
                gone.append((key, entry))
                over -= entry.size
                too_many -= 1
        for key, entry in gone:
            self._remove(key, entry)


def _move(partial: Path, path: Path) -> None:
    try:
        partial.replace(path)
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        partial.replace(path)


def new_hash(data: bytes = b"") -> blake3:
    """The BLAKE3 of `data` and of what it is updated with."""
    return blake3(data)


def hash_file(path: Path) -> str:
    """The BLAKE3 of a file's bytes in hexadecimal. Raises `OSError`; blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, new_hash).hexdigest()  # type: ignore[arg-type]


class ContentWrongError(Exception):
    """The cloud's storage delivered bytes that are not the content, again and again."""


@dataclass(eq=False)
class Fetch:
    """A content of an account on its way into the cache.

    `expected` is its BLAKE3 in hexadecimal if the cloud's name tells it, else `None`: then nothing
    but its length can be checked. `generation` counts how often the bytes had to be thrown away;
    what was read in an earlier generation is void. `ahead` says that nobody waits for the content.
    `latest` are the bytes that arrived last.
    """

    _source: CloudClient | BlobStore
    _cache: Cache
    cloud_name: str
    _type: str
    expected: str | None
    ahead: bool = False
    generation: int = 0
    received: int = 0
    latest: bytes = field(default=b"", repr=False)
    size: int | None = None
    lease: CacheLease | None = None
    error: Exception | None = None
    path: Path | None = None
    _hasher: blake3 = field(default_factory=new_hash)
    _file: int = -1
    _admitted: int = 0
    _opened: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ended(self) -> bool:
        """Whether the content is complete and verified, or given up (then `error` says why)."""
        return self.lease is not None or self.error is not None

    async def changed(self) -> None:
        """Wait for more bytes, the size, or the end; check the state before waiting again."""
        await self._news.wait()

    def arrived(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop` (excluded) if they are among those that arrived
        last; else none."""
        begin = self.received - len(self.latest)
        return self.latest[start - begin : stop - begin] if start >= begin else b""

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
            self._dismiss()
            self.lease = self._cache.keep(partial, self._hasher.hexdigest())
            self.path = self.lease.path
        except (CloudError, BlobError, ContentWrongError, OSError) as error:
            self.error = error
            _log.warning("content_download_failed", reason=str(error))
        except BaseException:
            self.error = ConnectionAbortedError("the proxy is stopping")
            raise
        finally:
            self._dismiss()
            self.latest = b""
            if self._file >= 0:
                os.close(self._file)
            if self.lease is None and partial is not None:
                with suppress(OSError):
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
                self._cache.admit(download.size - self.received, self.received, ahead=self.ahead)
                self._cache.dismiss(download.size - self.received)
                self.size = download.size
                self._tell()
            skip = self.received - download.offset
            async for chunk in download.chunks():
                fresh = chunk[skip:]
                skip = max(0, skip - len(chunk))
                if self.size is not None and self.received + len(fresh) > self.size:
                    self._start_over()
                    return
                if fresh:
                    self._write(fresh)
                    if self.received != self.size:
                        await asyncio.sleep(0)  # readers that keep up take it from memory

    def _write(self, data: bytes) -> None:
        """Into the page cache: for one piece that is quicker than a hop to a thread and back."""
        self._cache.admit(len(data), self.received, ahead=self.ahead)
        self._admitted += len(data)
        self._hasher.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self.received += len(data)
        self.latest = data
        self._tell()

    def _is_whole(self) -> bool:
        """Whether the bytes are the content, as far as that can be told."""
        if self.expected is not None:
            return self._is_expected()
        self.size = self.received if self.size is None else self.size
        return self.size == self.received

    def _is_expected(self) -> bool:
        """Whether the bytes have the expected hash; then they are all, whatever was announced."""
        if self.expected is None or self._hasher.hexdigest() != self.expected:
            return False
        self.size = self.received
        return True

    def _start_over(self) -> None:
        """Throw the bytes away; readers that have passed some on must give up."""
        if self.generation + 1 == WRONG_LIMIT:
            raise ContentWrongError("the storage repeatedly delivered wrong bytes")
        self.generation += 1
        self._dismiss()
        self.received = 0
        self.latest = b""
        self.size = None
        self._hasher = new_hash()
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self._tell()

    def _dismiss(self) -> None:
        """Count the bytes that arrived no longer as being on their way."""
        self._cache.dismiss(self._admitted)
        self._admitted = 0

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
