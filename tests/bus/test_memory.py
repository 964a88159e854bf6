"""What any bus keeps to, and what the one in memory adds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.bus.base import MISSED, EventBus
from proxy.bus.memory import MemoryBus


@dataclass(frozen=True)
class News:
    """A message as the rooms send them."""

    number: int


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    opened = MemoryBus()
    yield opened
    await opened.close()


async def read(messages: AsyncIterator[Any], count: int) -> list[Any]:
    return [await anext(messages) for _ in range(count)]


# --- the contract of every bus -------------------------------------------------------------


async def test_messages_come_in_order_to_every_subscriber_of_the_topic(bus: EventBus) -> None:
    with bus.stream("job.anna.a") as one, bus.stream("job.anna.a") as two, bus.stream("x") as no:
        for number in range(100):
            bus.publish("job.anna.a", News(number))
        bus.publish("x", News(-1))
        wanted = [News(number) for number in range(100)]
        assert await read(aiter(one), 100) == wanted
        assert await read(aiter(two), 100) == wanted
        assert await read(aiter(no), 1) == [News(-1)]


async def test_a_handler_is_called(bus: EventBus) -> None:
    heard = asyncio.Queue[News]()
    bus.subscribe("jobs.received", heard.put_nowait)
    bus.publish("jobs.received", News(1))
    assert await heard.get() == News(1)


async def test_a_star_stands_for_the_rest_of_the_topic(bus: EventBus) -> None:
    with bus.stream("queue.*") as some, bus.stream("*") as all_:
        for topic, number in (("queue.anna", 1), ("other", 2), ("queue.ben", 3)):
            bus.publish(topic, News(number))
        assert await read(aiter(some), 2) == [News(1), News(3)]
        assert await read(aiter(all_), 3) == [News(1), News(2), News(3)]


async def test_a_subscriber_that_fails_keeps_nothing_from_the_others(bus: EventBus) -> None:
    def fail(_: News) -> None:
        raise LookupError("mine")

    with capture_logs() as logs:
        bus.subscribe("a", fail)
        with bus.stream("a") as stream:
            bus.publish("a", News(1))
            bus.publish("a", News(2))
            assert await read(aiter(stream), 2) == [News(1), News(2)]
    assert [line["event"] for line in logs] == ["subscriber_failed"] * 2


async def test_who_has_left_hears_nothing(bus: EventBus) -> None:
    heard: list[News] = []
    subscription = bus.subscribe("a", heard.append)
    with bus.stream("a") as stream:
        subscription.close()
        subscription.close()
        bus.publish("a", News(1))
        await read(aiter(stream), 1)
    assert heard == []


async def test_a_reader_that_is_too_slow_loses_droppable_messages_first(bus: EventBus) -> None:
    with bus.stream("a", most_messages=3) as stream:
        for number in range(6):
            bus.publish("a", News(number), droppable=number % 2 == 0)
        assert await read(aiter(stream), 3) == [News(1), News(3), News(5)]


async def test_a_reader_hears_that_it_has_missed_messages(bus: EventBus) -> None:
    with bus.stream("a", most_bytes=100) as stream:
        for number in range(4):
            bus.publish("a", News(number), size=40)
        assert await read(aiter(stream), 2) == [MISSED, News(3)]
        bus.publish("a", News(4), size=1000)
        assert await read(aiter(stream), 1) == [MISSED]


async def test_a_stream_ends_behind_what_waits(bus: EventBus) -> None:
    stream = bus.stream("a")
    bus.publish("a", News(1))
    await asyncio.sleep(0)
    await bus.close()
    assert [message async for message in stream] in ([News(1)], [])
    bus.publish("a", News(2))


# --- the bus in memory ---------------------------------------------------------------------


async def test_a_handler_has_heard_when_publish_returns() -> None:
    heard: list[News] = []
    bus = MemoryBus()
    bus.subscribe("a", heard.append)
    news = News(1)
    bus.publish("a", news)
    assert heard[0] is news


async def test_what_a_handler_publishes_comes_behind_for_everybody() -> None:
    heard: list[int] = []
    bus = MemoryBus()

    def answer(news: News) -> None:
        if news.number == 1:
            bus.publish("a", News(2))

    bus.subscribe("a", answer)
    bus.subscribe("a", lambda news: heard.append(news.number))
    bus.publish("a", News(1))
    assert heard == [1, 2]


async def test_a_handler_that_leaves_during_a_message_hears_no_more() -> None:
    heard: list[News] = []
    bus = MemoryBus()
    bus.subscribe("a", lambda _: second.close())
    second = bus.subscribe("a", heard.append)
    bus.publish("a", News(1))
    assert heard == []
