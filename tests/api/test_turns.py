"""Turns of members on the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter

from proxy.api.turns import MAX_BEGUN, LoopTurns, MemberTurns


async def test_few_of_much_work_begins_in_an_iteration_of_the_event_loop() -> None:
    turns, began, iteration = LoopTurns(), Counter[int](), 0
    loop = asyncio.get_running_loop()

    def count() -> None:
        nonlocal iteration
        iteration += 1
        ticking[0] = loop.call_soon(count)

    async def work() -> None:
        await turns.take()
        began[iteration] += 1

    ticking = [loop.call_soon(count)]
    working = [asyncio.create_task(work()) for _ in range(10 * MAX_BEGUN)]
    await asyncio.sleep(0)
    for task in working[-MAX_BEGUN:]:
        task.cancel()
    await asyncio.gather(*working, return_exceptions=True)
    ticking[0].cancel()
    assert began.total() == 9 * MAX_BEGUN
    assert max(began.values()) == MAX_BEGUN
    assert len(began) == 9


async def test_members_have_their_own_turns_while_they_use_them() -> None:
    members = MemberTurns()
    turns = members.of("ann")
    assert members.of("ann") is turns
    assert members.of("bob") is not turns
