"""What the bus of several processes adds: it outlives its server and tells what may be lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from bus.peers import News, listening, read, running
from redis.asyncio import Redis
from servers import ServerProcess
from structlog.testing import capture_logs
from waiting import until

from proxy.bus import MISSED, Missed, valkey
from proxy.bus.valkey import ValkeyBus


def url(server: ServerProcess, database: int = 0) -> str:
    return f"redis://127.0.0.1:{server.port}/{database}"


@pytest.fixture
async def two(own_valkey: ServerProcess) -> AsyncIterator[tuple[ValkeyBus, ValkeyBus]]:
    async with (
        running(ValkeyBus(url(own_valkey))) as here,
        running(ValkeyBus(url(own_valkey))) as there,
    ):
        yield here, there


async def until_away(*buses: ValkeyBus) -> None:
    async with asyncio.timeout(30):
        while any(bus.connected for bus in buses):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_the_own_process_hears_at_once_and_once(valkey_server: ServerProcess) -> None:
    received: list[Any] = []
    async with running(ValkeyBus(url(valkey_server))) as bus:
        bus.subscribe("a", received.append)
        await bus.flush()
        news = News(1)
        bus.publish("a", news)
        assert received[0] is news
        await bus.flush()
        assert received == [news]


async def test_a_bus_goes_on_with_a_server_that_comes_back_empty(
    two: tuple[ValkeyBus, ValkeyBus], own_valkey: ServerProcess
) -> None:
    here, there = two
    with listening(there, "a") as stream, listening(here, "a") as own:
        own_valkey.stop(signal.SIGKILL)
        await until_away(here, there)
        here.publish("a", News(1))
        await here.flush()
        assert await read(own, 1) == [News(1)]
        own_valkey.start()
        assert await read(stream, 1) == [MISSED]
        assert await here.wait_connected(30)
        await there.flush()
        here.publish("a", News(2))
        found = await read(stream, 1)
        while found == [MISSED]:  # once more, for what the other one had lost
            found = await read(stream, 1)
        assert found == [News(2)]


async def test_a_server_that_does_not_answer_is_away_until_it_does(
    two: tuple[ValkeyBus, ValkeyBus], own_valkey: ServerProcess
) -> None:
    here, there = two
    with listening(there, "a") as stream:
        own_valkey.freeze()
        await until_away(here, there)
        here.publish("a", News(1))
        async with asyncio.timeout(10):
            await here.flush()
        own_valkey.thaw()
        assert await read(stream, 1) == [MISSED]
        assert await here.wait_connected(30)


async def test_a_bus_does_not_catch_up_with_a_server_that_does_not_answer_in_time(
    own_valkey: ServerProcess,
) -> None:
    async with running(ValkeyBus(url(own_valkey))) as bus:
        bus.leads = True
        assert await bus.catch_up()
        own_valkey.freeze()
        assert not await bus.catch_up()
        own_valkey.thaw()


async def test_handlers_hear_of_what_a_dead_publisher_may_not_have_sent(
    own_valkey: ServerProcess,
) -> None:
    received = asyncio.Queue[Any]()
    async with running(ValkeyBus(url(own_valkey))) as there:
        dead = ValkeyBus(url(own_valkey))
        task = asyncio.create_task(dead.run())
        assert await dead.wait_connected(30)
        with listening(there, "a") as stream:
            await there.flush()
            dead.publish("a", News(1))
            assert await read(stream, 1) == [News(1)]
        there.subscribe("b", received.put_nowait)
        task.cancel()
        async with asyncio.timeout(30):
            assert await received.get() is MISSED


async def test_a_bus_is_not_whole_while_the_publisher_that_leads_is_silent(
    own_valkey: ServerProcess,
) -> None:
    async with running(ValkeyBus(url(own_valkey))) as there:
        follower, leader = ValkeyBus(url(own_valkey)), ValkeyBus(url(own_valkey))
        leader.leads = True
        tasks = [asyncio.create_task(bus.run()) for bus in (follower, leader)]
        for bus in (follower, leader):
            assert await bus.wait_connected(30)
        await until(lambda: there.whole and there._publishers.leader == leader._id)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        await asyncio.sleep(2)
        await until(lambda: there.whole)
        tasks[1].cancel()
        await until(lambda: not there.whole)
        assert there.connected
        async with running(ValkeyBus(url(own_valkey))) as successor:
            successor.leads = True
            await until(lambda: there.whole)


async def test_behind_a_flush_without_a_connection_the_others_know_that_they_lack_something(
    own_valkey: ServerProcess,
) -> None:
    async with running(ValkeyBus(url(own_valkey))) as there:
        leader = ValkeyBus(url(own_valkey))
        leader.leads = True
        task = asyncio.create_task(leader.run())
        assert await leader.wait_connected(30)
        await until(lambda: there.whole and there._publishers.leader == leader._id)
        task.cancel()
        await asyncio.wait([task])
        leader.publish("a", News(1))
        async with asyncio.timeout(10):
            await leader.flush()
        assert not there.whole


async def test_nobody_hears_of_a_publisher_that_leaves(own_valkey: ServerProcess) -> None:
    received: list[Any] = []
    async with running(ValkeyBus(url(own_valkey))) as there:
        there.subscribe("a", received.append)
        there.subscribe("end", received.append)
        async with running(ValkeyBus(url(own_valkey))) as here:
            await there.flush()
            here.publish("a", News(1))
        async with running(ValkeyBus(url(own_valkey))) as here:
            here.publish("end", News(2))
            await here.flush()
        await there.flush()
        assert received == [News(1), News(2)]
        assert len(there._publishers) == 0


async def test_too_much_that_waits_is_dropped_pictures_first_and_the_others_are_notified(
    own_valkey: ServerProcess,
) -> None:
    picture = bytes(1000)
    async with (
        running(ValkeyBus(url(own_valkey), max_outgoing=20_000)) as here,
        running(ValkeyBus(url(own_valkey))) as there,
    ):
        with listening(there, "a") as stream:
            await there.flush()
            for number in range(1000):  # without a pause: nothing is sent in between
                here.publish("a", News(number, picture), droppable=True)
                if number % 100 == 0:
                    here.publish("a", News(number))
            await here.flush()
            await there.flush()
            here.publish("a", News(-1))
            found = await read(stream, 1)
            while found[-1] != News(-1):
                found += await read(stream, 1)
            assert [news.number for news in found if not news.image][:-1] == [*range(0, 1000, 100)]
            assert 0 < sum(bool(news.image) for news in found) < 20
            for number in range(100):
                here.publish("a", News(number, picture))
            assert MISSED in await read(stream, 2)


async def test_what_clients_chose_lets_nobody_read_again_and_again(
    two: tuple[ValkeyBus, ValkeyBus], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    monkeypatch.setattr(valkey, "MAX_MESSAGE_BYTES", 1000)
    with listening(there, "a") as stream:
        await there.flush()
        for number in range(100):
            here.publish("a", News(number, text="\ud800"))
        await here.flush()
        assert await read(stream, 100) == [News(number, text="?") for number in range(100)]
        for number in range(500):
            here.publish("a", News(number, bytes(1001)))
            await here.flush()
        here.publish("a", News(-1))
        found = []
        while News(-1) not in found or found[-1] is not MISSED:  # one at once, one for the rest
            found += await read(stream, 1)
        assert set(map(type, found)) == {News, Missed}
        assert len(found) < 20


async def test_a_bus_is_not_whole_until_its_subscribers_know_of_all_losses(
    two: tuple[ValkeyBus, ValkeyBus], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    here.leads = True
    monkeypatch.setattr(valkey, "MAX_MESSAGE_BYTES", 1000)
    await until(lambda: there.whole and there._publishers.leader == here._id)
    for is_known in (True, False):  # at once, and after the interval
        here.publish("a", News(1, bytes(1001)))
        await here.flush()
        assert await there.catch_up() == is_known
    await until(lambda: there.whole)


async def test_what_a_newer_release_says_is_left_out(valkey_server: ServerProcess) -> None:
    client = Redis.from_url(url(valkey_server))
    async with running(ValkeyBus(url(valkey_server, 9))) as bus:
        with listening(bus, "a") as stream, capture_logs() as logs:
            await bus.flush()
            for body in ({"type": "Later", "number": 1}, {"type": "News", "number": 2, "more": []}):
                payload = bytes(9) + msgspec.msgpack.encode(body)
                await client.publish("comfy-cloud-proxy:9:a", payload)
            assert await read(stream, 1) == [News(2)]
    await client.aclose()
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["message_refused"]


async def test_databases_of_one_server_do_not_hear_each_other(
    valkey_server: ServerProcess,
) -> None:
    async with (
        running(ValkeyBus(url(valkey_server, 10))) as one,
        running(ValkeyBus(url(valkey_server, 11))) as other,
    ):
        with listening(other, "a") as stream:
            await other.flush()
            one.publish("a", News(1))
            await one.flush()
            other.publish("a", News(2))
            assert await read(stream, 1) == [News(2)]


async def test_a_password_is_sent_and_not_logged(own_valkey: ServerProcess) -> None:
    admin = Redis.from_url(url(own_valkey))
    await admin.config_set("requirepass", "a-secret")
    await admin.aclose()
    address = f"127.0.0.1:{own_valkey.port}"
    with capture_logs() as logs:
        async with running(ValkeyBus(f"redis://:a-secret@{address}")):
            pass
        bus = ValkeyBus(f"redis://:wrong-secret@{address}")
        task = asyncio.create_task(bus.run())
        assert not await bus.wait_connected(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert [line["event"] for line in warnings] == ["bus_disconnected"]
    assert "secret" not in str(logs)
