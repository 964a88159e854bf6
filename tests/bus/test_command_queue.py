"""Commands are answered in the order in which they are sent; messages that wait are bounded."""

from __future__ import annotations

import asyncio

from proxy.bus.command_queue import Command, CommandQueue


def put(queue: CommandQueue, *names: str, size: int = 10, droppable: bool = False) -> bool:
    kept = [queue.put_message((name,), size, droppable=droppable) for name in names]
    return all(kept)


async def batch(queue: CommandQueue) -> list[str | bytes]:
    return [command[0] for command in await queue.next_batch()]


async def test_commands_are_sent_in_their_order_as_soon_as_there_are_some() -> None:
    queue = CommandQueue(100)
    sent = asyncio.create_task(queue.next_batch())
    await asyncio.sleep(0)
    queue.put(("a", "1"))
    put(queue, "b")
    expected: list[Command] = [("a", "1"), ("b",)]
    assert await sent == expected
    assert not queue.is_empty
    queue.answered()
    queue.answered()
    assert queue.is_empty


async def test_a_waiter_is_released_by_the_answers_to_what_was_before_it() -> None:
    queue = CommandQueue(100)
    put(queue, "a", "b")
    answers = asyncio.create_task(queue.answers())
    await asyncio.sleep(0)
    put(queue, "c")
    assert await batch(queue) == ["a", "b", "c"]
    queue.answered()
    await asyncio.sleep(0)
    assert not answers.done()
    queue.answered()
    await answers
    assert not queue.is_empty


async def test_a_waiter_behind_what_is_answered_is_released_when_more_is_sent() -> None:
    queue = CommandQueue(100)
    answers = asyncio.create_task(queue.answers())
    await asyncio.sleep(0)
    put(queue, "a")
    assert await batch(queue) == ["a"]
    await answers


async def test_a_round_trip_is_shared_until_it_is_sent() -> None:
    queue = CommandQueue(100)
    first = queue.round_trip()
    assert queue.round_trip() is first
    assert await batch(queue) == ["PING"]
    second = queue.round_trip()
    assert second is not first
    queue.answered()
    assert first.done()
    assert not second.done()


async def test_cleared_commands_are_not_sent_and_all_waiters_are_released() -> None:
    queue = CommandQueue(100)
    sent, waits = queue.round_trip(), asyncio.create_task(queue.answers())
    await batch(queue)
    unsent = queue.round_trip()
    await asyncio.sleep(0)
    queue.clear()
    await waits
    assert sent.done()
    assert unsent.done()
    assert queue.is_empty
    put(queue, "a")
    assert await batch(queue) == ["a"]


async def test_droppable_messages_are_dropped_first_the_oldest_before_others() -> None:
    queue = CommandQueue(100)
    assert put(queue, "p1", "p2", "p3", "p4", "p5", "p6", droppable=True)
    assert put(queue, "a", "b", "c", "d", "e")
    assert await batch(queue) == ["p5", "p6", "a", "b", "c", "d", "e"]


async def test_all_messages_are_lost_if_nothing_can_be_dropped_but_no_other_command() -> None:
    queue = CommandQueue(100)
    assert put(queue, *"abcdefghij")
    queue.put(("SUBSCRIBE",))
    answers = asyncio.create_task(queue.answers())
    await asyncio.sleep(0)
    assert not put(queue, "k")
    assert put(queue, "l")
    assert await batch(queue) == ["SUBSCRIBE", "l"]
    queue.answered()
    await answers


async def test_a_batch_is_bounded_so_that_what_waits_can_still_be_dropped() -> None:
    queue = CommandQueue(2**20)
    put(queue, "a", "b", "c", size=200 * 1024)
    assert await batch(queue) == ["a", "b"]
    assert await batch(queue) == ["c"]
