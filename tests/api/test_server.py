"""The server as a whole: how it ends."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest
from wire import HEAD, POST, rest

#: How many seconds late a loaded machine may be.
UNDER_LOAD = 10.0


async def test_stopping_waits_for_an_answer_under_way(running: Any) -> None:
    async with running(stop_timeout=20) as server:
        reader, _ = await server.connect(POST.replace(b"100000", b"14") + b'{"prompt": {}}')
        await server.began.wait()
        stopping = asyncio.create_task(server.server.stop())
        async with asyncio.timeout(60):
            while not await server.refuses():
                pass
        assert not stopping.done()
        server.go.set()
        assert (await rest(reader)).startswith(b"HTTP/1.1 200 OK")
        await stopping


async def test_an_answer_that_takes_too_long_becomes_503(running: Any) -> None:
    async with running(stop_timeout=1) as server:
        reader, _ = await server.connect(POST.replace(b"100000", b"14") + b'{"prompt": {}}')
        await server.began.wait()
        begun = time.monotonic()
        await server.server.stop()
        assert time.monotonic() - begun < 1 + UNDER_LOAD
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "stopping"


async def test_idle_and_lingering_connections_do_not_hold_the_stop(running: Any) -> None:
    async with running(stop_timeout=60) as server:
        idle, _ = await server.connect(HEAD + b"\r\n")
        await idle.readuntil(b"}")
        too_large = POST.replace(b"100000", b"%d" % (10**9))
        lingering, _ = await server.connect(too_large + b"x" * 100)
        await lingering.readuntil(b"\r\n\r\n")
        unfinished, _ = await server.connect(HEAD)
        begun = time.monotonic()
        await server.server.stop()
        assert time.monotonic() - begun < UNDER_LOAD
        for reader in (idle, lingering, unfinished):
            await rest(reader)


async def test_a_download_that_takes_too_long_is_cut(
    running: Any, room_of_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_of_files.add("a.bin", bytes(30_000_000))
    async with running(stop_timeout=0.4) as server:
        reader, _ = await server.connect(
            b"GET /view?filename=a.bin&type=output HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        await server.server.stop()
        assert len(await rest(reader)) < 30_000_000


async def test_websockets_are_closed_with_1001_and_a_reason(running: Any) -> None:
    async with (
        running() as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(server.url / "ws") as socket,
    ):
        await socket.receive()
        stopping = asyncio.create_task(server.server.stop())
        message = await socket.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert (message.data, message.extra) == (1001, "The proxy is stopping.")
        await stopping


async def test_a_websocket_that_does_not_read_does_not_hold_the_stop(running: Any) -> None:
    async with running(stop_timeout=1) as server:
        reader, writer = await server.connect(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()
        begun = time.monotonic()
        await server.server.stop()
        assert time.monotonic() - begun < 1 + UNDER_LOAD
