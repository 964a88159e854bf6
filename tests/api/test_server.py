"""The server as a whole: slow, many and large clients, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs
from yarl import URL

from proxy.api import guard
from proxy.api.guard import Limits
from proxy.api.journal import Journal
from proxy.api.server import Server
from proxy.api.services import Services
from proxy.jobs.request import Accepted, Request
from proxy.userdata.on_disk import UserDataOnDisk

HEAD = b"GET /queue HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"

#: How many seconds late a loaded machine may be.
UNDER_LOAD = 10.0


@dataclass
class Running:
    """A server under test; `held` submissions wait for `go`."""

    server: Server
    url: URL
    began: asyncio.Event
    go: asyncio.Event
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(self.url.host, self.url.port)
        self.writers.append(writer)
        writer.write(sent)
        return reader, writer

    async def refuses(self) -> bool:
        """Whether nobody listens any more."""
        try:
            await self.connect()
        except ConnectionError:
            return True
        return False


@pytest.fixture
def running(room_of_jobs: Any, room_of_files: Any, room_of_nodes: Any, tmp_path: Path) -> Any:
    @asynccontextmanager
    async def run(stop_timeout: float = 1.0, **limits: Any) -> AsyncIterator[Running]:
        began, go = asyncio.Event(), asyncio.Event()

        async def submit(_member: str, _request: Request) -> Accepted:
            began.set()
            await go.wait()
            return Accepted("p", 0, {})

        room_of_jobs.submit = submit
        services = Services(
            jobs=room_of_jobs,
            files=room_of_files,
            catalogue=room_of_nodes,
            userdata=UserDataOnDisk(tmp_path / "userdata"),
            journal=Journal(room_of_jobs.hub),
        )
        server = Server(services, Limits(**limits), stop_timeout=stop_timeout)
        url = URL(await server.start("127.0.0.1", 0))
        found = Running(server, url, began, go)
        try:
            yield found
        finally:
            for writer in found.writers:
                writer.transport.abort()
            await server.stop()

    return run


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection is closed."""
    data = b""
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65536):
                data += chunk
    return data


# --- slow clients ------------------------------------------------------------------------------


async def test_headers_that_do_not_end_close_the_connection(running: Any) -> None:
    async with running(header_timeout=0.1) as server:
        reader, _ = await server.connect(HEAD)
        assert await rest(reader) == b""


async def test_headers_that_trickle_close_the_connection(running: Any) -> None:
    async with running(header_timeout=0.2) as server:
        reader, writer = await server.connect()

        async def trickle() -> None:
            while True:
                writer.write(b"G")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert b"200" not in await rest(reader)
        trickling.cancel()


async def test_a_connection_without_a_request_may_stay(running: Any) -> None:
    async with running(header_timeout=0.4) as server:
        fresh, fresh_writer = await server.connect()
        used, used_writer = await server.connect(HEAD + b"\r\n")
        await used.readuntil(b"}")
        await asyncio.sleep(0.8)
        for reader, writer in ((fresh, fresh_writer), (used, used_writer)):
            writer.write(HEAD + b"\r\n")
            assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"


async def test_a_body_that_stops_is_408(running: Any) -> None:
    async with running(body_timeout=0.1) as server:
        reader, _ = await server.connect(POST + b"{")
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "request_timeout"


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


async def test_a_long_body_that_comes_on_may_take_long(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LEAST_PROGRESS", 10)
    async with running(body_timeout=1.0) as server:
        reader, writer = await server.connect(POST.replace(b"100000", b"200"))
        for _ in range(20):
            writer.write(b" " * 10)
            await asyncio.sleep(0.08)
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")


async def test_an_answer_that_takes_long_is_not_the_clients_fault(running: Any) -> None:
    async with running(header_timeout=0.4, body_timeout=0.4) as server:
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


async def test_a_connection_too_many_is_503_and_the_others_go_on(running: Any) -> None:
    async with running(max_connections=2) as server:
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
    monkeypatch.setattr(guard, "REFUSAL_PATIENCE", 0.05)
    async with running(max_connections=1, header_timeout=0.1) as server:
        await server.connect()
        reader, _ = await server.connect()
        assert await rest(reader) == b""


@pytest.mark.parametrize(
    ("asked", "room", "level"),
    [(20_000, 19_000, "debug"), (30_000, 19_000, "info"), (20_000, 500, "info")],
)
async def test_fewer_connections_are_told_where_they_matter(
    running: Any, monkeypatch: pytest.MonkeyPatch, asked: int, room: int, level: str
) -> None:
    monkeypatch.setattr("proxy.api.server.room_for", lambda _: room)
    with capture_logs() as logs:
        async with running(max_connections=asked):
            pass
    [line] = [line for line in logs if line["event"] == "fewer_connections"]
    assert (line["log_level"], line["limit"]) == (level, room)


# --- the end -----------------------------------------------------------------------------------


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
