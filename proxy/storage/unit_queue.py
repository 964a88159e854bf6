"""Units of work that wait for threads of a database, whose owners have turns."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

from msgspec import Struct
from sqlalchemy import Connection

from proxy.sharing.owners import ENGINE, Owner, acting_owner
from proxy.sharing.pool import Pool
from proxy.sharing.turns import TurnQueue
from proxy.storage.database import TooManyUnitsError

T = TypeVar("T")


class Unit(Struct, eq=False):
    """A unit that waits for a thread, where its result goes, and what came of it."""

    owner: Owner
    work: Callable[[Connection], Any]
    result: asyncio.Future[Any]
    value: Any = None
    error: BaseException | None = None
    seconds: float = 0.0


class UnitQueue:
    """Units of the event loop that threads run, at most `each` of an owner at once.

    Those that wait have shares of a pool, but for the engine's.
    """

    def __init__(self, pool: Pool, each: int | None = None) -> None:
        self._pool = pool
        self._queue: TurnQueue[Unit] = TurnQueue(each)
        self._lock = threading.Lock()
        #: How many threads wait for a unit, and what wakes one of them, without the lock, which it
        #: takes at once.
        self._idle = 0
        self._calls: SimpleQueue[None] = SimpleQueue()
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._queue)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run a unit of the current owner. Raises what it raises, and `TooManyUnitsError`."""
        owner = acting_owner()
        if owner != ENGINE and not self._pool.take(owner, 1):
            raise TooManyUnitsError
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._queue.add(owner, Unit(owner, work, result))
        self._wake()
        return await result

    def close(self) -> None:
        """Let threads end when all units have run."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._calls.put(None)

    def _wake(self) -> None:
        """Wake a thread that waits, if there is one."""
        with self._lock:
            is_one_idle = self._idle > 0
            self._idle -= is_one_idle
        if is_one_idle:
            self._calls.put(None)

    # --- in the threads --------------------------------------------------------------------

    def next(self, *, wait: bool) -> Unit | None:
        """Return the unit that has the next turn; `None` if there is none, or with `wait` at the
        end."""
        while True:
            with self._lock:
                unit = self._queue.pop()
                if unit is not None or not wait or (self._closed and not self._queue):
                    return unit
                self._idle += 1
            self._calls.get()

    def end(self, unit: Unit, seconds: float) -> None:
        """End the turn of a unit, which took these seconds."""
        unit.seconds = seconds
        with self._lock:
            self._queue.end(unit.owner, seconds)
            is_one_wanted = self._closed or bool(self._queue)
        if is_one_wanted:
            self._wake()

    def charge_rest(self, units: Sequence[Unit], seconds: float) -> None:
        """Charge what units took together beside their own time, as a large one takes much of a
        transaction's way to the disk."""
        measured = sum(unit.seconds for unit in units)
        if measured < seconds:
            with self._lock:
                for unit in units:
                    part = unit.seconds / measured if measured else 1 / len(units)
                    self._queue.charge(unit.owner, (seconds - measured) * part)

    def settle(self, units: Sequence[Unit]) -> None:
        """Tell those who wait for units what came of these."""
        # The event loop is one for all units; if it is closed, nobody waits.
        with contextlib.suppress(RuntimeError):
            units[0].result.get_loop().call_soon_threadsafe(self._settle, units)

    def _settle(self, units: Sequence[Unit]) -> None:
        for unit in units:
            if unit.owner != ENGINE:
                self._pool.give_back(unit.owner, 1)
            if unit.result.done():
                continue
            if unit.error is not None:
                unit.result.set_exception(unit.error)
            else:
                unit.result.set_result(unit.value)
