"""Connections: slow, silent, many and large ones, and those of somebody whose access ends."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs
from waiting import until
from wire import HEAD, POST, rest

from proxy.edge import connections, counted_connections, limited_connection
from proxy.edge.listener import RESERVED_FILES, room_for
from proxy.logging import SummedLines
from proxy.members.directory import Directory

# --- slow clients ------------------------------------------------------------------------------


async def test_headers_that_do_not_end_close_the_connection(running: Any) -> None:
    async with running(idle_timeout=0.1) as server:
        reader, _ = await server.connect(HEAD)
        assert await rest(reader) == b""


async def test_headers_that_trickle_close_the_connection(running: Any) -> None:
    async with running(idle_timeout=0.2) as server:
        reader, writer = await server.connect()

        async def trickle() -> None:
            while True:
                writer.write(b"G")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert b"200" not in await rest(reader)
        trickling.cancel()


async def test_a_body_that_stops_is_408(running: Any) -> None:
    async with running(body_timeout=0.1) as server:
        reader, _ = await server.connect(POST + b"{")
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "request_timeout"


async def test_forms_of_strangers_that_stop_share_a_line(
    running: Any, members: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SummedLines, "interval", 60.0)
    form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\ntoken="
    head = HEAD.replace(b"GET /queue", b"POST /proxy/sign-in")
    async with running(body_timeout=0.1, members=members) as server:
        with capture_logs() as logs:
            readers = [(await server.connect(head + form))[0] for _ in range(5)]
            for reader in readers:
                assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")
    assert [log["event"] for log in logs].count("body_timed_out") == 1


async def test_a_body_that_trickles_is_408(running: Any) -> None:
    async with running(body_timeout=0.2) as server:
        reader, writer = await server.connect(POST)

        async def trickle() -> None:
            while True:
                writer.write(b" ")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")
        trickling.cancel()


async def test_a_body_of_a_form_that_stops_is_408(running: Any) -> None:
    async with running(body_timeout=0.1) as server:
        reader, _ = await server.connect(
            b"POST /upload/image HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\nxx'
        )
        assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("rest_of_body", [b"zz\r\n", b"0\r\nX: " + b"x" * 40_000 + b"\r\n"])
async def test_a_body_that_cannot_be_parsed_is_400(running: Any, rest_of_body: bytes) -> None:
    async with running() as server:
        head = POST.replace(b"Content-Length: 100000", b"Transfer-Encoding: chunked")
        reader, writer = await server.connect(head + b"1\r\n{\r\n")
        await until(lambda: bool(server.server.connections))
        (connection,) = server.server.connections
        await until(lambda: connection.task is not None)
        writer.write(rest_of_body)
        assert (await rest(reader)).startswith(b"HTTP/1.1 400 ")


async def test_a_long_body_that_comes_on_may_take_long(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limited_connection, "MIN_PROGRESS", 10)
    async with running(body_timeout=2.0) as server:
        reader, writer = await server.connect(POST.replace(b"100000", b"200"))
        for _ in range(20):
            writer.write(b" " * 10)
            await asyncio.sleep(0.15)
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")


async def test_an_answer_that_takes_long_is_not_the_clients_fault(running: Any) -> None:
    async with running(idle_timeout=0.4, body_timeout=0.4) as server:
        reader, writer = await server.connect(POST.replace(b"100000", b"14") + b'{"prompt": {}}')
        await server.began.wait()
        await asyncio.sleep(0.8)
        server.go.set()
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        writer.close()


# --- large and many ----------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "status"), [(15_000, 200), (17_000, 400)])
async def test_a_header_beyond_the_limit_is_400(running: Any, size: int, status: int) -> None:
    async with running() as server, aiohttp.ClientSession() as session:
        headers = {"X-Large": "x" * size}
        async with session.get(server.url / "queue", headers=headers) as answer:
            assert answer.status == status


async def test_headers_without_end_are_400(running: Any) -> None:
    async with running() as server:
        reader, _ = await server.connect(HEAD + b"X: y\r\n" * 200 + b"\r\n")
        assert b" 400 Bad Request" in await reader.readline()


#: `resource.RLIM_INFINITY`
INFINITE = -1


def asking(token: str, path: bytes = b"/queue") -> bytes:
    return HEAD.replace(b"/queue", path) + b"X-API-Key: " + token.encode() + b"\r\n\r\n"


async def test_one_member_never_has_all_places(
    running: Any, members: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, _ = await members.new_token("ann")
    bob, _ = await members.new_token("bob")
    async with running(max_connections=16, members=members) as server:
        for _ in range(8):
            reader, _ = await server.connect(asking(ann))
            await reader.readuntil(b"}")
        ninth, _ = await server.connect(asking(ann))
        answer = await ninth.readuntil(b"node_errors")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"too_many_connections" in answer
        other, _ = await server.connect(asking(bob))
        assert (await other.readline()) == b"HTTP/1.1 200 OK\r\n"
        monkeypatch.setattr(counted_connections, "EVICTION_IDLE", 0.0)
        tenth, _ = await server.connect(asking(ann))
        assert (await tenth.readline()) == b"HTTP/1.1 200 OK\r\n"


async def test_a_member_with_too_many_connections_is_refused_on_each_request(
    running: Any, members: Directory
) -> None:
    ann, _ = await members.new_token("ann")
    async with running(max_connections=4, members=members) as server:
        for _ in range(2):
            reader, _ = await server.connect(asking(ann))
            await reader.readuntil(b"}")
        third, writer = await server.connect()
        for _ in range(2):
            writer.write(asking(ann))
            answer = await third.readuntil(b"node_errors")
            assert b"HTTP/1.1 503 " in answer
            assert b"too_many_connections" in answer


# --- answers that nobody takes -----------------------------------------------------------------


@pytest.fixture
def large(room_of_jobs: Any) -> bytes:
    """A history that fits into no socket's buffers."""
    body = b'{"x": "' + b"y" * 50_000_000 + b'"}'

    async def history(*_: object, **__: object) -> bytes:
        return body

    room_of_jobs.history.json = history
    return body


HISTORY = HEAD.replace(b"/queue", b"/history") + b"\r\n"


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux can tell")
async def test_an_answer_that_is_not_taken_ends_the_connection(running: Any, large: bytes) -> None:
    async with running(write_timeout=0.2) as server:
        reader, writer = await server.connect(HISTORY)
        writer.transport.pause_reading()
        await until(lambda: bool(server.server.connections))
        await until(lambda: not server.server.connections)
        writer.transport.resume_reading()
        assert len(await rest(reader)) < len(large)


async def stalled(server: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Any]:
    """A client that reads nothing of a large answer, and its connection."""
    reader, writer = await server.connect(HISTORY)
    writer.transport.pause_reading()
    await until(lambda: bool(server.server.connections))
    (connection,) = server.server.connections
    await until(lambda: connection.writing_paused)
    return reader, writer, connection


async def test_no_more_of_an_answer_waits_than_is_taken(running: Any, large: bytes) -> None:
    async with running() as server:
        reader, writer, connection = await stalled(server)
        assert connection.transport.get_write_buffer_size() < 1_000_000
        writer.transport.resume_reading()
        head = await reader.readuntil(b"\r\n\r\n")
        assert f"Content-Length: {len(large)}".encode() in head
        assert await reader.readexactly(len(large)) == large


# --- clients that go away ----------------------------------------------------------------------

UPGRADE = (
    HEAD.replace(b"/queue", b"/ws") + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def gone(server: Any, connection: Any, writer: asyncio.StreamWriter) -> None:
    """Close a connection whose request has no whole answer yet, and wait for its handler."""
    writer.transport.abort()
    await until(lambda: not server.server.connections)
    await until(lambda: connection.task is None)


async def test_an_answer_whose_client_goes_away_leaves_nothing(running: Any, large: bytes) -> None:
    async with running() as server:
        _, writer, connection = await stalled(server)
        held = connection.context.budget.held()
        assert held["connection"] > 0
        await gone(server, connection, writer)
        assert held["connection"] == 0


async def test_a_stranger_who_goes_away_leaves_the_place(
    running: Any, members: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted_connections, "EVICTION_AGE", 60.0)
    form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\ntoken="
    head = HEAD.replace(b"GET /queue", b"POST /proxy/sign-in")
    async with running(max_connections=1, members=members) as server:
        _, writer = await server.connect(head + form)
        await until(lambda: bool(server.server.connections))
        (connection,) = server.server.connections
        await until(lambda: connection.task is not None)
        await gone(server, connection, writer)
        next_reader, _ = await server.connect(HEAD + b"\r\n")
        assert b" 401 " in await next_reader.readline()


async def test_a_member_who_goes_away_before_the_sign_in_leaves_the_place(
    running: Any, members: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, go, look_for = asyncio.Event(), asyncio.Event(), members.look_for

    async def look_for_later(*given: Any) -> None:
        looked.set()
        await go.wait()
        await look_for(*given)

    monkeypatch.setattr(members, "look_for", look_for_later)
    monkeypatch.setattr(counted_connections, "EVICTION_IDLE", 60.0)
    ann, _ = await members.new_token("ann")
    async with running(max_connections=1, members=members) as server:
        _, writer = await server.connect(asking(ann))
        await looked.wait()
        (connection,) = server.server.connections
        writer.transport.abort()
        await until(lambda: not server.server.connections)
        go.set()
        await until(lambda: connection.task is None)
        next_reader, _ = await server.connect(asking(ann))
        assert (await next_reader.readline()) == b"HTTP/1.1 200 OK\r\n"


async def test_messages_of_a_client_that_goes_away_hold_nothing(running: Any) -> None:
    async with running() as server:
        reader, writer = await server.connect(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        (connection,) = server.server.connections
        held = connection.context.budget.held()
        with capture_logs() as logs:
            writer.write(b"\x81\xfe\xff\xff\0\0\0\0" + b"x" * 50_000)  # unfinished
            await until(lambda: held["connection"] > 0)
            writer.transport.abort()
            await until(lambda: any(line["event"] == "socket_closed" for line in logs))
        assert held["connection"] == 0


# --- access that ends --------------------------------------------------------------------------


async def test_a_download_under_way_ends_with_its_token(
    running: Any, room_of_files: Any, members: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LEAVE_TIMEOUT", 0.05)
    room_of_files.add("a.bin", bytes(50_000_000))
    ann, _ = await members.new_token("ann")
    bob, _ = await members.new_token("bob")
    async with running(members=members) as server:
        path = b"/view?filename=a.bin&type=output"
        readers = [(await server.connect(asking(token, path)))[0] for token in (ann, bob)]
        for reader in readers:
            await reader.readuntil(b"\r\n\r\n")
        await members.revoke(ann)
        assert len(await rest(readers[0])) < 50_000_000
        assert len(await readers[1].readexactly(50_000_000)) == 50_000_000


async def test_idle_connections_of_a_revoked_token_are_closed(
    running: Any, members: Directory
) -> None:
    ann, _ = await members.new_token("ann")
    async with running(members=members) as server:
        reader, _ = await server.connect(asking(ann))
        await reader.readuntil(b"}")
        await members.revoke(ann)
        assert await rest(reader) == b""


# --- open files --------------------------------------------------------------------------------


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[tuple[int, int]]]:
    """Give the process limits; what it sets itself is returned."""
    resource = pytest.importorskip("resource")

    def give(soft: int, hard: int) -> list[tuple[int, int]]:
        asked: list[tuple[int, int]] = []
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", lambda _, pair: asked.append(pair))
        return asked

    return give


Limits = Callable[[int, int], list[tuple[int, int]]]


def test_a_low_limit_is_raised_by_what_is_needed(limits: Limits) -> None:
    asked = limits(1024, 100_000)
    assert room_for(20_000) == 20_000
    assert asked == [(20_000 + RESERVED_FILES, 100_000)]


def test_a_hard_limit_means_fewer_connections(limits: Limits) -> None:
    asked = limits(1024, 4096)
    assert room_for(20_000) == 4096 - RESERVED_FILES
    assert asked == [(4096, 4096)]


def test_a_very_low_limit_is_shared(limits: Limits) -> None:
    limits(256, 256)
    assert room_for(20_000) == 128


def test_a_high_limit_is_left_alone(limits: Limits) -> None:
    asked = limits(50_000, 100_000)
    assert room_for(20_000) == 20_000
    assert asked == []


def test_without_a_limit_there_is_room_for_all(limits: Limits) -> None:
    limits(INFINITE, INFINITE)
    assert room_for(20_000) == 20_000


def test_a_limit_that_may_not_be_raised_is_kept_to(
    limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(1024, INFINITE)

    def refuse(*_: object) -> None:
        raise ValueError("not permitted")

    monkeypatch.setattr("resource.setrlimit", refuse)
    assert room_for(20_000) == 1024 - RESERVED_FILES
