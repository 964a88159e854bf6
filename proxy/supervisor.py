"""Background work that nobody awaits: it is started again, or it ends the process; it never stops
unseen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from proxy.cloud.resilience import Backoff, CloudError
from proxy.storage.database import StorageError

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: How long to wait before a task that failed is started again.
_AGAIN = Backoff(first=0.1, longest=10.0)
#: A task that has run for this many seconds has recovered.
_STEADY = 60.0
#: What comes from outside, such as a connection that breaks: it is tried again for ever.
_OUTSIDE = (CloudError, StorageError, OSError, TimeoutError, EOFError)
#: This many failures of our own without a recovery end the process.
_MOST_FAILURES = 10


class Supervisor:
    """The tasks of a room, and who hears when one cannot be kept up.

    `failed` is set when a task has failed too often: anyone who runs the process ends it then.
    """

    def __init__(self, failed: asyncio.Event | None = None) -> None:
        self.failed = failed or asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    def keep(self, work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
        """Keep `work` running until `close`: whatever ends it, it is started again."""
        return self._start(self._keep(work, name), name)

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run something that ends; an exception that leaves it is logged as an error."""
        task = self._start(work, name)
        task.add_done_callback(_ended)
        return task

    async def finish(self) -> None:
        """Wait until all that was spawned has ended by itself; nothing may be kept running."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        loop = asyncio.get_running_loop()
        failures = outside = 0
        while True:
            begun = loop.time()
            own = True
            try:
                await work()
                log.error("task_ended", task=name)
            except Exception as error:
                own = not _is_outside(error)
                if own:
                    log.exception("task_failed", task=name)
                else:
                    log.warning("task_interrupted", task=name, error=repr(error))
            if loop.time() - begun >= _STEADY:
                failures = outside = 0
            failures, outside = (failures + 1, outside) if own else (failures, outside + 1)
            if failures >= _MOST_FAILURES:
                log.critical("task_abandoned", task=name, failures=failures)
                self.failed.set()
                return
            await asyncio.sleep(_AGAIN.whole(failures if own else outside))


def _is_outside(error: BaseException) -> bool:
    """Return whether an error, or each of a group, comes from outside."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_outside, error.exceptions))
    return isinstance(error, _OUTSIDE)


def _ended(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task_failed", task=task.get_name(), exc_info=error)
