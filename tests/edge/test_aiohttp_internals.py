"""The private parts of aiohttp that `edge/aiohttp_internals.py` uses.

If one of these tests fails with a new version of aiohttp, its docstring says what to look at.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from waiting import until

from proxy.edge.aiohttp_internals import (
    BY_AIOHTTP,
    BY_TURNS,
    PausedReading,
    has_route,
    has_waiting_request,
    intercept,
    set_route,
)

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Open = Callable[[], Any]


@pytest.fixture
async def connections() -> list[PausedReading]:
    """The server's ends of all connections."""
    return []


@pytest.fixture
async def go() -> asyncio.Event:
    """Lets the handler answer."""
    return asyncio.Event()


@pytest.fixture
async def began() -> asyncio.Event:
    """Set when the handler has begun."""
    return asyncio.Event()


@pytest.fixture
async def runner(began: asyncio.Event, go: asyncio.Event) -> AsyncIterator[web.AppRunner]:
    async def answer(request: web.Request) -> web.Response:
        began.set()
        await go.wait()
        await request.read()
        return web.Response(text="from the application")

    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    yield runner
    await runner.cleanup()


@pytest.fixture
async def opened(
    runner: web.AppRunner, connections: list[PausedReading]
) -> AsyncIterator[Callable[[], Any]]:
    assert runner.server is not None
    server = runner.server

    def make() -> PausedReading:
        connections.append(PausedReading(server))
        return connections[-1]

    listening = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)

    writers: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        writers.append(writer)
        return reader, writer

    async with listening:
        yield connect
        for writer in writers:
            writer.transport.abort()
        for connection in connections:  # one that does not read does not notice it
            if connection.transport is not None:
                connection.transport.abort()
        await until(lambda: not any(connection.connected for connection in connections))


async def test_requests_are_made_and_answered_by_what_intercepts_them(
    runner: web.AppRunner, opened: Open, go: asyncio.Event
) -> None:
    """Look at where `web.RequestHandler` takes `request_factory` and `request_handler` of its
    `web.Server` from, and at what it calls them with."""
    assert runner.server is not None
    handle, paths = runner.server.request_handler, list[str]()
    go.set()

    def begin(make: Callable[..., Any], message: Any, *others: Any) -> Any:
        paths.append(message.path)
        return make(message, *others)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = await handle(request)
        response.headers["X-Seen"] = "yes"
        return response

    intercept(runner.server, begin, answer)
    reader, writer = await opened()
    writer.write(GET)
    head = await reader.readuntil(b"application")
    assert b"X-Seen: yes" in head
    assert paths == ["/"]


async def test_a_request_behind_another_waits(
    opened: Open, connections: list[PausedReading], began: asyncio.Event, go: asyncio.Event
) -> None:
    """Look for the queue of parsed requests of `web.RequestHandler`, once `_messages`."""
    reader, writer = await opened()
    writer.write(GET)
    await began.wait()
    assert not has_waiting_request(connections[0])
    writer.write(GET)
    await until(lambda: has_waiting_request(connections[0]))
    go.set()
    for _ in range(2):
        await reader.readuntil(b"application")
    assert not has_waiting_request(connections[0])


async def test_aiohttp_does_not_resume_reading_that_is_paused_for_another_reason(
    opened: Open, connections: list[PausedReading], go: asyncio.Event
) -> None:
    """Look for all calls of `transport.pause_reading` and `resume_reading` in aiohttp's
    `base_protocol.py` and `web_protocol.py`: each must go through the two methods that
    `PausedReading` replaces."""
    reader, writer = await opened()
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n")
    writer.write(bytes(5_000_000))
    await until(lambda: bool(connections) and connections[0].paused_by == BY_AIOHTTP)
    (connection,) = connections
    connection.pause(BY_TURNS)
    go.set()
    await until(lambda: connection.paused_by == BY_TURNS)
    assert isinstance(connection.transport, asyncio.Transport)
    assert not connection.transport.is_reading()
    connection.resume(BY_TURNS)
    await reader.readuntil(b"application")


async def test_the_route_of_a_request_can_be_set_before_aiohttp_resolves_it() -> None:
    """Look for the attribute behind `Request.match_info`, once `_match_info`."""
    app = web.Application()
    request = make_mocked_request("GET", "/", app=app)
    found = await app.router.resolve(request)
    request = web.Request(
        request._message,
        request.content,
        request.protocol,
        request.writer,
        request.task,
        asyncio.get_running_loop(),
    )
    assert not has_route(request)
    set_route(request, found)
    assert has_route(request)
    assert request.match_info is found
