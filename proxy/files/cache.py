"""The cache of contents on disk, found by their hash.

The name of a file is its key, and its modification time is that of its last use, so that a restart
needs no index. Contents of a previous run are hashed again when they are first used: a power cut
may have left an incomplete one. Of the owner that has the most, the least recently used are removed
first, so that nobody displaces what others use.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import threading
import weakref
from collections import Counter, OrderedDict
from contextlib import suppress
from pathlib import Path

import structlog
from blake3 import blake3
from msgspec import Struct, field

from proxy.runtime import clock

_log = structlog.get_logger(__name__)

_DIGEST = 32
#: The names of files: BLAKE3 in hexadecimal.
_KEY = re.compile("[0-9a-f]{64}")

#: The number of files is limited to one for each `FILE_BYTES` of the cache's limit, or to
#: `MIN_FILES`: each takes some hundred bytes of memory.
FILE_BYTES, MIN_FILES = 128 * 1024, 1000

#: Seconds without use after which a file goes before those of who has more.
UNUSED = 86_400.0

#: The share of the cache that a content may have for which nobody waits, and its least bytes.
AHEAD_SHARE, MIN_AHEAD = 1 / 4, 1024 * 1024
#: Bytes that all downloads under way may have together if the limit of the cache is smaller.
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
        """Open a file as on POSIX; with `os.open` it could not be renamed or deleted."""
        handle = _create(str(path), access, _SHARED_FOR_ALL, None, _OPEN_EXISTING, _NORMAL, None)
        if handle is None or handle == wintypes.HANDLE(-1).value:
            raise ctypes.WinError(ctypes.get_last_error())
        return msvcrt.open_osfhandle(handle, flags | os.O_BINARY)

    def open_to_read(path: Path) -> int:
        """Return a descriptor of a file, which the caller closes. Raises `OSError`."""
        return _open(path, _READ, os.O_RDONLY)

    def open_new(folder: Path) -> tuple[int, Path]:
        """Create an empty file, open for writing; the caller closes it. Raises `OSError`."""
        handle, name = tempfile.mkstemp(dir=folder)
        os.close(handle)
        path = Path(name)
        return _open(path, _READ_AND_WRITE, os.O_RDWR), path

    def read_at(descriptor: int, count: int, offset: int) -> bytes:
        """Return up to `count` bytes from `offset` on, fewer at the end of the file."""
        with _reading:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, count)

else:
    read_at = os.pread

    def open_to_read(path: Path) -> int:
        """Return a descriptor of a file, which the caller closes. Raises `OSError`."""
        return os.open(path, os.O_RDONLY)

    def open_new(folder: Path) -> tuple[int, Path]:
        """Create an empty file, open for writing; the caller closes it. Raises `OSError`."""
        handle, name = tempfile.mkstemp(dir=folder)
        return handle, Path(name)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data` at the position of the descriptor. Raises `OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class _Entry(Struct):
    """A file; one of a previous run belongs to nobody until somebody uses it."""

    size: int
    trusted: bool
    owner: str = ""
    users: int = 0
    used_at: float = field(default_factory=clock.monotonic)

    @property
    def counted(self) -> int:
        """What it counts for, for its owner."""
        return max(self.size, FILE_BYTES)


class CacheLease:
    """Keeps a content in the cache, and its file on disk, as long as it is referenced.

    Created under the cache's mutex.
    """

    def __init__(self, cache: Cache, key: str, entry: _Entry) -> None:
        self.path = cache.path_of(key)
        self.size = entry.size
        entry.users += 1
        self._release = weakref.finalize(self, cache._leave, entry)
        self._release.atexit = False

    def release(self) -> None:
        """Allow the removal of the content although this is referenced. A second call does
        nothing."""
        self._release()


class CacheFullError(OSError):
    """Raised for a content that is too large for the cache."""


class Cache:
    """Up to `limit` bytes of files below `folder`, except for those in use.

    The number of files is limited too. Downloads under way count. One that is larger than the limit
    still reaches its readers, but together they have no more than the limit or `MIN_ARRIVING`,
    whichever is larger.

    `hits` and `misses` count look-ups of contents; `total` is the bytes of all contents and
    conversions, `arriving` those of downloads under way.

    Methods are quick or access the disk once; run `start` and those that read or write data in a
    thread.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._contents = folder / "content"
        self._conversions = folder / "converted"
        #: The folder of files that are not complete yet.
        self.partials = folder / "partial"
        self._limit = limit
        self._max_files = max(limit // FILE_BYTES, MIN_FILES)
        self._entries: dict[str, _Entry] = {}
        #: The entries of each owner, the least recently used first, and what they count for.
        self._owned: dict[str, OrderedDict[str, _Entry]] = {}
        self._held: Counter[str] = Counter()
        self._mutex = threading.RLock()
        self.hits = self.misses = self.total = self.arriving = 0

    def start(self) -> None:
        """Find the files of previous runs, and remove unfinished ones. Raises `OSError`."""
        shutil.rmtree(self.partials, ignore_errors=True)
        for folder in (self._contents, self._conversions, self.partials):
            folder.mkdir(parents=True, exist_ok=True)
        found = []
        for folder, prefix in ((self._contents, ""), (self._conversions, "c:")):
            for path in folder.iterdir():
                if not _KEY.fullmatch(path.name):
                    continue
                with suppress(OSError):
                    status = path.stat()
                    entry = _Entry(status.st_size, trusted=False)
                    found.append((status.st_mtime_ns, prefix + path.name, entry))
        with self._mutex:
            for _, key, entry in sorted(found, key=lambda item: item[0]):
                self._put(key, entry)
            self._evict()

    def path_of(self, key: str) -> Path:
        """Return the path of the content of this hash, or after `c:` of the conversion of a key."""
        if key.startswith("c:"):
            return self._conversions / key[2:]
        return self._contents / key

    def new_partial(self) -> Path:
        """Create an empty file for a download. Raises `OSError`."""
        handle, path = open_new(self.partials)
        os.close(handle)
        return path

    def admit(self, count: int, received: int, *, ahead: bool) -> None:
        """Count more bytes of a download after those that it has `received`; `ahead` says that
        nobody waits for it. Raises `CacheFullError`."""
        limit, total = max(self._limit, MIN_ARRIVING), self.arriving + count
        if ahead:
            limit, total = max(int(self._limit * AHEAD_SHARE), MIN_AHEAD), received + count
        if total > limit:
            raise CacheFullError(f"downloads under way have more than {limit:,} bytes")
        with self._mutex:
            self.arriving += count
            self._evict()

    def dismiss(self, count: int) -> None:
        """Count bytes of a download no longer, because they are not kept."""
        with self._mutex:
            self.arriving -= count

    def __contains__(self, hash_: str) -> bool:
        """Return whether there is a content with this hash, which may be damaged."""
        return hash_ in self._entries

    def lease(self, hash_: str, owner: str = "") -> CacheLease | None:
        """Return a lease of a content, `None` if it is missing or damaged. Hashes a file of a
        previous run; blocks."""
        with self._mutex:
            entry = self._use(hash_, owner)
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
        """Return whether `lease` need not read the whole content."""
        entry = self._entries.get(hash_)
        return entry is None or entry.trusted

    def keep(self, partial: Path, hash_: str, *, admitted: int = 0, owner: str = "") -> CacheLease:
        """Move a complete file with this hash into the cache; the bytes of it that were admitted no
        longer count as those of a download. Raises `OSError`."""
        with self._mutex:
            entry = self._use(hash_, owner) if hash_ in self else None
            if entry is None or not entry.trusted:
                size = partial.stat().st_size
                partial.replace(self.path_of(hash_))
                entry = _Entry(size, trusted=True, owner=owner)
                self._put(hash_, entry)
            else:
                partial.unlink(missing_ok=True)
            self.arriving -= admitted
            lease = CacheLease(self, hash_, entry)
            self._evict()
        return lease

    def conversion(self, key: str, owner: str = "") -> bytes | None:
        """Return the conversion with this key, `None` if it is missing or damaged."""
        with self._mutex:
            entry = self._use(f"c:{key}", owner)
        if entry is None:
            return None
        with suppress(OSError):
            stored = self.path_of(f"c:{key}").read_bytes()
            data, digest = stored[:-_DIGEST], stored[-_DIGEST:]
            if blake3(data).digest() == digest:
                return data
        self._remove(f"c:{key}", entry)
        return None

    def keep_conversion(self, key: str, partial: Path, owner: str = "") -> bytes:
        """Return a conversion from a file, and store it, followed by its digest; a failure of that
        is only logged."""
        data = partial.read_bytes()
        try:
            with partial.open("ab") as file:
                file.write(blake3(data).digest())
            partial.replace(self.path_of(f"c:{key}"))
        except OSError as error:
            _log.warning("conversion_store_failed", reason=str(error))
            return data
        with self._mutex:
            self._put(f"c:{key}", _Entry(len(data) + _DIGEST, trusted=True, owner=owner))
            self._evict()
        return data

    def _use(self, key: str, owner: str) -> _Entry | None:
        """Return an entry and mark it as used; `None` if there is none or its file was removed."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = clock.time_ns()
        try:
            os.utime(self.path_of(key), ns=(now, now))
        except OSError:
            self._forget(key)
            return None
        if owner and not entry.owner:
            self._disown(key, entry)
            entry.owner = owner
            self._own(key, entry)
        entry.used_at = clock.monotonic()
        self._owned[entry.owner].move_to_end(key)
        return entry

    def _leave(self, entry: _Entry) -> None:
        with self._mutex:
            entry.users -= 1
            self._evict()

    def _put(self, key: str, entry: _Entry) -> None:
        self._forget(key)
        self._entries[key] = entry
        self.total += entry.size
        self._own(key, entry)

    def _forget(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.total -= entry.size
            self._disown(key, entry)

    def _own(self, key: str, entry: _Entry) -> None:
        self._owned.setdefault(entry.owner, OrderedDict())[key] = entry
        self._held[entry.owner] += entry.counted

    def _disown(self, key: str, entry: _Entry) -> None:
        owned = self._owned[entry.owner]
        del owned[key]
        self._held[entry.owner] -= entry.counted
        if not owned:
            del self._owned[entry.owner], self._held[entry.owner]

    def _remove(self, key: str, entry: _Entry) -> None:
        with self._mutex, suppress(OSError):
            if self._entries.get(key) is entry:
                self._forget(key)
                self.path_of(key).unlink(missing_ok=True)

    def _evict(self) -> None:
        """Remove files until the limits hold."""
        in_use: set[str] = set()
        while self.total + self.arriving > self._limit or len(self._entries) > self._max_files:
            owner = self._next_owner(in_use)
            if owner is None:
                return
            if not self._evict_oldest(owner):
                in_use.add(owner)

    def _next_owner(self, in_use: set[str]) -> str | None:
        """Return the owner whose oldest file goes first, not one of those whose files are `in_use`:
        nobody, who has the files of previous runs, then who has used one long ago, then who has
        the most."""
        owners = self._owned.keys() - in_use
        if not owners or "" in owners:
            return "" if owners else None
        used_at = {owner: next(iter(self._owned[owner].values())).used_at for owner in owners}
        oldest = min(sorted(owners), key=used_at.__getitem__)
        if used_at[oldest] < clock.monotonic() - UNUSED:
            return oldest
        return max(sorted(owners), key=self._held.__getitem__)

    def _evict_oldest(self, owner: str) -> bool:
        """Remove the least recently used file of an owner; return whether there was one. What is in
        use counts as used last, and stays."""
        owned = self._owned[owner]
        for _ in range(len(owned)):
            key, entry = next(iter(owned.items()))
            if entry.users == 0:
                self._remove(key, entry)
                return True
            owned.move_to_end(key)
        return False


def hash_file(path: Path | int) -> str:
    """Return the BLAKE3 of a file in hexadecimal; a descriptor is closed. Raises `OSError`;
    blocks."""
    with open(path, "rb") as file:  # noqa: PTH123 (also of a descriptor)
        return hashlib.file_digest(file, blake3).hexdigest()  # type: ignore[arg-type]
