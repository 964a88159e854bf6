"""What every bus keeps to, between subscribers and a publisher of one process and of two."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import NamedTuple

import pytest
from bus.peers import News, listening, read, running
from servers import ServerProcess
from structlog.testing import capture_logs

from proxy.bus import EventBus
from proxy.bus.valkey import ValkeyBus

#: A test hears nothing of the one before: a server has 16 databases.
_databases = itertools.cycle(range(16))


class Buses(NamedTuple):
    """Where messages are published, and where they are heard."""

    publisher: EventBus
    subscriber: EventBus

    async def settle(self) -> None:
        """Let what was subscribed, and then what was published, take effect."""
        await self.subscriber.flush()
        await self.publisher.flush()


@pytest.fixture(params=["memory", "valkey", "two on valkey"])
async def buses(request: pytest.FixtureRequest) -> AsyncIterator[Buses]:
    if request.param == "memory":
        bus = EventBus()
        yield Buses(bus, bus)
        await bus.close()
        return
    server: ServerProcess = request.getfixturevalue("valkey_server")
    url = f"redis://127.0.0.1:{server.port}/{next(_databases)}"
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running(ValkeyBus(url)))
        if request.param == "valkey":
            yield Buses(first, first)
        else:
            yield Buses(first, await stack.enter_async_context(running(ValkeyBus(url))))


async def test_messages_come_in_order_to_every_subscriber_of_the_topic(buses: Buses) -> None:
    here, there = buses
    with (
        listening(there, "job.an:na.a") as one,
        listening(there, "job.an:na.a") as two,
        listening(there, "x") as other,
    ):
        await buses.settle()
        for number in range(1000):
            here.publish("job.an:na.a", News(number))
        here.publish("x", News(-1))
        wanted = [News(number) for number in range(1000)]
        assert await read(one, 1000) == wanted
        assert await read(two, 1000) == wanted
        assert await read(other, 1) == [News(-1)]


async def test_a_handler_is_called(buses: Buses) -> None:
    received = asyncio.Queue[News]()
    buses.subscriber.subscribe("jobs.received", received.put_nowait)
    await buses.settle()
    buses.publisher.publish("jobs.received", News(1))
    async with asyncio.timeout(30):
        assert await received.get() == News(1)


async def test_no_character_of_a_topic_stands_for_others(buses: Buses) -> None:
    here, there = buses
    with listening(there, "q*") as star, listening(there, "q*[?.x") as odd:
        await buses.settle()
        for number, topic in enumerate(("queue", "q*[?.x", "q*", "q")):
            here.publish(topic, News(number))
        here.publish("q*[?.x", News(4))
        assert await read(odd, 2) == [News(1), News(4)]
        assert await read(star, 1) == [News(2)]


async def test_a_subscriber_that_fails_keeps_nothing_from_the_others(buses: Buses) -> None:
    def fail(_: News) -> None:
        raise LookupError("mine")

    here, there = buses
    with capture_logs() as logs:
        there.subscribe("a", fail)
        with listening(there, "a") as stream:
            await buses.settle()
            here.publish("a", News(1))
            here.publish("a", News(2))
            assert await read(stream, 2) == [News(1), News(2)]
    assert [line["event"] for line in logs if line["log_level"] == "error"] == [
        "subscriber_failed"
    ] * 2


async def test_who_has_left_hears_nothing(buses: Buses) -> None:
    received: list[News] = []
    here, there = buses
    subscription = there.subscribe("a", received.append)
    with listening(there, "a") as stream:
        subscription.close()
        subscription.close()
        await buses.settle()
        here.publish("a", News(1))
        await read(stream, 1)
    assert received == []


async def test_a_closed_bus_brings_nothing(buses: Buses) -> None:
    here, there = buses
    with listening(there, "a") as received:
        await buses.settle()
        await there.close()
        here.publish("a", News(1))
        await here.flush()
        assert received.empty()


async def test_who_subscribes_and_asks_at_once_hears_the_answer(buses: Buses) -> None:
    here, there = buses

    def answer(asked: News) -> None:
        here.publish(f"answers.{asked.number}", News(-asked.number))

    here.subscribe("questions", answer)
    await here.flush()
    for number in range(1, 50):
        with listening(there, f"answers.{number}") as answers:
            there.publish("questions", News(number))
            assert await read(answers, 1) == [News(-number)]


async def test_a_flush_bounds_when_others_hear(buses: Buses) -> None:
    """The server has all before the flush ends: who asks it then finds no message on the way."""
    here, there = buses
    received: list[News] = []
    there.subscribe("a", received.append)
    await buses.settle()
    for number in range(100):
        here.publish("a", News(number))
    await here.flush()
    await there.catch_up()
    assert len(received) == 100
