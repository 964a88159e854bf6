"""Whose turn it is to use a connection."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from proxy.storage.turns import ConnectionTurns


async def _ends(seconds: float = 0.05) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_reads_have_turns_that_writes_cannot_take() -> None:
    turns = ConnectionTurns(3, 2)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(turns.hold("write", None))
        with pytest.raises(TimeoutError):
            await stack.enter_async_context(turns.hold("write", await _ends()))
        await stack.enter_async_context(turns.hold("read", None))
        with pytest.raises(TimeoutError):
            await stack.enter_async_context(turns.hold("read", await _ends()))
        await stack.enter_async_context(turns.hold("urgent", None))
    async with turns.hold("write", None), turns.hold("write", None), turns.hold("read", None):
        pass


async def test_a_unit_that_gives_up_leaves_its_turn_to_others() -> None:
    turns = ConnectionTurns(2, 2)
    async with turns.hold("read", None), turns.hold("read", None):
        with pytest.raises(TimeoutError):
            async with turns.hold("write", await _ends()):
                pass
    async with turns.hold("write", None), turns.hold("write", None):
        pass


async def test_the_wait_to_expect_grows_with_those_that_wait_and_what_each_takes() -> None:
    turns = ConnectionTurns(1, 1)
    assert turns.expected_wait == 0

    async def write() -> None:
        async with turns.hold("write", None):
            await asyncio.sleep(0.01)

    await write()
    assert turns.expected_wait == 0, "nobody waits"
    waits = []
    async with turns.hold("write", None):
        tasks = [asyncio.create_task(write()) for _ in range(3)]
        for _ in range(3):
            await asyncio.sleep(0)
            waits.append(turns.expected_wait)
    assert waits[-1] > 0
    await asyncio.gather(*tasks)
    assert turns.expected_wait == 0
