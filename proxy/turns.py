"""Turns of owners: so many at once in all, so many of one owner, and owners one after another.

Work whose length a client or the cloud has chosen would otherwise let one owner take all threads or
connections.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, asynccontextmanager
from typing import TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")

#: Pieces of work that run at once where most of it holds the interpreter's lock.
WORKERS = 2


class Turns:
    """At most `each` turns at once of an owner (for some owners `limits`), and `total` in all.

    An owner beyond its limit waits apart from the others, so that at most `each` of its requests
    are in front of another owner's.
    """

    def __init__(
        self, each: int, total: int | None = None, *, limits: Mapping[str, int] | None = None
    ) -> None:
        self._each = each
        self._limits = limits or {}
        self._owners: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._total = () if total is None else (asyncio.Semaphore(total),)
        self._waiting: Counter[str] = Counter()

    def waiting(self, owner: str) -> int:
        """Return how many wait for a turn of the owner."""
        return self._waiting[owner]

    @asynccontextmanager
    async def hold(self, owner: str, *, until: float | None = None) -> AsyncIterator[None]:
        """Hold a turn in the block. Raises `TimeoutError` if there is none until a loop time."""
        with await self._acquire(owner, until=until):
            yield

    async def run(
        self,
        owner: str,
        work: Callable[[], T],
        *,
        within: Sequence[asyncio.Semaphore] = (),
        threads: Executor | None = None,
    ) -> T:
        """Run blocking work in one of the `threads`, and return its result.

        The work also needs each semaphore of `within`. A cancellation does not stop work that has
        begun, which keeps its turn to its end.
        """
        context = contextvars.copy_context()
        with await self._acquire(owner, within) as held:
            loop = asyncio.get_running_loop()
            working = loop.run_in_executor(threads, context.run, work)
            try:
                return await asyncio.shield(working)
            except asyncio.CancelledError:
                kept = held.pop_all()
                working.add_done_callback(lambda _: kept.close())
                raise
            finally:
                del working  # its error has this frame, and would be kept by it

    async def _acquire(
        self, owner: str, within: Sequence[asyncio.Semaphore] = (), *, until: float | None = None
    ) -> ExitStack:
        """Return a turn, which is over when the stack is closed. Raises `TimeoutError`."""
        limit = self._limits.get(owner, self._each)
        own = self._owners.setdefault(owner, asyncio.Semaphore(limit))
        self._waiting[owner] += 1
        try:
            with ExitStack() as held:
                async with asyncio.timeout_at(until):
                    for turn in (own, *within, *self._total):
                        await turn.acquire()
                        held.callback(turn.release)
                return held.pop_all()
        finally:
            self._waiting[owner] -= 1
            if not self._waiting[owner]:
                del self._waiting[owner]


def thread_turns() -> Turns:
    """Return turns for work on JSON and graphs, in threads: each owner has one."""
    return Turns(1, WORKERS)
