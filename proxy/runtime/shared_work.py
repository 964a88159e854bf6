"""Work that is done once for all who ask for it at the same time, or before it begins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

from cachetools import LRUCache

from proxy.runtime.waits import stop

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SharedWork(Generic[K, T]):
    """Results by key, of which the last `kept` stay. The next caller tries again what failed.

    A caller that is cancelled does not stop the work.
    """

    def __init__(self, kept: int = 0) -> None:
        self._results: LRUCache[K, T] = LRUCache(kept)
        self._working: dict[K, asyncio.Task[T]] = {}

    async def get(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of `work`, or of that which is under way for the key. Raises what it
        raises."""
        if key in self._results:
            return self._results[key]
        task = self._working.get(key)
        if task is None:
            task = self._working[key] = asyncio.create_task(work())
            task.add_done_callback(partial(self._done, key))
        return await asyncio.shield(task)

    def _done(self, key: K, task: asyncio.Task[T]) -> None:
        del self._working[key]
        if not _has_failed(task) and self._results.maxsize:
            self._results[key] = task.result()

    async def close(self) -> None:
        """Cancel what is under way."""
        await stop(*self._working.values())


class NextReading(Generic[K, T]):
    """Readings of the present state, by key: callers during a reading share the next one.

    The one under way may have missed what the caller knows of. A caller that is cancelled does not
    stop a reading.
    """

    def __init__(self) -> None:
        self._current: dict[K, asyncio.Task[T]] = {}
        self._next: dict[K, asyncio.Task[T]] = {}

    async def get(self, key: K, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of a reading that begins from now on. Raises what it raises."""
        task = self._next.get(key)
        if task is None:
            reading = self._read(key, read, self._current.get(key))
            task = self._next[key] = asyncio.create_task(reading)
            task.add_done_callback(_has_failed)
        return await asyncio.shield(task)

    async def _read(
        self,
        key: K,
        read: Callable[[], Coroutine[Any, Any, T]],
        before: asyncio.Task[T] | None,
    ) -> T:
        if before is not None:
            await asyncio.wait([before])
        reading = self._current[key] = self._next.pop(key)
        try:
            return await read()
        finally:
            if self._current[key] is reading:
                del self._current[key]

    async def close(self) -> None:
        """Cancel what is under way."""
        await stop(*self._current.values(), *self._next.values())


def _has_failed(task: asyncio.Task[Any]) -> bool:
    """Return whether a task has failed; its error is not logged if nobody waits for it any more."""
    return task.cancelled() or task.exception() is not None
