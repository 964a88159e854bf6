"""Whose turn it is to use one of the few connections to a database server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal

#: What a unit does: `urgent` ones write, too, one at a time, and wait for no other.
Use = Literal["read", "write", "urgent"]

#: What the last unit counts in the average of the time that one takes.
_WEIGHT = 0.05


class ConnectionTurns:
    """Lets as many units run at once as there are `connections`, of those that write only `writes`:
    a read never waits until all that wait to write are done. An urgent unit has one more."""

    def __init__(self, connections: int, writes: int) -> None:
        every, writing = asyncio.Semaphore(connections), asyncio.Semaphore(writes)
        self._turns: dict[Use, tuple[asyncio.Semaphore, ...]] = {
            "read": (every,),
            "write": (writing, every),
            "urgent": (asyncio.Semaphore(1),),
        }
        self._writes = writes
        self._waiting = 0
        self._seconds = 0.0

    @property
    def expected_wait(self) -> float:
        """How many seconds a unit that comes now will wait for its turn to write."""
        return self._waiting * self._seconds / self._writes

    @contextlib.asynccontextmanager
    async def hold(self, use: Use, ends: float | None) -> AsyncIterator[None]:
        """Hold a turn; wait for it until `ends`, a time of the loop. Raises `TimeoutError`."""
        loop = asyncio.get_running_loop()
        held: list[asyncio.Semaphore] = []
        waiting = use == "write"
        self._waiting += waiting
        try:
            async with asyncio.timeout_at(ends):
                for turn in self._turns[use]:
                    await turn.acquire()
                    held.append(turn)
            self._waiting -= waiting
            waiting = False
            began = loop.time()
            yield
            if use == "write":
                self._seconds += _WEIGHT * (loop.time() - began - self._seconds)
        finally:
            self._waiting -= waiting
            for turn in held:
                turn.release()
