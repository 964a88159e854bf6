"""Files that are read again when they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Hashable, Mapping
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from proxy.runtime.waits import until_set

K = TypeVar("K", bound=Hashable)

_Stamp: TypeAlias = tuple[int, int, int] | None


class WatchedFiles(Generic[K]):
    """Files by any keys, which are looked at every `interval` seconds.

    The first look finds that all which are there have changed, unless `look` was called before.
    """

    def __init__(self, files: Mapping[K, Path | None], *, interval: float = 2.0) -> None:
        self._files = files
        self._interval = interval
        self._seen: Mapping[K, _Stamp] = {}

    def look(self) -> list[K]:
        """Return the keys of the files that have changed or were deleted since the last call."""
        before = self._seen
        self._seen = {key: _stamp(path) for key, path in self._files.items()}
        return [key for key, stamp in self._seen.items() if stamp != before.get(key)]

    async def changes(self, asked: asyncio.Event | None = None) -> AsyncGenerator[list[K]]:
        """Yield the keys of changed files at each look that finds any; those of all files at once
        when `asked` is set, which is cleared."""
        asked = asked or asyncio.Event()
        while True:
            changed = await asyncio.to_thread(self.look)
            if asked.is_set():
                asked.clear()
                changed = list(self._seen)
            if changed:
                yield changed
            await until_set(asked, self._interval)


def _stamp(path: Path | None) -> _Stamp:
    """Return what changes when the file is written or replaced, also through links."""
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
