"""What is counted of a connection, on a server: each case is one where a simpler count would be
wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from waiting import until
from wire import HEAD, POST, rest

from proxy.edge import counted_connections
from proxy.members.directory import Directory

UPGRADE = (
    HEAD.replace(b"/queue", b"/ws") + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


async def only(server: Any) -> Any:
    """The server's end of the only connection."""
    await until(lambda: bool(server.server.connections))
    (connection,) = server.server.connections
    return connection


@pytest.fixture
def header(token: str) -> bytes:
    """The header with the token of Ann."""
    return b"X-API-Key: " + token.encode() + b"\r\n"


async def test_a_body_that_is_not_read_is_not_too_slow(
    running: Any, members: Directory, header: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs_in, look_for = asyncio.Event(), members.look_for

    async def look_for_later(*given: Any) -> None:
        await signs_in.wait()
        await look_for(*given)

    monkeypatch.setattr(members, "look_for", look_for_later)
    body = b'{"prompt": {}, "x": "' + b"x" * 5_000_000 + b'"}'
    head = POST.replace(b"100000\r\n", b"%d\r\n" % len(body) + header)
    async with running(members=members) as server:
        reader, _ = await server.connect(head + body)
        connection = await only(server)
        await until(lambda: connection.paused_by > 0)
        connection._stop_body_timer()
        connection._check_body(connection._body, connection._body.total_bytes)
        signs_in.set()
        server.go.set()
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"


async def test_chunks_may_come_apart_from_their_sizes(running: Any) -> None:
    chunks = [b'{"prompt": {}, "x": "', *[b"x" * 16_000] * 6, b'"}', b""]
    async with running() as server:
        head = POST.replace(b"Content-Length: 100000", b"Transfer-Encoding: chunked")
        reader, writer = await server.connect(head)
        connection = await only(server)
        await until(lambda: connection.task is not None)
        sent = 0
        for chunk in chunks:
            before = connection._input
            writer.write(b"%x\r\n" % len(chunk))
            await until(lambda before=before: connection._input >= before + 3)
            writer.write(chunk + b"\r\n")
            sent += len(chunk)
            await until(lambda sent=sent: connection._body.total_bytes == sent)
        server.go.set()
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"


async def test_a_request_behind_another_gets_its_whole_body(running: Any) -> None:
    body = b'{"prompt": {}, "x": "' + b"x" * 100_000 + b'"}'
    async with running() as server:
        reader, writer = await server.connect(POST.replace(b"100000", b"14") + b'{"prompt": {}}')
        await server.began.wait()
        writer.write(POST.replace(b"100000", b"%d" % len(body)) + body)
        connection = await only(server)
        await until(lambda: connection.paused_by > 0)
        server.go.set()
        for _ in range(2):
            assert b" 200 OK" in await reader.readuntil(b"node_errors")


async def test_large_headers_are_held_until_they_are_complete(running: Any) -> None:
    async with running() as server:
        reader, writer = await server.connect(HEAD + b"X: " + b"x" * 8000)
        connection = await only(server)
        held = connection.context.budget.held()
        await until(lambda: held["connection"] > 16_000)
        writer.write(b"\r\n\r\n")
        await reader.readuntil(b"}")
        assert held["connection"] == 0


async def test_unfinished_headers_behind_many_requests_are_counted(running: Any) -> None:
    unfinished = HEAD + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 15_000) for number in range(20))
    async with running() as server:
        reader, _ = await server.connect((HEAD + b"\r\n") * 20 + unfinished)
        assert b" 431 " in await rest(reader)


async def test_a_ping_between_the_parts_of_a_message_frees_nothing(running: Any) -> None:
    part = b"\x01\xfe\xc3\x50" + bytes(4) + b"x" * 50_000
    async with running() as server:
        reader, writer = await server.connect(UPGRADE + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        connection = await only(server)
        writer.write(part + b"\x89\x80\0\0\0\0")
        await reader.readuntil(b"\x8a\0")
        assert connection.context.budget.held()["connection"] > 2 * 50_000


async def test_few_refused_connections_wait_for_an_answer(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted_connections, "MAX_ANSWERED_REFUSALS", 1)
    async with running(max_connections=1) as server:
        await server.connect()
        refused, writer = await server.connect()
        third, _ = await server.connect()
        assert await rest(third) == b""
        writer.write(HEAD)
        assert b" 503 " in await refused.readline()


async def test_a_websocket_whose_token_is_revoked_while_it_opens_is_closed(
    running: Any,
    monkeypatch: pytest.MonkeyPatch,
    members: Directory,
    token: str,
    header: bytes,
) -> None:
    opens, prepare = asyncio.Event(), web.WebSocketResponse.prepare

    async def prepare_later(*given: Any) -> Any:
        await opens.wait()
        return await prepare(*given)

    monkeypatch.setattr(web.WebSocketResponse, "prepare", prepare_later)
    async with running(members=members) as server:
        reader, _ = await server.connect(UPGRADE + header + b"\r\n")
        connection = await only(server)
        await until(lambda: connection.owner.member == "ann")
        await members.revoke(token)
        opens.set()
        await rest(reader)
        assert not server.server.connections
