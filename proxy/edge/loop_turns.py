"""Turns of the event loop's time, by owner.

What the input and the handlers of an owner take on the event loop is charged to it. An owner that
has used `QUANTUM` in one iteration of the event loop waits until that has served what is ready of
all others. So everybody waits for a few ms of each other owner, however much one of them sends. All
strangers are one owner, whose addresses take turns.

All this takes time itself, so that nothing is charged while few connections are open, or while each
iteration of the event loop is short.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from proxy import clock

T = TypeVar("T")

#: Seconds of the event loop's time in one turn of an owner.
QUANTUM = 0.004
#: Seconds of an iteration that nobody notices, and for which owners have turns after a longer one.
CALM, STRAINED = 0.025, 1.0
#: Steps of an owner that are woken together.
MAX_WOKEN = 64
#: Connections of which a step each takes less than what anybody notices.
FEW = 8
#: Addresses of members that are remembered.
MAX_ADDRESSES = 4096

#: What waits: reads input at once, or wakes a step. It returns whether it woke one.
_Waiting = Callable[[], bool]


class LoopAccount:
    """The time that one owner uses, and what of it waits for a turn."""

    __slots__ = (
        "__weakref__",
        "_returned",
        "_turns",
        "_waiting",
        "has_next_turn",
        "must_wait",
        "used",
    )

    def __init__(self, turns: LoopTurns) -> None:
        self._turns = turns
        #: What was woken and found no time left; it is first in the next turn.
        self._returned: deque[_Waiting] = deque()
        #: What waits, by address.
        self._waiting: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        #: Seconds used in this turn.
        self.used = 0.0
        #: Whether new work has to wait.
        self.must_wait = False
        #: Whether the next turn begins in the next round.
        self.has_next_turn = False

    def charge(self, seconds: float) -> None:
        """Count time that was used."""
        self.used += seconds
        if self.used >= QUANTUM / 2:
            self.must_wait |= self.used >= QUANTUM
            self._turns.renew(self)

    def add(self, address: str, waiting: _Waiting) -> None:
        """Let something wait for the next turn, last of its address."""
        self._waiting.setdefault(address, deque()).append(waiting)

    async def turn(self, address: str) -> None:
        """Wait for a turn with time that is left."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.add(address, partial(_wake, woken))
        await woken
        while self.used >= QUANTUM:  # others that were woken have used it up
            woken = asyncio.get_running_loop().create_future()
            self._returned.append(partial(_wake, woken))
            self.must_wait = True
            self._turns.renew(self)
            await woken

    def begin_turn(self) -> None:
        """Serve what waits for as long as a turn lasts."""
        self.used, woken = 0.0, 0
        self.has_next_turn = False
        while self._returned and self.used < QUANTUM:
            woken += self._returned.popleft()()
        while self._waiting and self.used < QUANTUM and woken < MAX_WOKEN:
            address, queue = self._waiting.popitem(last=False)
            waiting = queue.popleft()
            if queue:
                self._waiting[address] = queue  # behind the other addresses
            woken += waiting()
        self.must_wait = bool(self._waiting or self._returned) or self.used >= QUANTUM
        if self.must_wait:
            self._turns.renew(self)


def _wake(woken: asyncio.Future[None]) -> bool:
    if woken.done():
        return False
    woken.set_result(None)
    return True


class LoopTurns:
    """The accounts of all owners. Those that use much time have their turns in rounds."""

    def __init__(self) -> None:
        self.strangers = LoopAccount(self)
        #: Whether few connections are open; see `FEW`.
        self.has_few_connections = True
        #: Until when the current iteration is short, and owners have turns.
        self._calm_until = self._strained_until = 0.0
        self._is_watching = False
        self._members: WeakValueDictionary[str, LoopAccount] = WeakValueDictionary()
        self._addresses: OrderedDict[str, LoopAccount] = OrderedDict()
        #: Who has a turn in the next round.
        self._next: list[LoopAccount] = []

    def are_needed(self) -> bool:
        """Return whether what follows is to be charged, and waits for its turn."""
        if self.has_few_connections:
            return False
        now = clock.source.monotonic()
        return now >= self._calm_until and not self._begin_iteration(now)

    def _begin_iteration(self, now: float) -> bool:
        """Watch the current iteration; return whether it is short until now."""
        if self._is_watching:  # it is long
            self._strained_until = now + STRAINED
        elif now >= self._strained_until:
            self._is_watching, self._calm_until = True, now + CALM
            asyncio.get_running_loop().call_soon(self._end_iteration)
        return now < self._calm_until

    def _end_iteration(self) -> None:
        self._is_watching, self._calm_until = False, 0.0

    def of_member(self, member: str, address: str) -> LoopAccount:
        """Return the account of a member who is at an address.

        From now on connections from there are apart from those of strangers before they say who
        they are.
        """
        if address not in self._addresses:
            self._addresses[address] = LoopAccount(self)
            if len(self._addresses) > MAX_ADDRESSES:
                self._addresses.popitem(last=False)
        account = self._members.get(member)
        if account is None:
            account = self._members[member] = LoopAccount(self)
        return account

    def of_stranger(self, address: str) -> LoopAccount:
        """Return the account of a new connection from an address."""
        account = self._addresses.get(address)
        if account is None:
            return self.strangers
        self._addresses.move_to_end(address)
        return account

    def renew(self, account: LoopAccount) -> None:
        """Give an account a turn in the next round."""
        if account.has_next_turn:
            return
        account.has_next_turn = True
        self._next.append(account)
        if len(self._next) == 1:
            # The event loop polls between the two calls, and serves what is ready of others.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._begin_round)

    def _begin_round(self) -> None:
        accounts, self._next = self._next, []
        for account in accounts:
            account.begin_turn()


class Driver:
    """Drives the work of one connection, and charges each step to its owner's account."""

    __slots__ = ("account", "address", "step_began", "turns")

    def __init__(self, turns: LoopTurns, account: LoopAccount, address: str) -> None:
        self.turns = turns
        #: Whose time is used.
        self.account = account
        self.address = address
        #: When the current step began.
        self.step_began: float | None = None

    def switch(self, account: LoopAccount) -> None:
        """Charge another account from now on, also for the rest of the current step."""
        if self.step_began is not None:
            now = clock.source.monotonic()
            self.account.charge(now - self.step_began)
            self.step_began = now
        self.account = account

    async def give_way(self) -> None:
        """Let others go on within a step that may take long, and wait for a turn."""
        if not self.turns.are_needed() or self.account.must_wait or self._used() >= QUANTUM:
            await asyncio.sleep(0)

    def _used(self) -> float:
        """Return the seconds that the account has used, with those of the current step."""
        step = 0.0 if self.step_began is None else clock.source.monotonic() - self.step_began
        return self.account.used + step

    def drive(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Return an awaitable that does the work in steps, each when it has a turn.

        Within a step of driven work it is the work itself.
        """
        return DrivenWork(self, work) if self.step_began is None else work

    def end_step(self) -> None:
        """Charge the step."""
        if self.step_began is not None:
            self.account.charge(clock.source.monotonic() - self.step_began)
            self.step_began = None


class DrivenWork(Generic[T]):
    """A coroutine whose steps are charged, and wait for turns."""

    __slots__ = ("_driver", "_work")

    def __init__(self, driver: Driver, work: Coroutine[Any, Any, T]) -> None:
        self._driver = driver
        self._work = work

    def __await__(self) -> Generator[Any, None, T]:
        driver, work = self._driver, self._work
        turns, error = driver.turns, None
        try:
            while True:
                if error is None and not turns.are_needed():
                    awaited = work.send(None)
                else:
                    if error is None and driver.account.must_wait:
                        error = yield from _turn(driver)
                    driver.step_began = clock.source.monotonic()
                    try:
                        awaited = work.send(None) if error is None else work.throw(error)
                    finally:
                        error = None
                        driver.end_step()
                try:
                    yield awaited
                except GeneratorExit:
                    work.close()
                    raise
                except BaseException as thrown:  # noqa: BLE001 (it is the work's)
                    error = thrown
        except StopIteration as end:
            result: T = end.value
            return result


def _turn(driver: Driver) -> Generator[Any, None, BaseException | None]:
    """Wait for a turn; return what was thrown meanwhile, which is for the work."""
    try:
        yield from driver.account.turn(driver.address).__await__()
    except GeneratorExit:
        raise
    except BaseException as thrown:  # noqa: BLE001
        return thrown
    return None
