"""Turns of the event loop's time, by owner.

What the input and the handlers of an owner take on the event loop is charged to it. An owner that
has used `QUANTUM` waits until the event loop has served what is ready of all others. So everybody
waits for a few ms of each other owner, however much one of them sends. All strangers are one owner,
whose addresses take turns.

The first ms of an iteration of the event loop are not charged, since nobody notices them: most
iterations are shorter. A step that goes beyond them is charged as a whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from types import coroutine
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from proxy.runtime import clock
from proxy.sharing.turns import AddressQueue

T = TypeVar("T")

#: Seconds of the event loop's time in one turn of an owner.
QUANTUM = 0.004
#: Seconds between two checks whether an iteration has ended, so that its first 5 to 10 ms are free.
CALM = 0.005
#: Steps of an owner that are woken together.
MAX_WOKEN = 64
#: Addresses of members that are remembered.
MAX_ADDRESSES = 4096

#: What waits: reads input at once, or wakes a step. It returns whether it woke one.
_Waiting = Callable[[], bool]


class LoopAccount:
    """The time that one owner uses, and what of it waits for a turn."""

    __slots__ = ("__weakref__", "_returned", "_turns", "_waiting", "used")

    def __init__(self, turns: LoopTurns) -> None:
        self._turns = turns
        #: What was woken and found no time left; it is first in the next turn.
        self._returned: deque[_Waiting] = deque()
        #: What waits, by address.
        self._waiting: AddressQueue[_Waiting] = AddressQueue()
        #: Seconds used in this round.
        self.used = 0.0

    @property
    def must_wait(self) -> bool:
        """Whether new work has to wait."""
        return self.used >= QUANTUM or bool(self._waiting or self._returned)

    def charge(self, seconds: float) -> None:
        """Count time that was used."""
        self.used += seconds
        self._turns.renew(self)

    def add(self, address: str, waiting: _Waiting) -> None:
        """Let something wait for the next turn, last of its address."""
        self._waiting.add(address, waiting)
        self._turns.renew(self)

    async def turn(self, address: str) -> None:
        """Wait for a turn with time that is left."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        self.add(address, partial(_wake, woken))
        await woken
        while self.used >= QUANTUM:  # others that were woken have used it up
            woken = loop.create_future()
            self._returned.append(partial(_wake, woken))
            await woken

    def begin_turn(self) -> None:
        """Serve what waits for as long as a turn lasts."""
        self.used, woken = 0.0, 0
        while self._returned and self.used < QUANTUM:
            woken += self._returned.popleft()()
        while self._waiting and self.used < QUANTUM and woken < MAX_WOKEN:
            woken += self._waiting.pop()()
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
        #: When the current step began.
        self.now = 0.0
        #: Until when nothing is charged, and whether the iteration in which that began goes on.
        self._calm_until, self._goes_on = 0.0, False
        self._members: WeakValueDictionary[str, LoopAccount] = WeakValueDictionary()
        self._addresses: dict[str, LoopAccount] = {}
        #: Who has a turn in the next round.
        self._next: dict[LoopAccount, None] = {}

    def is_calm(self) -> bool:
        """Return whether the current iteration is short until now, so that nobody has to wait."""
        self.now = now = clock.source.monotonic()
        return now < self._calm_until or self._begin_calm(now)

    def _begin_calm(self, now: float) -> bool:
        """Begin to look at the current iteration, unless it is the one that was looked at."""
        if not self._goes_on:
            self._calm_until, self._goes_on = now + CALM, True
            asyncio.get_running_loop().call_soon(self._end_iteration)
        return now < self._calm_until

    def charge(self, account: LoopAccount, began: float, *, is_calm: bool) -> None:
        """Charge a step that began then, unless that `is_calm` and the iteration still is."""
        ended = clock.source.monotonic()
        if not is_calm or ended >= self._calm_until:
            account.charge(ended - began)

    def _end_iteration(self) -> None:
        self._goes_on = False

    def of_member(self, member: str, address: str = "") -> LoopAccount:
        """Return the account of a member, who may be at an address.

        From now on connections from there are apart from those of strangers before they say who
        they are.
        """
        if address and address not in self._addresses:
            self._addresses[address] = LoopAccount(self)
            if len(self._addresses) > MAX_ADDRESSES:
                del self._addresses[next(iter(self._addresses))]
        account = self._members.get(member)
        if account is None:
            account = self._members[member] = LoopAccount(self)
        return account

    def of_stranger(self, address: str) -> LoopAccount:
        """Return the account of a new connection from an address."""
        return self._addresses.get(address, self.strangers)

    def renew(self, account: LoopAccount) -> None:
        """Give an account a turn in the next round."""
        if not self._next:
            # The event loop polls between the two calls, and serves what is ready of others.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._begin_round)
        self._next[account] = None

    def _begin_round(self) -> None:
        accounts, self._next = self._next, {}
        for account in accounts:
            account.begin_turn()


class Driver:
    """Drives the work of one connection, and charges each step to its owner's account."""

    __slots__ = ("account", "address", "turns")

    def __init__(self, turns: LoopTurns, account: LoopAccount, address: str) -> None:
        self.turns = turns
        #: Whose time is used; a step is charged to the account at its end.
        self.account = account
        self.address = address

    async def give_way(self) -> None:
        """Let others go on within a step that may take long."""
        if not self.turns.is_calm():
            await asyncio.sleep(0)

    @coroutine
    def drive(self, work: Coroutine[Any, Any, T]) -> Generator[Any, None, T]:
        """Do the work in steps, each when it has a turn, and return its result."""
        turns, has_begun = self.turns, False
        awaited: Any = None
        while True:
            error: BaseException | None = None
            try:
                if has_begun:
                    yield awaited
                is_calm = turns.is_calm()
                if not is_calm and self.account.must_wait:
                    yield from self.account.turn(self.address).__await__()
                    is_calm = turns.is_calm()
            except GeneratorExit:
                work.close()
                raise
            except BaseException as thrown:  # noqa: BLE001 (it is the work's)
                error, is_calm = thrown, turns.is_calm()
            has_begun, began = True, turns.now
            try:
                awaited = work.send(None) if error is None else work.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                turns.charge(self.account, began, is_calm=is_calm)


def driver_of(turns: LoopTurns, name: str = "") -> Driver:
    """Return a driver of work that has an account of its own, such as what an upstream sends."""
    return Driver(turns, LoopAccount(turns), name)


def new_driver() -> Driver:
    """Return a driver with turns of its own, where nobody gives others."""
    return driver_of(LoopTurns())
