"""The connections of a listener together: too many, silent and idle ones, and who makes room."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs
from waiting import until
from wire import HEAD, POST, rest

from proxy.edge import counted_connections, raw_answers


async def test_a_connection_too_many_is_503_and_the_others_go_on(running: Any) -> None:
    async with running(max_connections=16) as server:
        first, second = await server.connect(), await server.connect()
        third, _ = await server.connect(HEAD + b"\r\n")
        answer = await rest(third)
        assert answer.startswith(b"HTTP/1.1 503 ")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"Retry-After: 5" in head
        assert json.loads(body)["error"]["type"] == "too_many_connections"
        for reader, writer in (first, second):
            writer.write(HEAD + b"\r\n")
            assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"


async def test_a_place_that_becomes_free_is_given_again(running: Any) -> None:
    async with running(max_connections=1) as server:
        reader, writer = await server.connect()
        refused, _ = await server.connect(HEAD + b"\r\n")
        assert b" 503 " in await rest(refused)
        writer.close()
        async with asyncio.timeout(60):
            while True:
                reader, _ = await server.connect(HEAD + b"\r\n")
                if b" 200 " in await reader.readline():
                    break


async def test_a_refused_client_that_says_nothing_is_closed(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_answers, "REFUSAL_TIMEOUT", 0.05)
    async with running(max_connections=1) as server:
        await server.connect()
        reader, _ = await server.connect()
        assert await rest(reader) == b""


async def test_a_stop_closes_refused_connections(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_answers, "REFUSAL_TIMEOUT", 600.0)
    async with running(max_connections=1) as server:
        await server.connect()
        with capture_logs() as logs:
            refused, _ = await server.connect()
            await until(lambda: "connection_limit_reached" in [line["event"] for line in logs])
        await server.stop()
        assert await rest(refused) == b""


@pytest.mark.parametrize(
    ("asked", "room", "level"),
    [(20_000, 19_000, "debug"), (30_000, 19_000, "info"), (20_000, 500, "info")],
)
async def test_fewer_connections_are_logged_where_they_matter(
    running: Any, monkeypatch: pytest.MonkeyPatch, asked: int, room: int, level: str
) -> None:
    monkeypatch.setattr("proxy.edge.listener.room_for", lambda _: room)
    with capture_logs() as logs:
        async with running(max_connections=asked):
            pass
    [line] = [line for line in logs if line["event"] == "connection_limit_lowered"]
    assert (line["log_level"], line["limit"]) == (level, room)


async def test_a_silent_connection_is_closed(running: Any) -> None:
    async with running(idle_timeout=0.1) as server:
        reader, _ = await server.connect()
        assert await rest(reader) == b""


async def test_without_a_limit_a_silent_connection_stays(running: Any) -> None:
    async with running(idle_timeout=0) as server:
        reader, writer = await server.connect(HEAD + b"\r\n")
        await reader.readuntil(b"}")
        writer.write(HEAD + b"\r\n")
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"


async def test_a_connection_that_is_idle_for_too_long_is_closed(running: Any) -> None:
    async with running(idle_timeout=0.2) as server:
        reader, _ = await server.connect(HEAD + b"\r\n")
        assert (await rest(reader)).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_websocket_and_an_answer_under_way_are_not_idle(running: Any) -> None:
    async with (
        running(idle_timeout=0.2) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(server.url / "ws") as socket,
    ):
        await socket.receive()
        busy, _ = await server.connect(POST.replace(b"100000", b"14") + b'{"prompt": {}}')
        idle, _ = await server.connect(HEAD + b"\r\n")
        await rest(idle)
        await socket.send_str('{"type": "feature_flags", "data": {}}')
        assert (await socket.receive_json())["type"] == "feature_flags"
        server.go.set()
        assert (await busy.readline()) == b"HTTP/1.1 200 OK\r\n"


async def test_who_has_been_silent_makes_room_for_who_speaks(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted_connections, "EVICTION_AGE", 0.0)
    async with running(max_connections=4) as server:
        member, member_writer = await server.connect(HEAD + b"\r\n")
        await member.readuntil(b"}")
        silent = [await server.connect() for _ in range(3)]
        new, _ = await server.connect(HEAD + b"\r\n")
        assert (await new.readline()) == b"HTTP/1.1 200 OK\r\n"
        assert await rest(silent[0][0]) == b""
        member_writer.write(HEAD + b"\r\n")
        assert (await member.readline()) == b"HTTP/1.1 200 OK\r\n"


async def test_strangers_never_have_all_places(running: Any) -> None:
    async with running(max_connections=20) as server:
        for number in range(4):
            await server.connect(source=f"127.0.0.{number + 1}")
        refused, _ = await server.connect(HEAD + b"\r\n", source="127.0.0.5")
        assert b" 503 " in await refused.readline()


async def test_one_address_never_has_all_places_of_strangers(running: Any) -> None:
    async with running(max_connections=20) as server:
        for _ in range(2):
            await server.connect()
        third, _ = await server.connect(HEAD + b"\r\n")
        assert b" 503 " in await third.readline()
        other, _ = await server.connect(HEAD + b"\r\n", source="127.0.0.2")
        assert (await other.readline()) == b"HTTP/1.1 200 OK\r\n"
