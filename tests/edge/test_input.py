"""Reads that wait for turns of their owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from stack import TIMEOUT
from waiting import until

from proxy.edge.aiohttp_internals import BY_TURNS
from proxy.edge.connections import Connection
from proxy.edge.input import READ, STRANGERS_READ, InputProtocol
from proxy.sharing import loop_turns
from proxy.sharing.loop_turns import QUANTUM, Driver, LoopAccount, LoopTurns
from proxy.sharing.owners import Owner


@dataclass(eq=False)
class Reader:
    """Remembers what it received."""

    driver: Driver
    owner: Owner = field(default_factory=lambda: Owner("eve"))
    transport: asyncio.Transport | None = None
    received: bytes = b""
    reads: list[int] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: BaseException | None) -> None:
        self.ended.set()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.reads.append(len(data))

    def cut(self) -> None:
        assert self.transport is not None
        self.transport.abort()

    def eof_received(self) -> None:
        self.received += b"$"

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def pause(self, reason: int) -> None:
        assert reason == BY_TURNS
        assert self.transport is not None
        self.transport.pause_reading()

    def resume(self, reason: int) -> None:
        assert reason == BY_TURNS
        assert self.transport is not None
        self.transport.resume_reading()


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setattr(loop_turns, "CALM", 0.0)
    turns = LoopTurns()
    return Reader(Driver(turns, turns.of_member("eve", ""), ""))


def held_back(reader: Reader) -> LoopAccount:
    """Use up the time of the reader's owner, whose next turn the test begins."""
    account = reader.driver.account
    account.used = QUANTUM
    account._turns._next[account] = None
    return account


@pytest.fixture
async def writer(reader: Reader) -> AsyncIterator[asyncio.StreamWriter]:
    buffer, connection = memoryview(bytearray(READ)), cast("Connection", reader)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: InputProtocol(connection, buffer), "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield writer
        writer.close()


async def test_all_input_arrives_in_small_reads_and_before_the_end(
    reader: Reader, writer: asyncio.StreamWriter
) -> None:
    sent = bytes(range(256)) * 2000
    writer.write(sent)
    writer.write_eof()
    await reader.ended.wait()
    assert reader.received == sent + b"$"
    assert max(reader.reads) <= READ


async def test_strangers_have_smaller_reads(reader: Reader, writer: asyncio.StreamWriter) -> None:
    reader.owner = Owner(address="10.0.0.1")
    writer.write(bytes(2 * READ))
    await until(lambda: len(reader.received) == 2 * READ)
    assert max(reader.reads) == STRANGERS_READ


async def test_input_of_an_owner_that_has_used_its_time_arrives_in_order(
    reader: Reader, writer: asyncio.StreamWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = bytes(range(256)) * 2000
    received = reader.data_received

    def receive(data: bytes) -> None:
        received(data)
        reader.driver.account.charge(QUANTUM)

    monkeypatch.setattr(reader, "data_received", receive)
    for start in range(0, len(sent), 5000):
        writer.write(sent[start : start + 5000])
        await writer.drain()
    writer.write_eof()
    await reader.ended.wait()
    assert reader.received == sent + b"$"
    assert max(reader.reads) <= READ


async def test_the_end_waits_for_what_came_before(
    reader: Reader, writer: asyncio.StreamWriter
) -> None:
    account = held_back(reader)
    writer.write(b"x")
    writer.write_eof()
    await until(lambda: bool(account._waiting))
    assert reader.received == b""
    reader.driver.turns._begin_round()
    assert not account.must_wait
    await reader.ended.wait()
    assert reader.received == b"x$"


async def test_no_more_than_one_read_waits(reader: Reader, writer: asyncio.StreamWriter) -> None:
    account = held_back(reader)
    writer.write(bytes(100 * READ))
    await until(lambda: bool(account._waiting))
    assert isinstance(reader.transport, asyncio.Transport)
    assert not reader.transport.is_reading()
    protocol = reader.transport.get_protocol()
    assert isinstance(protocol, InputProtocol)
    assert 0 < len(protocol._waiting) <= READ
    reader.driver.turns._begin_round()
    assert reader.transport.is_reading()
    await until(lambda: len(reader.received) == 100 * READ)


async def test_input_that_waits_is_forgotten_with_its_connection(
    reader: Reader, writer: asyncio.StreamWriter
) -> None:
    account = held_back(reader)
    writer.write(b"x")
    await until(lambda: bool(account._waiting))
    assert reader.transport is not None
    reader.transport.abort()
    await reader.ended.wait()
    reader.driver.turns._begin_round()
    assert not account.must_wait
    assert reader.received == b""


async def test_input_that_fails_in_its_turn_ends_no_turns_of_others(
    reader: Reader, writer: asyncio.StreamWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: bytes) -> None:
        raise ValueError("it broke")

    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    monkeypatch.setattr(reader, "data_received", fail)
    turns, account = reader.driver.turns, held_back(reader)
    writer.write(b"x")
    await until(lambda: bool(account._waiting))
    bob = turns.of_member("bob", "")
    turn = asyncio.create_task(bob.turn(""))
    await until(lambda: bool(bob._waiting))
    turns._begin_round()
    async with asyncio.timeout(TIMEOUT):
        await turn
        await reader.ended.wait()
    assert not account.must_wait
    assert [str(context["exception"]) for context in errors] == ["it broke"]
