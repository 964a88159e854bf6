"""Turns of the event loop's time, with a clock that only the work moves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest

from proxy.runtime import clock as clock_module
from proxy.sharing import loop_turns
from proxy.sharing.loop_turns import QUANTUM, Driver, LoopTurns

#: Four of them use up a turn.
STEP = 0.3 * QUANTUM


class WorkClock:
    """The time that all work has used."""

    def __init__(self) -> None:
        self.now = 1.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WorkClock:
    work_clock = WorkClock()
    monkeypatch.setattr(clock_module, "source", work_clock)
    return work_clock


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> LoopTurns:
    """Turns of which each iteration is too long."""
    monkeypatch.setattr(loop_turns, "CALM", 0.0)
    return LoopTurns()


async def finished(driver: Driver, work: Coroutine[Any, Any, Any]) -> Any:
    return await driver.drive(work)


def stranger(turns: LoopTurns, number: int) -> Driver:
    address = f"10.0.0.{number}"
    return Driver(turns, turns.of_stranger(address), address)


def member(turns: LoopTurns, name: str, address: str = "10.1.0.1") -> Driver:
    return Driver(turns, turns.of_member(name, address), address)


async def test_others_wait_for_one_turn_of_an_owner_with_much_work(
    clock: WorkClock, turns: LoopTurns
) -> None:
    done = Counter[str]()

    async def work(name: str) -> None:
        clock.now += STEP
        done[name] += 1

    greedy = [asyncio.create_task(finished(member(turns, "eve"), work("eve"))) for _ in range(200)]
    other = asyncio.create_task(finished(member(turns, "bob"), work("bob")))
    await other
    assert done["eve"] <= 4
    await asyncio.gather(*greedy)
    assert done["eve"] == 200


async def test_steps_of_one_work_wait_for_turns_too(clock: WorkClock, turns: LoopTurns) -> None:
    steps = 0

    async def work() -> None:
        nonlocal steps
        for _ in range(100):
            clock.now += 1.01 * QUANTUM
            steps += 1
            await asyncio.sleep(0)

    greedy = asyncio.create_task(finished(member(turns, "eve"), work()))
    for _ in range(9):
        await asyncio.sleep(0)
    assert 2 <= steps <= 4
    await greedy
    assert steps == 100


async def test_an_owner_that_uses_little_in_each_iteration_never_waits(
    clock: WorkClock, turns: LoopTurns
) -> None:
    driver = member(turns, "ann")

    async def work() -> None:
        clock.now += STEP

    for _ in range(100):
        await driver.drive(work())
        assert not driver.account.must_wait
        await asyncio.sleep(0)


async def test_the_beginning_of_an_iteration_is_not_charged(
    clock: WorkClock, turns: LoopTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_turns, "CALM", 5.5 * QUANTUM)
    driver, done = member(turns, "eve"), 0

    async def work() -> None:
        nonlocal done
        clock.now += QUANTUM
        done += 1

    tasks = [asyncio.create_task(finished(driver, work())) for _ in range(20)]
    await asyncio.sleep(0)
    assert done == 6  # the last of them is charged
    await asyncio.gather(*tasks)


async def test_a_step_that_goes_beyond_the_beginning_is_charged_as_a_whole(
    clock: WorkClock, turns: LoopTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_turns, "CALM", QUANTUM)
    driver = member(turns, "eve")

    async def work() -> None:
        clock.now += 20 * QUANTUM

    await driver.drive(work())
    assert driver.account.used == pytest.approx(20 * QUANTUM)
    assert driver.account.must_wait


async def test_calm_returns_after_the_end_of_a_long_iteration(
    clock: WorkClock, turns: LoopTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_turns, "CALM", QUANTUM)
    assert turns.is_calm()
    clock.now += QUANTUM
    assert not turns.is_calm()
    await asyncio.sleep(0)
    assert turns.is_calm()


async def test_addresses_of_strangers_take_turns(clock: WorkClock, turns: LoopTurns) -> None:
    order: list[int] = []

    async def work(number: int) -> None:
        clock.now += 1.01 * QUANTUM
        order.append(number)

    numbers = [1] * 50 + [2] * 5
    await asyncio.gather(*(finished(stranger(turns, number), work(number)) for number in numbers))
    assert order[:1] == [1]
    assert Counter(order[1:11]) == {1: 5, 2: 5}


async def test_the_address_of_a_member_is_apart_from_strangers(turns: LoopTurns) -> None:
    assert turns.of_stranger("10.0.0.1") is turns.of_stranger("10.0.0.2") is turns.strangers
    ann = turns.of_member("ann", "10.0.0.1")
    assert turns.of_stranger("10.0.0.1") not in (turns.strangers, ann)
    assert turns.of_member("ann", "10.0.0.3") is ann


async def test_few_addresses_of_members_are_remembered(
    turns: LoopTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_turns, "MAX_ADDRESSES", 2)
    for number in range(3):
        turns.of_member("ann", f"10.0.0.{number}")
    known = [turns.of_stranger(f"10.0.0.{number}") is not turns.strangers for number in range(3)]
    assert known == [False, True, True]


async def test_a_step_is_charged_to_who_was_admitted_in_it(
    clock: WorkClock, turns: LoopTurns
) -> None:
    driver = stranger(turns, 1)
    account = turns.of_member("ann", "10.0.0.1")

    async def work() -> None:
        driver.account = account
        clock.now += 0.002

    await driver.drive(work())
    assert turns.strangers.used == 0
    assert account.used == pytest.approx(0.002)


async def test_who_was_admitted_waits_for_a_turn_of_its_own(
    clock: WorkClock, turns: LoopTurns
) -> None:
    busy, driver, went_on = member(turns, "eve"), stranger(turns, 1), False
    busy.account.charge(QUANTUM)

    async def work() -> None:
        nonlocal went_on
        driver.account = turns.of_member("eve", "10.0.0.1")
        await driver.give_way()
        went_on = True

    task = asyncio.create_task(finished(driver, work()))
    await asyncio.sleep(0)
    assert not went_on
    await task


async def test_work_gives_way_only_in_a_long_iteration(
    clock: WorkClock, turns: LoopTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_turns, "CALM", 2.5 * STEP)
    driver = member(turns, "ann")
    steps = 0

    async def work() -> None:
        nonlocal steps
        for _ in range(9):
            clock.now += STEP
            await driver.give_way()
            steps += 1

    task = asyncio.create_task(finished(driver, work()))
    await asyncio.sleep(0)
    assert steps == 2
    await task


async def test_work_returns_what_it_returns_and_raises_what_it_raises(turns: LoopTurns) -> None:
    async def work(value: int) -> int:
        await asyncio.sleep(0)
        if not value:
            raise ValueError("nothing")
        return value

    driver = member(turns, "ann")
    assert await driver.drive(work(5)) == 5
    with pytest.raises(ValueError, match="nothing"):
        await driver.drive(work(0))


@pytest.mark.parametrize("waits", [False, True])
async def test_work_is_cancelled_where_it_is(turns: LoopTurns, waits: bool) -> None:
    driver, seen = member(turns, "ann"), list[str]()

    async def work() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
        return "answered"

    task = asyncio.create_task(finished(driver, work()))
    await asyncio.sleep(0)
    if waits:
        driver.account.charge(QUANTUM)
    task.cancel()
    assert (await task, seen) == ("answered", ["cancelled"])


async def test_a_time_limit_ends_driven_work(turns: LoopTurns) -> None:
    async def work() -> None:
        async with asyncio.timeout(0):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await member(turns, "ann").drive(work())


async def test_what_gave_up_waiting_takes_no_turn(clock: WorkClock, turns: LoopTurns) -> None:
    done = 0

    async def work() -> None:
        nonlocal done
        clock.now += 1.01 * QUANTUM
        done += 1

    driver = member(turns, "ann")
    tasks = [asyncio.create_task(finished(driver, work())) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks[:-1]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert done == 2
