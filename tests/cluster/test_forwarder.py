"""The network in bad weather does what the tests take it for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from cluster.forwarder import Forwarder, forwarding


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


@pytest.fixture
async def forwarder() -> AsyncIterator[Forwarder]:
    tasks = set()
    server = await asyncio.start_server(
        lambda *streams: tasks.add(asyncio.create_task(_echo(*streams))), "127.0.0.1", 0
    )
    async with forwarding(server.sockets[0].getsockname()[1]) as running:
        yield running
    server.close()
    await asyncio.gather(*tasks, return_exceptions=True)


async def connect(forwarder: Forwarder) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", forwarder.port)


async def test_it_forwards_in_both_directions(forwarder: Forwarder) -> None:
    reader, writer = await connect(forwarder)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()


async def test_a_cut_ends_connections_and_refuses_new_ones_until_it_heals(
    forwarder: Forwarder,
) -> None:
    reader, writer = await connect(forwarder)
    writer.write(b"hello")
    await reader.readexactly(5)
    forwarder.cut()
    assert await reader.read() == b""
    writer.close()
    reader, writer = await connect(forwarder)
    assert await reader.read() == b""
    writer.close()
    forwarder.heal()
    await test_it_forwards_in_both_directions(forwarder)


async def test_a_reset_breaks_connections_and_takes_new_ones(forwarder: Forwarder) -> None:
    reader, writer = await connect(forwarder)
    writer.write(b"hello")
    await reader.readexactly(5)
    forwarder.reset()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    await test_it_forwards_in_both_directions(forwarder)


async def test_a_hole_is_silent_and_its_connections_break_when_it_heals(
    forwarder: Forwarder,
) -> None:
    reader, writer = await connect(forwarder)
    writer.write(b"hello")
    await reader.readexactly(5)
    forwarder.hole()
    writer.write(b"lost")
    fresh, fresh_writer = await connect(forwarder)
    fresh_writer.write(b"lost, too")
    reading = [asyncio.create_task(stream.readexactly(1)) for stream in (reader, fresh)]
    done, _ = await asyncio.wait(reading, timeout=0.2)
    assert not done
    forwarder.heal()
    for task in reading:
        with pytest.raises(ConnectionResetError):
            await task
    await test_it_forwards_in_both_directions(forwarder)
