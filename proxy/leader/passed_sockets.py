"""Websockets that are passed on to the leader, and connected again to the next one."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import aiohttp
import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from proxy.api.requests import connection_of
from proxy.api.websocket import CLOSE_TIMEOUT, MAX_MESSAGE_BYTES, SUPERSEDED
from proxy.edge.addressing import SOCKET_AGE, STANDBY
from proxy.edge.connections import GOING_AWAY, Connection
from proxy.leader.addresses import LeaderAddress
from proxy.leader.forwarding import (
    CONNECT_TIMEOUT,
    NOT_LEADING,
    Forwarding,
    NotSentError,
    to_leader,
)
from proxy.runtime import clock
from proxy.runtime.supervisor import Supervisor
from proxy.runtime.waits import stop
from proxy.storage.leases import Lease

log = structlog.get_logger(__name__)

#: Maximum bytes of a message of the leader, such as a large text.
_MAX_MESSAGE = 64 * 1024 * 1024
#: Headers of a handshake, which belong to one connection.
_OF_HANDSHAKE = frozenset(
    {
        *("sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions"),
        *("sec-websocket-protocol", "host"),
    }
)
#: Close codes of a leader that stops or is gone; with any other one the socket has ended.
_ELSEWHERE = frozenset(
    {None, WSCloseCode.GOING_AWAY, WSCloseCode.SERVICE_RESTART, WSCloseCode.ABNORMAL_CLOSURE}
)

#: Seconds for what a leader has sent before the next one leads.
_LAST_MESSAGES = 0.5
#: The status of a handshake whose client has gone.
_CLIENT_GONE = 499


@dataclass(eq=False, repr=False)
class PassedSockets:
    """The websockets of clients at a standby. One with a `clientId` is connected again when its
    leader is gone: to the client it is the same one."""

    forwarding: Forwarding
    supervisor: Supervisor
    _open: set[web.WebSocketResponse] = field(init=False, default_factory=set)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Pass a websocket on until it closes; a handshake that the leader refuses has the
        leader's status. Raises `LocalError`."""
        opened = clock.monotonic()
        leader, epoch = await self._connect(request, opened)
        if isinstance(leader, int):
            return web.Response(status=leader)
        client = web.WebSocketResponse(
            max_msg_size=MAX_MESSAGE_BYTES, autoping=False, compress=False, timeout=CLOSE_TIMEOUT
        )

        def leave(code: int, reason: str, _timeout: float) -> None:
            self.supervisor.spawn(_closing(client, code, reason), "close a socket")

        try:
            await client.prepare(request)
            connection_of(request).upgraded(leave)
            self._open.add(client)
            await self._relay(request, client, leader, epoch, opened)
        finally:
            self._open.discard(client)
            await leader.close()
            with contextlib.suppress(ConnectionError):
                await client.close(code=WSCloseCode.SERVICE_RESTART, message=GOING_AWAY.encode())
        return client

    async def close(self) -> None:
        """Close all, because this process stops."""
        await asyncio.gather(
            *(_closing(client, WSCloseCode.SERVICE_RESTART, GOING_AWAY) for client in self._open)
        )

    async def _relay(
        self,
        request: web.Request,
        client: web.WebSocketResponse,
        leader: aiohttp.ClientWebSocketResponse,
        epoch: int,
        opened: float,
    ) -> None:
        """Pass messages both ways, over one leader after the other."""
        first: list[str] = []  # what the client has announced, for the next leader
        while True:
            up = asyncio.ensure_future(_copy_up(connection_of(request), client, leader, first))
            down = asyncio.ensure_future(_copy_down(leader, client))
            gone = asyncio.ensure_future(self.forwarding.leadership.superseded(epoch))
            try:
                await asyncio.wait({up, down, gone}, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():  # its last messages may be on the way
                    await asyncio.wait([down], timeout=_LAST_MESSAGES)
            finally:
                await stop(up, down, gone)
            if client.closed:
                await leader.close(code=client.close_code or WSCloseCode.GOING_AWAY)
                return
            code = None if gone.done() and not leader.closed else leader.close_code
            if code == SUPERSEDED:
                await _keep(connection_of(request), client)
                return
            if code not in _ELSEWHERE:
                await client.close(code=code or WSCloseCode.OK)
                return
            await leader.close()
            if not request.query.get("clientId"):
                return
            found, epoch = await self._connect(request, opened)
            if isinstance(found, int):
                await client.close(code=WSCloseCode.POLICY_VIOLATION)
                return
            leader = found
            for text in first:
                await leader.send_str(text)

    async def _connect(
        self, request: web.Request, opened: float
    ) -> tuple[aiohttp.ClientWebSocketResponse | int, int]:
        """Return a websocket to the leader, or the status with which it refuses one, and the epoch.
        The leader is told since when the client has its end, by the monotonic clock in seconds.
        Raises `LocalError`."""

        async def send(
            lease: Lease, *, again: bool
        ) -> tuple[aiohttp.ClientWebSocketResponse | int, int]:
            del again  # what was not opened has changed nothing
            if request.transport is None or request.transport.is_closing():
                return _CLIENT_GONE, lease.epoch  # it would silence the one that is open by now
            try:
                return await self._handshake(request, lease, opened), lease.epoch
            except aiohttp.WSServerHandshakeError as error:
                if error.status in (NOT_LEADING, 503):
                    raise NotSentError from error
                return error.status, lease.epoch
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise NotSentError from error

        leadership = self.forwarding.leadership
        return await to_leader(leadership, send, is_repeated=True, despite_outage=True)

    async def _handshake(
        self, request: web.Request, lease: Lease, opened: float
    ) -> aiohttp.ClientWebSocketResponse:
        forwarding, address = self.forwarding, LeaderAddress.of(lease)
        headers = forwarding.headers(request)
        host = headers.get("Host", "")
        for name in list(headers):
            if name.lower() in _OF_HANDSHAKE:
                headers.popall(name, None)
        headers["Host"], headers[STANDBY] = host, forwarding.sign(lease.epoch)
        headers[SOCKET_AGE] = f"{clock.monotonic() - opened:.3f}"
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return await forwarding.session.ws_connect(
                forwarding.url(address, request),
                headers=headers,
                autoping=True,
                max_msg_size=_MAX_MESSAGE,
                ssl=address.ssl,
            )


async def _copy_up(
    connection: Connection,
    client: web.WebSocketResponse,
    leader: aiohttp.ClientWebSocketResponse,
    first: list[str],
) -> None:
    """Pass a client's messages on until one end is gone, and keep the first text."""
    with contextlib.suppress(ConnectionError, aiohttp.ClientError):
        async for message in client:
            connection.received(message)
            if message.type is WSMsgType.TEXT:
                if not first:
                    first.append(message.data)
                await leader.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await leader.send_bytes(message.data)
            elif message.type is WSMsgType.PING:
                await client.pong(message.data)


async def _keep(connection: Connection, client: web.WebSocketResponse) -> None:
    """Keep a websocket until its client closes it, as a local ComfyUI does: it hears no more."""
    async for message in client:
        connection.received(message)
        if message.type is WSMsgType.PING:
            with contextlib.suppress(ConnectionError):
                await client.pong(message.data)


async def _copy_down(
    leader: aiohttp.ClientWebSocketResponse, client: web.WebSocketResponse
) -> None:
    """Pass the leader's messages on until one end is gone."""
    with contextlib.suppress(ConnectionError, aiohttp.ClientError):
        async for message in leader:
            if message.type is WSMsgType.TEXT:
                await client.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await client.send_bytes(message.data)


async def _closing(client: web.WebSocketResponse, code: int, reason: str) -> None:
    with contextlib.suppress(ConnectionError):
        await client.close(code=code, message=reason.encode())
