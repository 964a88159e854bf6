"""Waits that end."""

from __future__ import annotations

import asyncio

from proxy.runtime.waits import stop, until_set


async def test_a_wait_ends_when_the_event_is_set() -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(until_set(event, 600))
    await asyncio.sleep(0)
    event.set()
    assert await waiting


async def test_a_wait_in_vain_ends_after_its_time() -> None:
    assert not await until_set(asyncio.Event(), 0.01)


async def test_who_is_cancelled_waits_no_longer() -> None:
    waiting = asyncio.create_task(until_set(asyncio.Event(), 600))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


async def test_stopped_tasks_have_ended_however_they_do() -> None:
    async def ends_late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            raise ValueError("a bug")

    late = asyncio.create_task(ends_late())
    never = asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    await stop(late, None, never)
    assert isinstance(late.exception(), ValueError)
    assert never.cancelled()
