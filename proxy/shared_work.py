"""Work that is done once for all who ask for it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

from cachetools import LRUCache

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SharedWork(Generic[K, T]):
    """Results by key, of which the last `kept` stay; what fails is tried again by who asks next.

    Who no longer waits ends nothing.
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
        failed = task.cancelled() or task.exception() is not None
        if not failed and self._results.maxsize:
            self._results[key] = task.result()

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = list(self._working.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
