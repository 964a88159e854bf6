"""How `status` reaches few sockets and many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from proxy.api import crowd
from proxy.api.crowd import Crowd
from proxy.translate.messages import Message, status


class Ear:
    """A socket that remembers what it was told."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.pricked = asyncio.Event()

    def deliver_held(self, message: Message) -> None:
        self.heard.append(message)
        self.pricked.set()

    def forget(self) -> None:
        self.heard.clear()
        self.pricked.clear()

    def leave(self, code: int, reason: str) -> asyncio.Task[None]:
        self.goodbye = (code, reason)
        return asyncio.create_task(asyncio.sleep(0))


@pytest.fixture
def gather() -> Callable[[int], tuple[Crowd, list[Ear]]]:
    def make(count: int) -> tuple[Crowd, list[Ear]]:
        room, ears = Crowd(), [Ear() for _ in range(count)]
        for ear in ears:
            room.join(ear)
        return room, ears

    return make


Gather = Callable[[int], tuple[Crowd, list[Ear]]]


async def everybody(ears: list[Ear]) -> None:
    async with asyncio.timeout(60):
        for ear in ears:
            await ear.pricked.wait()


async def test_a_few_hear_it_at_once(gather: Gather) -> None:
    room, ears = gather(crowd.FEW)
    assert not any(room.hold(ear, status(1)) for ear in ears)


async def test_in_a_crowd_each_hears_it_in_its_turn(gather: Gather) -> None:
    room, ears = gather(crowd.FEW + 200)
    assert all(room.hold(ear, status(1)) for ear in ears)
    await everybody(ears)
    assert all(ear.heard == [status(1)] for ear in ears)


async def test_only_the_newest_is_heard(gather: Gather) -> None:
    room, ears = gather(crowd.FEW + 1)
    for number in range(5):
        for ear in ears:
            room.hold(ear, status(number))
    await everybody(ears)
    assert all(ear.heard == [status(4)] for ear in ears)


async def test_what_is_taken_is_not_told_again(gather: Gather) -> None:
    room, ears = gather(crowd.FEW + 1)
    for ear in ears:
        room.hold(ear, status(1))
    assert room.take(ears[7]) == status(1)
    assert room.take(ears[7]) is None
    await everybody(ears[:7] + ears[8:])
    assert ears[7].heard == []


async def test_who_has_left_hears_nothing(gather: Gather) -> None:
    room, ears = gather(crowd.FEW + 2)
    for ear in ears:
        room.hold(ear, status(1))
    room.leave(ears[-1])
    await everybody(ears[:-1])
    assert ears[-1].heard == []


async def test_what_comes_later_is_told_too(gather: Gather) -> None:
    room, ears = gather(crowd.FEW + 1)
    for number in range(3):
        for ear in ears:
            ear.forget()
            room.hold(ear, status(number))
        await everybody(ears)
        assert all(ear.heard == [status(number)] for ear in ears)


async def test_goodbyes_are_said_to_all(gather: Gather) -> None:
    room, ears = gather(3)
    await room.close(1001, "away")
    assert [ear.goodbye for ear in ears] == [(1001, "away")] * 3
    await Crowd().close(1001, "nobody is there")
