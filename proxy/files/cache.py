"""Contents on disk, found by their hash, the least recently used ones thrown out.

A file's name is its key and its modification time the moment of its last use, so that a restart
needs no index. Contents of an earlier run are hashed again when they are first used: a power cut
may have left half of one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import structlog
from blake3 import blake3

from proxy.files.descriptors import open_new

_log = structlog.get_logger(__name__)

_DIGEST = 32


@dataclass(slots=True)
class _Entry:
    path: Path
    size: int
    trusted: bool
    users: int = 0


class CacheLease:
    """Keeps a content from being thrown out until it is released or forgotten."""

    def __init__(self, cache: Cache, key: str, entry: _Entry) -> None:
        self.path = entry.path
        self.size = entry.size
        self._release = weakref.finalize(self, cache._leave, key, entry)
        self._release.atexit = False

    def release(self) -> None:
        """The content may be thrown out; once more is nothing."""
        self._release()


class Cache:
    """At most `limit` bytes below `folder`, except for what is in use.

    `hits` and `misses` count the contents that were sought here.

    Its methods are quick or touch the disk once; `start`, `check` and those that carry data
    belong in a thread.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._contents = folder / "content"
        self._conversions = folder / "converted"
        self._partials = folder / "partial"
        self._limit = limit
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._total = 0
        self._mutex = threading.RLock()
        self.hits = 0
        self.misses = 0

    @property
    def total(self) -> int:
        """Bytes of all contents and conversions."""
        return self._total

    def start(self) -> None:
        """Find what earlier runs left, and remove their unfinished files. Raises `OSError`."""
        shutil.rmtree(self._partials, ignore_errors=True)
        for folder in (self._contents, self._conversions, self._partials):
            folder.mkdir(parents=True, exist_ok=True)
        found = []
        for folder, prefix in ((self._contents, ""), (self._conversions, "c:")):
            for path in folder.glob("??/*"):
                with contextlib.suppress(OSError):
                    status = path.stat()
                    entry = _Entry(path, status.st_size, trusted=False)
                    found.append((status.st_mtime_ns, prefix + path.name, entry))
        with self._mutex:
            for _, key, entry in sorted(found, key=lambda item: item[0]):
                self._add(key, entry)
            self._throw_out()

    def new_partial(self) -> Path:
        """A new empty file for bytes that are on their way. Raises `OSError`."""
        handle, path = self.open_partial()
        os.close(handle)
        return path

    def open_partial(self) -> tuple[int, Path]:
        """As `new_partial`, with the file open; the caller closes the descriptor."""
        return open_new(self._partials)

    def lease(self, hash_: str) -> CacheLease | None:
        """Use a content if it is here and sound. Hashes it if an earlier run left it."""
        with self._mutex:
            entry = self._use(hash_)
            if entry is None:
                return None
            lease = CacheLease(self, hash_, entry)
            entry.users += 1
        if entry.trusted:
            return lease
        if _hash_file(entry.path) == hash_:
            entry.trusted = True
            return lease
        _log.warning("cached_file_damaged", content=hash_)
        lease.release()
        self._remove(hash_, entry)
        return None

    def holds(self, hash_: str) -> bool:
        """Whether there is a content of that hash, sound or not."""
        return hash_ in self._entries

    def is_trusted(self, hash_: str) -> bool:
        """Whether `lease` will not have to read the whole content."""
        entry = self._entries.get(hash_)
        return entry is None or entry.trusted

    def keep(self, partial: Path, hash_: str) -> CacheLease:
        """Take in a finished file whose hash is known to be `hash_`. Raises `OSError`."""
        path = self._contents / hash_[:2] / hash_
        with self._mutex:
            entry = self._use(hash_)
            if entry is None or not entry.trusted:
                self._forget(hash_)
                size = partial.stat().st_size
                _move(partial, path)
                entry = _Entry(path, size, trusted=True)
                self._add(hash_, entry)
            else:
                partial.unlink(missing_ok=True)
            lease = CacheLease(self, hash_, entry)
            entry.users += 1
            self._throw_out()
        return lease

    def conversion(self, key: str) -> bytes | None:
        """A conversion that was kept under this key, if it is here and sound."""
        with self._mutex:
            entry = self._use(f"c:{key}")
        if entry is None:
            return None
        with contextlib.suppress(OSError):
            stored = entry.path.read_bytes()
            data, digest = stored[:-_DIGEST], stored[-_DIGEST:]
            if blake3(data).digest() == digest:
                return data
        self._remove(f"c:{key}", entry)
        return None

    def keep_conversion(self, key: str, data: bytes) -> None:
        """Keep a conversion with its digest behind it; a full disk is no reason to fail."""
        path = self._conversions / key[:2] / key
        try:
            partial = self.new_partial()
            partial.write_bytes(data + blake3(data).digest())
            _move(partial, path)
        except OSError as error:
            _log.warning("conversion_store_failed", reason=str(error))
            return
        with self._mutex:
            self._forget(f"c:{key}")
            self._add(f"c:{key}", _Entry(path, len(data) + _DIGEST, trusted=True))
            self._throw_out()

    def _use(self, key: str) -> _Entry | None:
        """The entry, marked as used now; `None` too if somebody has removed its file."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = time.time_ns()
        try:
            os.utime(entry.path, ns=(now, now))
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

    def _add(self, key: str, entry: _Entry) -> None:
        self._entries[key] = entry
        self._total += entry.size

    def _forget(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._total -= entry.size

    def _remove(self, key: str, entry: _Entry) -> None:
        with self._mutex:
            if self._entries.get(key) is entry:
                self._forget(key)
                entry.path.unlink(missing_ok=True)

    def _throw_out(self) -> None:
        """Remove what was not used for longest until the bound holds; never what is in use."""
        for key, entry in list(self._entries.items()) if self._total > self._limit else ():
            if self._total <= self._limit:
                break
            if entry.users == 0:
                self._forget(key)
                with contextlib.suppress(OSError):
                    entry.path.unlink(missing_ok=True)


def _move(partial: Path, path: Path) -> None:
    try:
        partial.replace(path)
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        partial.replace(path)


def _hash_file(path: Path) -> str | None:
    hasher = blake3()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hasher.update(block)
    except OSError:
        return None
    return hasher.hexdigest()
