"""ThreadTurns for blocking work: one for each owner, in the order of owners."""

from __future__ import annotations

import asyncio
import threading

import pytest

from proxy.threads import WORKERS, ThreadTurns


async def test_an_owner_has_one_piece_of_work_at_a_time() -> None:
    turns, running, limit = ThreadTurns(), 0, 0
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
    turns = ThreadTurns()
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
    turns = ThreadTurns()
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
    turns = ThreadTurns()
    with pytest.raises(ZeroDivisionError):
        await turns.run("ann", lambda: 1 // 0)
    assert await turns.run("ann", lambda: 2) == 2
