"""Supervision of background tasks that nobody awaits.

A task that ends is started again, or ends the process; none stops unnoticed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from proxy.runtime.backoff import Backoff

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Seconds to wait before a task that failed is started again.
_RETRY_DELAY = Backoff(first=0.1, longest=10.0)
#: Seconds that a task must run after a failure to count as recovered.
_RECOVERED_AFTER = 60.0
#: Consecutive failures of our own code after which the process ends.
_MAX_FAILURES = 10


class OutsideError(Exception):
    """The base of errors of the cloud and of the database, which are not mistakes of our code."""


#: Failures of the environment, such as a lost connection: they are retried without a limit.
_OUTSIDE = (OutsideError, OSError, TimeoutError, EOFError)


class Supervisor:
    """A group of background tasks.

    `failed` is set when a task has failed too often; the process ends then.
    """

    def __init__(self, failed: asyncio.Event | None = None) -> None:
        self.failed = failed or asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    def keep(self, work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
        """Run `work` until `close`: if it ends for whatever reason, start it again."""
        return self.spawn(self._keep(work, name), name)

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run `work` once; log its exception as an error."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def finish(self) -> None:
        """Wait until all spawned tasks have ended by themselves; there must be no kept ones."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancel all tasks, and wait until they have ended."""
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_failed", task=task.get_name(), exc_info=error)

    async def _keep(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        loop = asyncio.get_running_loop()
        failures: Counter[bool] = Counter()  # by whether they are our own
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
            if loop.time() - begun >= _RECOVERED_AFTER:
                failures.clear()
            failures[own] += 1
            if failures[True] >= _MAX_FAILURES:
                log.critical("task_abandoned", task=name, failures=failures[True])
                self.failed.set()
                return
            await asyncio.sleep(_RETRY_DELAY.whole(failures[own]))


def _is_outside(error: BaseException) -> bool:
    """Return whether an error, or each error of a group, is one of the environment."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_outside, error.exceptions))
    return isinstance(error, _OUTSIDE)
