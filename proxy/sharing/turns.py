"""Turns of owners: so many at once in all, so many of one owner, and owners one after another.

Work whose length a client or the cloud has chosen would otherwise let one owner take all threads,
connections or the time of the database.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, asynccontextmanager
from heapq import heappop, heappush
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from proxy.runtime import clock
from proxy.sharing.owners import ENGINE, Owner
from proxy.sharing.pool import Pool

T = TypeVar("T")

#: Pieces of work that run at once where most of it holds the interpreter's lock.
WORKERS = 2
#: Seconds of the engine's work in a row while others wait.
ENGINE_QUANTUM = 0.02
#: Accounts from which on those are forgotten of which nothing waits or runs.
MAX_ACCOUNTS = 1024


class CrowdedError(Exception):
    """Raised where too many pieces of an owner's work wait for turns."""


class AddressQueue(Generic[T]):
    """What waits of one owner: its addresses take turns."""

    __slots__ = ("_by_address",)

    def __init__(self) -> None:
        self._by_address: OrderedDict[str, deque[T]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._by_address)

    def add(self, address: str, waiting: T) -> None:
        """Add what is the last of its address."""
        self._by_address.setdefault(address, deque()).append(waiting)

    def pop(self) -> T:
        """Return the first of the next address."""
        address, queue = self._by_address.popitem(last=False)
        waiting = queue.popleft()
        if queue:
            self._by_address[address] = queue  # behind the other addresses
        return waiting


class _Account(Generic[T]):
    """What an owner has used, in seconds, how many turns it has, and what of it waits."""

    __slots__ = ("running", "used", "waiting")

    def __init__(self) -> None:
        self.used = 0.0
        self.running = 0
        self.waiting: AddressQueue[T] = AddressQueue()


class TurnQueue(Generic[T]):
    """What waits, of all owners: the next one is of the owner that has used the least time.

    (Start-time fair queueing, Goyal, Vin and Cheng 1996: who comes back after a pause has saved up
    nothing.) All strangers are one owner, whose addresses take turns. An owner has at most `each`
    turns at once. The engine has as many as it needs and goes first, but after each
    `ENGINE_QUANTUM` of its time another one has a turn.
    """

    def __init__(self, each: int | None = None) -> None:
        self._each = each
        self._accounts: dict[Hashable, _Account[T]] = {}
        self._first: deque[T] = deque()
        #: The accounts that may have a turn, by what they had used when they were added.
        self._order: list[tuple[float, int, _Account[T]]] = []
        self._numbers = itertools.count()
        #: What the owner of the newest turn had used.
        self._now = 0.0
        #: Seconds of the engine since the last turn of another one.
        self._engine_time = 0.0

    def __bool__(self) -> bool:
        return bool(self._first or self._order)

    def add(self, owner: Hashable, waiting: T) -> None:
        """Add what is the last of its owner."""
        if owner == ENGINE:
            self._first.append(waiting)
            return
        account = self._account(owner)
        if not account.waiting and account.running != self._each:
            self._put(account)
        account.waiting.add(owner.address if isinstance(owner, Owner) else "", waiting)

    def pop(self) -> T | None:
        """Begin the next turn, and return what has it; `None` if nothing can have one."""
        if self._first and (self._engine_time < ENGINE_QUANTUM or not self._order):
            return self._first.popleft()
        while self._order:
            used, _, account = heappop(self._order)
            if used < account.used:
                self._put(account)
                continue
            self._begin(account)
            waiting = account.waiting.pop()
            if account.waiting and account.running != self._each:
                self._put(account)
            return waiting
        return None

    def begin(self, owner: Hashable) -> None:
        """Begin a turn of an owner that does not have to wait."""
        if owner != ENGINE:
            self._begin(self._account(owner))

    def end(self, owner: Hashable, seconds: float) -> None:
        """End a turn, which took these seconds."""
        self.charge(owner, seconds)
        if owner != ENGINE:
            account = self._account(owner)
            account.running -= 1
            if account.waiting and account.running + 1 == self._each:
                self._put(account)

    def charge(self, owner: Hashable, seconds: float) -> None:
        """Count time of an owner."""
        if owner == ENGINE:
            self._engine_time += seconds
        else:
            self._account(owner).used += seconds

    def _begin(self, account: _Account[T]) -> None:
        account.running += 1
        self._now, self._engine_time = max(self._now, account.used), 0.0

    def _put(self, account: _Account[T]) -> None:
        heappush(self._order, (account.used, next(self._numbers), account))

    def _account(self, owner: Hashable) -> _Account[T]:
        name = owner.member if isinstance(owner, Owner) else owner
        account = self._accounts.get(name)
        if account is None:
            if len(self._accounts) >= MAX_ACCOUNTS:
                self._accounts = {
                    name: kept
                    for name, kept in self._accounts.items()
                    if kept.waiting or kept.running
                }
            account = self._accounts[name] = _Account()
        if not account.waiting:
            account.used = max(account.used, self._now)
        return account


class _Places:
    """Places that are taken in turns."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._queue: TurnQueue[asyncio.Future[None]] = TurnQueue()

    @property
    def are_taken(self) -> bool:
        return not self._free

    async def acquire(self, owner: Hashable) -> None:
        """Take a place."""
        if self._free:
            self._free -= 1
            self._queue.begin(owner)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.add(owner, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    def release(self, owner: Hashable, began: float) -> None:
        """Give back a place that was taken at a moment."""
        self._queue.end(owner, clock.source.monotonic() - began)
        self._pass_on()

    def _pass_on(self) -> None:
        while (turn := self._queue.pop()) is not None:
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Turns:
    """At most `each` turns at once of an owner (for some owners `limits`), and `total` in all.

    An owner beyond its limit waits apart from the others, which have the turns that get free in the
    order of a `TurnQueue`. What waits has a share of the pool `waiting`, except for the engine's.
    """

    def __init__(
        self,
        each: int,
        total: int | None = None,
        *,
        limits: Mapping[Hashable, int] | None = None,
        waiting: Pool | None = None,
    ) -> None:
        self._each = each
        self._limits = limits or {}
        self._owners: WeakValueDictionary[Hashable, asyncio.Semaphore] = WeakValueDictionary()
        self._places = None if total is None else _Places(total)
        self._waiting: Counter[Hashable] = Counter()
        self._pool = waiting

    def waiting(self, owner: Hashable) -> int:
        """Return how many wait for a turn of the owner."""
        return self._waiting[owner]

    @asynccontextmanager
    async def hold(self, owner: Hashable, *, until: float | None = None) -> AsyncIterator[None]:
        """Hold a turn in the block. Raises `TimeoutError` if there is none until a loop time."""
        with await self._acquire(owner, until=until):
            yield

    async def run(
        self,
        owner: Hashable,
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
        self,
        owner: Hashable,
        within: Sequence[asyncio.Semaphore] = (),
        *,
        until: float | None = None,
    ) -> ExitStack:
        """Return a turn, which is over when the stack is closed. Raises `TimeoutError`,
        `CrowdedError`."""
        own = self._owners.get(owner)
        if own is None:
            own = asyncio.Semaphore(self._limits.get(owner, self._each))
            self._owners[owner] = own
        places = self._places
        must_wait = own.locked() or (places is not None and places.are_taken)
        with ExitStack() as held, ExitStack() as waiting:
            if must_wait:
                self._begin_to_wait(owner, waiting)
            async with asyncio.timeout_at(until):
                for turn in (own, *within):
                    await turn.acquire()
                    held.callback(turn.release)
                if places is not None:
                    await places.acquire(owner)
                    held.callback(places.release, owner, clock.source.monotonic())
            return held.pop_all()

    def _begin_to_wait(self, owner: Hashable, waiting: ExitStack) -> None:
        """Count what waits until the stack is closed. Raises `CrowdedError`."""
        if self._pool is not None and isinstance(owner, Owner) and owner != ENGINE:
            if not self._pool.take(owner, 1):
                raise CrowdedError
            waiting.callback(self._pool.give_back, owner, 1)
        self._waiting[owner] += 1
        waiting.callback(self._waited, owner)

    def _waited(self, owner: Hashable) -> None:
        self._waiting[owner] -= 1
        if not self._waiting[owner]:
            del self._waiting[owner]


def thread_turns() -> Turns:
    """Return turns for work on JSON and graphs, in threads: each owner has one."""
    return Turns(1, WORKERS)
