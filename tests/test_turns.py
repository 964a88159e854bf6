"""Turns: so many at once in all, so many of one owner, and owners one after another."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack

import pytest
from stack import Proxy

from proxy.api.keys import JOBS, TURNS
from proxy.packs.service import Packs
from proxy.sharing.owners import ENGINE, Owner, member_owner, stranger
from proxy.sharing.pool import Pool
from proxy.sharing.turns import (
    ENGINE_QUANTUM,
    WORKERS,
    CrowdedError,
    TurnQueue,
    Turns,
    thread_turns,
)

ANN, BOB, EVE = member_owner("ann"), member_owner("bob"), member_owner("eve")


async def test_an_owner_has_one_piece_of_work_at_a_time() -> None:
    turns, running, limit = thread_turns(), 0, 0
    lock = threading.Lock()
    go = threading.Event()

    def work() -> None:
        nonlocal running, limit
        with lock:
            running += 1
            limit = max(limit, running)
        go.wait(5)
        with lock:
            running -= 1

    tasks = [asyncio.create_task(turns.run("ann", work)) for _ in range(5)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*tasks)
    assert limit == 1


async def test_another_owner_does_not_wait_behind_all_of_one() -> None:
    turns = thread_turns()
    begun, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def block() -> None:
        loop.call_soon_threadsafe(begun.set)
        go.wait(5)

    tasks = [asyncio.create_task(turns.run("eve", block)) for _ in range(WORKERS + 3)]
    await begun.wait()
    assert await turns.run("bob", lambda: 7) == 7
    go.set()
    await asyncio.gather(*tasks)


async def test_cancelled_work_keeps_its_turn_to_its_end() -> None:
    turns = thread_turns()
    begun, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def block() -> None:
        loop.call_soon_threadsafe(begun.set)
        go.wait(5)

    task = asyncio.create_task(turns.run("eve", block))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    after = asyncio.create_task(turns.run("eve", lambda: 1))
    done, _ = await asyncio.wait([after], timeout=0.05)
    assert not done
    go.set()
    assert await after == 1


async def test_an_error_is_the_callers_and_gives_the_turn_back() -> None:
    turns = thread_turns()
    with pytest.raises(ZeroDivisionError):
        await turns.run("ann", lambda: 1 // 0)
    assert await turns.run("ann", lambda: 2) == 2


async def test_work_waits_for_a_semaphore_that_it_needs_too() -> None:
    turns, large = Turns(1, 2), asyncio.Semaphore(1)
    async with large:
        waiting = asyncio.create_task(turns.run("ann", lambda: 3, within=[large]))
        assert await turns.run("bob", lambda: 1) == 1
        assert not waiting.done()
    assert await waiting == 3


async def test_an_owner_may_have_a_limit_of_its_own() -> None:
    turns = Turns(3, 3, limits={"write": 2})
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(turns.hold("write"))
        with pytest.raises(TimeoutError):
            await stack.enter_async_context(turns.hold("write", until=_soon()))
        await stack.enter_async_context(turns.hold("read"))
        with pytest.raises(TimeoutError):
            await stack.enter_async_context(turns.hold("read", until=_soon()))
    async with turns.hold("write"), turns.hold("write"), turns.hold("read"):
        pass


async def test_who_gives_up_leaves_the_turn_to_others() -> None:
    turns = Turns(2, 2)
    async with turns.hold("ann"), turns.hold("ann"):
        with pytest.raises(TimeoutError):
            async with turns.hold("bob", until=_soon()):
                pass
    async with turns.hold("bob"), turns.hold("bob"):
        pass


async def test_without_a_total_owners_wait_for_themselves_only() -> None:
    turns = Turns(1)
    async with turns.hold("ann"), turns.hold("bob"), turns.hold("carl"):
        with pytest.raises(TimeoutError):
            async with turns.hold("ann", until=_soon()):
                pass


async def test_owners_have_turns_one_after_another() -> None:
    turns, order = Turns(1, 1), list[str]()

    async def work(owner: str) -> None:
        async with turns.hold(owner):
            order.append(owner)

    async with turns.hold("dora"):
        tasks = [asyncio.create_task(work(owner)) for owner in ("ann", "ann", "ann", "bob")]
        await asyncio.sleep(0)
        assert turns.waiting("ann") == 3
    await asyncio.gather(*tasks)
    assert order == ["ann", "bob", "ann", "ann"]
    assert turns.waiting("ann") == 0


async def test_requests_checks_estimates_and_packs_share_their_turns(proxy: Proxy) -> None:
    submissions = proxy.services[JOBS].submissions
    checks, turns = submissions.checks, proxy.services[TURNS]
    assert isinstance(checks.packs, Packs)
    assert checks.turns is submissions.limits.estimator.turns is checks.packs.turns is turns


async def test_what_waits_has_a_share_of_a_pool_but_not_the_engine() -> None:
    pool = Pool(64, 1)
    turns = Turns(1, 1, waiting=pool)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(turns.hold(EVE))
        waiting = [asyncio.create_task(_hold(turns, EVE)) for _ in range(pool.most(EVE))]
        waiting += [asyncio.create_task(_hold(turns, ENGINE)) for _ in range(100)]
        await asyncio.sleep(0)
        with pytest.raises(CrowdedError):
            await _hold(turns, EVE)
        waiting.append(asyncio.create_task(_hold(turns, BOB)))
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert pool.used == 0


async def _hold(turns: Turns, owner: Owner) -> None:
    async with turns.hold(owner):
        pass


def popped(queue: TurnQueue[str], seconds: float = 0.0) -> list[str]:
    """Take all that waits; each piece of Eve's takes these seconds."""
    found = []
    while (name := queue.pop()) is not None:
        queue.end(EVE if name.startswith("eve") else BOB, seconds * name.startswith("eve"))
        found.append(name)
    return found


def test_the_owner_that_has_used_least_is_next() -> None:
    queue: TurnQueue[str] = TurnQueue()
    for number in range(4):
        queue.add(EVE, f"eve {number}")
    for number in range(4):
        queue.add(BOB, f"bob {number}")
    assert popped(queue, 1.0) == [
        "eve 0",
        *(f"bob {n}" for n in range(4)),
        "eve 1",
        "eve 2",
        "eve 3",
    ]


def test_who_comes_back_after_a_pause_has_saved_up_nothing() -> None:
    queue: TurnQueue[str] = TurnQueue()
    for number in range(3):
        queue.add(EVE, f"eve {number}")
        assert queue.pop() == f"eve {number}"
        queue.end(EVE, 10.0)
    for number in range(3):
        queue.add(BOB, f"bob {number}")
        queue.add(EVE, f"eve {number}")
    assert queue.pop() == "bob 0"
    queue.end(BOB, 11.0)
    assert queue.pop() == "eve 0"


def test_what_ran_without_waiting_counts() -> None:
    queue: TurnQueue[str] = TurnQueue()
    queue.begin(EVE)
    queue.end(EVE, 0.3)
    queue.add(EVE, "eve")
    queue.add(BOB, "bob")
    assert popped(queue) == ["bob", "eve"]


def test_strangers_are_one_owner_whose_addresses_take_turns() -> None:
    queue: TurnQueue[str] = TurnQueue()
    for number in range(3):
        queue.add(stranger("192.0.2.1"), f"eve {number}")
    queue.add(stranger("192.0.2.2"), "eve's neighbour")
    queue.add(BOB, "bob")
    assert [queue.pop(), queue.pop()] == ["eve 0", "bob"]
    queue.end(stranger("192.0.2.1"), 1.0)
    assert popped(queue) == ["eve's neighbour", "eve 1", "eve 2"]


def test_the_engine_goes_first_and_leaves_turns_to_others() -> None:
    queue: TurnQueue[str] = TurnQueue()
    for number in range(5):
        queue.add(BOB, f"bob {number}")
    for number in range(4):
        queue.add(ENGINE, f"engine {number}")
    order = []
    while (name := queue.pop()) is not None:
        order.append(name)
        if name.startswith("engine"):
            queue.end(ENGINE, ENGINE_QUANTUM / 2)
    assert order == [
        *("engine 0", "engine 1", "bob 0", "engine 2", "engine 3", "bob 1", "bob 2", "bob 3"),
        "bob 4",
    ]


def _soon() -> float:
    return asyncio.get_running_loop().time() + 0.02
