"""Threads: no other module of the server starts one.

Work that blocks goes to the threads of the event loop (`asyncio.to_thread`) or of a `pool`. Work
whose length a client or the cloud has chosen takes turns (`ThreadTurns`): else one owner would take
all threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")

#: Pieces of work at once. Most of it holds the interpreter's lock, so that more gain nothing.
WORKERS = 2


def pool(count: int, name: str) -> ThreadPoolExecutor:
    """Return threads of one task, for `run_in_executor` of the event loop."""
    return ThreadPoolExecutor(count, thread_name_prefix=name)


def start(target: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread that does not keep the process alive, and return it."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


class ThreadTurns:
    """Runs blocking work: at most `WORKERS` pieces at once, of each owner one.

    Waiting owners take turns: what an owner asks for beyond its piece of work under way does not
    queue in front of others.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(WORKERS)
        self._by_owner: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def run(self, owner: str, work: Callable[[], T]) -> T:
        """Return the result of the work. If cancelled, work under way keeps its turn to its end."""
        own = self._by_owner.setdefault(owner, asyncio.Semaphore(1))
        with ExitStack() as held:
            for turn in (own, self._turn):
                await turn.acquire()
                held.callback(turn.release)
            working = asyncio.ensure_future(asyncio.to_thread(work))
            try:
                return await asyncio.shield(working)
            except asyncio.CancelledError:
                kept = held.pop_all()
                working.add_done_callback(lambda _: kept.close())
                raise
            finally:
                del working  # its error has this frame, and would be kept by it
