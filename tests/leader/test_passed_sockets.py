"""Websockets that a standby passes on to the leader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import WSCloseCode, WSMsgType, web
from leader.passing import TIMEOUT, Passing, leader, sign, standing_by
from yarl import URL

from proxy.api.websocket import SUPERSEDED
from proxy.edge.addressing import SOCKET_AGE, STANDBY
from proxy.edge.connections import GOING_AWAY
from proxy.storage.database import Database


@pytest.fixture
async def standby(database: Database) -> AsyncIterator[Passing]:
    async with standing_by(database) as passing:
        yield passing


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class SocketLeader:
    """A leader whose websockets the test has."""

    def __init__(self) -> None:
        self.url = URL()
        self.requests: list[web.Request] = []
        self.sockets: asyncio.Queue[web.WebSocketResponse] = asyncio.Queue()
        self.over = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.put_nowait(socket)
        await self.over.wait()
        return socket

    async def next(self) -> web.WebSocketResponse:
        """The next websocket of a standby."""
        async with asyncio.timeout(TIMEOUT):
            return await self.sockets.get()


@pytest.fixture
async def leaders() -> AsyncIterator[list[SocketLeader]]:
    """Two processes that may lead."""
    async with AsyncExitStack() as stack:
        both = [SocketLeader(), SocketLeader()]
        for each in both:
            each.url = await stack.enter_async_context(leader(each.handle))
            stack.callback(each.over.set)
        yield both


async def received(
    socket: aiohttp.ClientWebSocketResponse | web.WebSocketResponse,
) -> aiohttp.WSMessage:
    async with asyncio.timeout(TIMEOUT):
        return await socket.receive()


async def text_of(socket: aiohttp.ClientWebSocketResponse | web.WebSocketResponse) -> str:
    message = await received(socket)
    assert message.type is WSMsgType.TEXT, message
    return str(message.data)


def ws(standby: Passing, client_id: str | None = "one") -> URL:
    url = standby.url / "ws"
    return url if client_id is None else url.with_query(clientId=client_id)


async def test_messages_pass_both_ways(
    standby: Passing, session: aiohttp.ClientSession, leaders: list[SocketLeader]
) -> None:
    lease = await standby.leads(leaders[0].url)
    async with session.ws_connect(ws(standby), headers={"Authorization": "Bearer t"}) as client:
        there = await leaders[0].next()
        await client.send_str("up")
        assert await text_of(there) == "up"
        await client.send_bytes(b"\0up")
        assert (await received(there)).data == b"\0up"
        await there.send_str("down")
        assert await text_of(client) == "down"
        await there.send_bytes(b"\0" * 2**20)
        assert (await received(client)).data == b"\0" * 2**20
    request = leaders[0].requests[0]
    assert request.raw_path == "/ws?clientId=one"
    assert request.headers["Authorization"] == "Bearer t"
    assert request.headers["Host"] == f"127.0.0.1:{standby.url.port}"
    assert request.headers[STANDBY] == sign(lease.epoch)
    assert request.headers["X-Forwarded-For"] == "127.0.0.1"


@pytest.mark.parametrize("code", [1000, 1009, 4000])
async def test_the_close_code_of_a_client_reaches_the_leader(
    standby: Passing, session: aiohttp.ClientSession, leaders: list[SocketLeader], code: int
) -> None:
    await standby.leads(leaders[0].url)
    client = await session.ws_connect(ws(standby))
    there = await leaders[0].next()
    await client.close(code=code)
    message = await received(there)
    assert (message.type, message.data) == (WSMsgType.CLOSE, code)


@pytest.mark.parametrize("code", [1000, 1008, 1013, 4000])
async def test_a_websocket_that_the_leader_ends_has_ended(
    standby: Passing, session: aiohttp.ClientSession, leaders: list[SocketLeader], code: int
) -> None:
    await standby.leads(leaders[0].url)
    async with session.ws_connect(ws(standby)) as client:
        there = await leaders[0].next()
        await there.send_str("last")
        closing = asyncio.ensure_future(there.close(code=code))
        assert await text_of(client) == "last"
        message = await received(client)
        assert (message.type, message.data) == (WSMsgType.CLOSE, code)
        await closing


async def test_a_websocket_whose_id_a_newer_one_has_stays_open_and_goes_to_no_other_leader(
    standby: Passing, session: aiohttp.ClientSession, leaders: list[SocketLeader]
) -> None:
    await standby.leads(leaders[0].url)
    async with session.ws_connect(ws(standby)) as older, session.ws_connect(ws(standby)) as newer:
        there = [await leaders[0].next() for _ in range(2)]
        closing = asyncio.ensure_future(there[0].close(code=SUPERSEDED))
        await closing
        await standby.leads(leaders[1].url)
        await (await leaders[1].next()).send_str("to the newer one")
        assert await text_of(newer) == "to the newer one"
        await older.ping()
        await older.send_str("still here")
        assert leaders[1].sockets.empty()
        assert not older.closed
        await older.close()
        assert older.close_code == WSCloseCode.OK


@pytest.mark.parametrize("status", [400, 401, 404, 429])
async def test_a_handshake_that_the_leader_refuses_has_its_status(
    standby: Passing, session: aiohttp.ClientSession, status: int
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with leader(refuse) as url:
        await standby.leads(url)
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await session.ws_connect(ws(standby))
        assert error.value.status == status


async def test_a_handshake_waits_for_a_leader(
    standby: Passing, session: aiohttp.ClientSession, leaders: list[SocketLeader]
) -> None:
    connecting = asyncio.ensure_future(session.ws_connect(ws(standby)))
    await asyncio.sleep(0)
    await standby.leads(leaders[0].url)
    async with asyncio.timeout(TIMEOUT), await connecting as client:
        await (await leaders[0].next()).send_str("here")
        assert await text_of(client) == "here"


@pytest.mark.parametrize("code", [None, WSCloseCode.GOING_AWAY, WSCloseCode.SERVICE_RESTART])
async def test_a_websocket_is_connected_to_the_next_leader_with_what_its_client_announced(
    standby: Passing,
    session: aiohttp.ClientSession,
    leaders: list[SocketLeader],
    code: int | None,
) -> None:
    """Whether the first one closes it because it stops, or is heard of no more."""
    await standby.leads(leaders[0].url)
    async with session.ws_connect(ws(standby)) as client:
        there = await leaders[0].next()
        for text in ("feature flags", "another"):
            await client.send_str(text)
            assert await text_of(there) == text
        if code is None:
            await standby.leads(leaders[1].url)
        else:
            closing = asyncio.ensure_future(there.close(code=code))
            await standby.leads(leaders[1].url)
            await closing
        there = await leaders[1].next()
        assert leaders[1].requests[0].query["clientId"] == "one"
        ages = [float(one.requests[0].headers[SOCKET_AGE]) for one in leaders]
        assert 0 <= ages[0] < ages[1]
        assert await text_of(there) == "feature flags"
        await there.send_str("from the next one")
        assert await text_of(client) == "from the next one"
        await client.send_str("to the next one")
        assert await text_of(there) == "to the next one"


async def test_what_a_leader_had_sent_before_its_connection_broke_comes_first(
    standby: Passing, session: aiohttp.ClientSession, leaders: list[SocketLeader]
) -> None:
    await standby.leads(leaders[0].url)
    async with session.ws_connect(ws(standby)) as client:
        there = await leaders[0].next()
        for number in range(100):
            await there.send_str(str(number))
        closing = asyncio.ensure_future(there.close(code=WSCloseCode.SERVICE_RESTART))
        await standby.leads(leaders[1].url)
        await (await leaders[1].next()).send_str("next")
        await closing
        assert [await text_of(client) for _ in range(101)] == [*map(str, range(100)), "next"]


async def test_without_a_client_id_it_ends_with_its_leader(
    standby: Passing, session: aiohttp.ClientSession, leaders: list[SocketLeader]
) -> None:
    """To whoever connects again it is another one."""
    await standby.leads(leaders[0].url)
    async with session.ws_connect(ws(standby, None)) as client:
        there = await leaders[0].next()
        closing = asyncio.ensure_future(there.close(code=WSCloseCode.SERVICE_RESTART))
        message = await received(client)
        assert (message.type, message.data) == (WSMsgType.CLOSE, WSCloseCode.SERVICE_RESTART)
        await closing


async def test_it_ends_if_the_next_leader_refuses_its_client(
    standby: Passing, session: aiohttp.ClientSession, leaders: list[SocketLeader]
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=401)

    async with leader(refuse) as second:
        await standby.leads(leaders[0].url)
        async with session.ws_connect(ws(standby)) as client:
            await leaders[0].next()
            await standby.leads(second)
            message = await received(client)
            assert (message.type, message.data) == (WSMsgType.CLOSE, WSCloseCode.POLICY_VIOLATION)


async def test_a_standby_that_stops_closes_its_websockets(
    standby: Passing, session: aiohttp.ClientSession, leaders: list[SocketLeader]
) -> None:
    await standby.leads(leaders[0].url)
    async with session.ws_connect(ws(standby)) as client:
        there = await leaders[0].next()
        closing = asyncio.ensure_future(standby.among.sockets.close())
        message = await received(client)
        assert (message.data, message.extra) == (WSCloseCode.SERVICE_RESTART, GOING_AWAY)
        assert (await received(there)).type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
        await closing


async def test_a_client_that_is_gone_is_gone_for_the_leader(
    standby: Passing, leaders: list[SocketLeader]
) -> None:
    await standby.leads(leaders[0].url)
    async with aiohttp.ClientSession() as session:
        await session.ws_connect(ws(standby))
        there = await leaders[0].next()
    assert (await received(there)).type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING)
