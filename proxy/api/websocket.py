"""`/ws`: the websockets of clients.

One task reads, another writes what waits in the queue, so that nothing waits for a slow client.

A ping is sent after a long silence. A local ComfyUI sends none, but every client must answer them
(RFC 6455, 5.5.2), which libraries do. A client is not disconnected without a pong: many read their
socket only while they wait for a job, and a local ComfyUI would keep them. TCP detects lost
clients: the system of a live peer acknowledges the ping. `TCP_USER_TIMEOUT` limits the wait for
that, and for a peer that takes no more data; without it the longer limit of the system applies.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket as tcp
from weakref import WeakKeyDictionary

import aiohttp
import structlog
from aiohttp import web
from msgspec import Struct, field

from proxy.api.holding import CountedStream
from proxy.api.keys import ACCOUNTING, BUDGET, JOBS, features
from proxy.api.requests import connection_of, member_of, prefix_of
from proxy.api.send_queue import SendQueue
from proxy.edge.addressing import SOCKET_AGE
from proxy.edge.connections import GOING_AWAY, Connection
from proxy.runtime import randomness
from proxy.runtime.supervisor import Supervisor
from proxy.runtime.waits import stop
from proxy.sharing.budget import Allocation, ThresholdAllocation
from proxy.sharing.loop_turns import Driver
from proxy.translate import codec, frames
from proxy.translate.events import Binary, Event, Message, NodeText, Preview, status

log = structlog.get_logger(__name__)

#: Queued bytes from which they are taken from the member's budget.
_MIN_BUDGETED = 256 * 1024
#: Maximum bytes of a client's message, as in ComfyUI; a larger one closes the socket with 1009.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
#: Maximum characters of a message that is parsed for feature flags, which take some hundred.
MAX_FLAGS_LENGTH = 64 * 1024
#: Seconds in which a client must answer the close frame.
CLOSE_TIMEOUT = 2.0
#: The close code by which a leader tells a standby that a newer socket has the client's id.
SUPERSEDED = 4001
#: Seconds for what waits for sockets when the server stops.
_LAST_WRITES = 0.5
#: Seconds of silence after which a socket gets a ping. Routers forget a connection after a minute.
PING_INTERVAL = 30.0

#: The reason in the close frame of a client whose queue has overflowed.
TOO_SLOW = "This client reads too slowly; connect again."

#: In seconds, but `TCP_USER_TIMEOUT` in milliseconds.
_KEEP_ALIVE = {
    "TCP_KEEPIDLE": 60,
    "TCP_KEEPINTVL": 15,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": 180_000,
}


class ClientSocket(Struct, eq=False):
    """One client's websocket, which implements `jobs.subscribers.Subscriber`."""

    _web_socket: web.WebSocketResponse
    _transport: asyncio.Transport
    _driver: Driver
    _app: web.Application
    _member: str
    _sid: str
    _queue: SendQueue
    _sockets: Sockets
    _is_passed: bool
    writing: asyncio.Task[None] | None = None
    _written_at: float = 0.0
    _ping_due: bool = False
    _negotiated: bool = False
    _silent: bool = False
    _ended: bool = False
    _leaving: asyncio.Task[None] | None = None
    _left: asyncio.Future[None] | None = None
    _held: ThresholdAllocation = field(default_factory=lambda: ThresholdAllocation(_MIN_BUDGETED))

    def begin(self, *, receives_all: bool, age: float) -> None:
        """Send what happens from now on; `receives_all` and `age` are as of `Subscribers`."""
        jobs, metrics = self._app[JOBS], self._app[ACCOUNTING].metrics
        jobs.attach(self._member, self._sid, self, self.greet, receives_all=receives_all, age=age)
        self._sockets.join(self)
        metrics.websockets.labels(self._member).inc()
        log.debug("socket_opened", sid=self._sid)

    def send(self, message: Message, *, for_all: bool) -> None:
        """Queue a message without waiting; close the socket if the queue overflows."""
        if self._silent:
            return
        self._queue.put(message, for_all=for_all)
        self._start_writing()
        budgeted = self._queue.size >= _MIN_BUDGETED or self._held.allocation is not None
        if self._queue.overflowed or (budgeted and not self._fits()):
            log.warning("socket_overflowed", waiting=len(self._queue))
            self.leave(aiohttp.WSCloseCode.TRY_AGAIN_LATER, TOO_SLOW)

    def _fits(self) -> bool:
        """Hold the queued bytes. Return whether they fit into the member's budget."""
        return self._held.fits(0 if self._ended else self._queue.size, self._allocate)

    def _allocate(self) -> Allocation:
        return self._app[BUDGET].member(self._member, "socket")

    @property
    def asks_for_previews(self) -> bool:
        """Whether the client's feature flags ask for previews with metadata."""
        return self._queue.metadata

    def superseded(self) -> None:
        """Send nothing more, but keep the client's connection open: a newer socket has its id. A
        standby would open it again at the next leader, in the place of that one."""
        self._silent = True
        if self._is_passed:
            self.leave(SUPERSEDED, "A newer websocket has this clientId.")

    def greet(self) -> None:
        """Send the first message: the queue with the `sid`."""
        remaining = self._app[JOBS].queue_remaining(self._member)
        self.send(status(remaining, self._sid), for_all=False)

    def receive(self, text: str) -> None:
        """Handle a client's text: feature flags, if it is the first one."""
        if self._negotiated:
            return
        self._negotiated = True
        if len(text) > MAX_FLAGS_LENGTH:
            return
        try:
            message = codec.loads(text)
        except ValueError:
            return
        if isinstance(message, dict) and message.get("type") == "feature_flags":
            wanted = message.get("data")
            metadata = isinstance(wanted, dict) and wanted.get("supports_preview_metadata") is True
            self._queue.want_metadata(metadata)
            if metadata:
                self._app[JOBS].subscribers.understands_several(self._member, self._sid)
            self.send(Event("feature_flags", features(self._app)), for_all=False)

    def ping_if_silent(self, since: float) -> None:
        """Send a ping if nothing was sent since then."""
        if 0 < self._written_at <= since and self.writing is None and not self._silent:
            self._ping_due = True
            self._start_writing()

    def _start_writing(self) -> None:
        """Start the task that writes the queue, unless it runs; an idle socket has none."""
        if self.writing is None and not self._ended:
            self.writing = asyncio.create_task(self._driven(), name="write to a socket")

    async def _driven(self) -> None:
        await self._driver.drive(self._deliver())

    async def _deliver(self) -> None:
        try:
            if self._ping_due and self._leaving is None:
                await self._web_socket.ping()
            while self._leaving is None and (outgoing := self._queue.pop()) is not None:
                message = outgoing.message
                if isinstance(message, Event):
                    await self._web_socket.send_str(message.text)
                elif (
                    frame := self._sockets.frames.frame(message, metadata=outgoing.metadata)
                ) is not None:
                    await self._web_socket.send_bytes(frame)
        except ConnectionError:
            self._silent = True  # the reader of the socket gets the error too
        except Exception:
            log.exception("socket_failed")
            self._transport.abort()
        finally:
            if self._held.allocation is not None:
                self._fits()
            self._ping_due = False
            self._written_at = asyncio.get_running_loop().time()
            self.writing = None

    def leave(self, code: int, reason: str, timeout: float = CLOSE_TIMEOUT) -> asyncio.Task[None]:
        """Send a close frame, and end the connection at its answer or after `timeout` seconds."""
        self._silent = True
        if self._leaving is None:
            closing = self._leave(code, reason, timeout)
            self._leaving = asyncio.create_task(closing, name="close a socket")
        return self._leaving

    async def _leave(self, code: int, reason: str, timeout: float) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(timeout):
                payload = code.to_bytes(2, "big") + reason.encode()
                await self._web_socket.send_frame(payload, aiohttp.WSMsgType.CLOSE)
                if not self._ended:
                    self._left = asyncio.get_running_loop().create_future()
                    await self._left
        self._transport.abort()

    async def end(self) -> None:
        """End a socket whose client has sent a close frame; answer it unless it is an answer."""
        self._app[JOBS].subscribers.detach(self._member, self._sid, self)
        self._sockets.leave(self)
        self._app[ACCOUNTING].metrics.websockets.labels(self._member).dec()
        log.debug("socket_closed", sid=self._sid, code=self._web_socket.close_code)
        self._ended = True
        self._held.release()
        if self._left is not None and not self._left.done():
            self._left.set_result(None)
        await stop(self.writing)
        if self._leaving is None:
            await self._web_socket.close(drain=False)
        else:
            self._transport.close()
            await self._leaving


class FrameCache:
    """The binary frames of messages. Those of a preview are encoded once for all sockets."""

    def __init__(self) -> None:
        # By whether a frame has metadata.
        self._previews: WeakKeyDictionary[Preview, dict[bool, bytes | None]] = WeakKeyDictionary()

    def frame(self, message: Preview | NodeText | Binary, *, metadata: bool) -> bytes | None:
        """Return a message as a binary frame; `None` if a client without metadata cannot know
        it."""
        match message:
            case Preview():
                encoded = self._previews.setdefault(message, {})
                if metadata not in encoded:
                    encoded[metadata] = frames.encode_preview(message, metadata=metadata)
                return encoded[metadata]
            case NodeText():
                return frames.encode_text(message)
            case Binary(data=data):
                return data


class Sockets:
    """The open sockets of a server. A socket gets a ping `PING_INTERVAL` after the last message."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.open: set[ClientSocket] = set()
        self.frames = FrameCache()
        self._pinging: asyncio.Task[None] | None = None

    def join(self, socket: ClientSocket) -> None:
        """Register an open socket."""
        self.open.add(socket)
        if self._pinging is None:
            self._pinging = self._supervisor.keep(self._ping, "ping silent sockets")

    def leave(self, socket: ClientSocket) -> None:
        """Unregister a socket."""
        self.open.discard(socket)

    async def close(self, code: int) -> None:
        """Close all sockets, because the server stops."""
        writing = [socket.writing for socket in self.open if socket.writing is not None]
        if writing:
            await asyncio.wait(writing, timeout=_LAST_WRITES)
        closing = [socket.leave(code, GOING_AWAY) for socket in self.open]
        if closing:
            await asyncio.wait(closing)
        if self._pinging is not None:
            self._pinging.cancel()

    async def _ping(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, PING_INTERVAL / 4))
            since = loop.time() - PING_INTERVAL
            for socket in self.open:
                socket.ping_if_silent(since)


SOCKETS = web.AppKey("sockets", Sockets)


async def serve(request: web.Request) -> web.StreamResponse:
    """Open a websocket and serve it until it closes. An invalid handshake is a 400 with a text.

    A `token` in the query is that of a program written for Comfy Cloud; with members it must also
    be valid.
    """
    # Pings are answered below, so that their bytes are not counted any longer. Packed messages
    # would take far more time and memory than their bytes.
    web_socket = web.WebSocketResponse(
        max_msg_size=MAX_MESSAGE_BYTES, autoclose=False, autoping=False, compress=False
    )
    with CountedStream(request):
        client = await _open(request, web_socket)
        if client is not None:
            try:
                await _read(connection_of(request), web_socket, client)
            finally:
                with contextlib.suppress(ConnectionError):
                    await client.end()
    return web_socket


async def _open(request: web.Request, web_socket: web.WebSocketResponse) -> ClientSocket | None:
    """Shake hands and return the socket, or `None` if its client is gone already."""
    member, app, connection = member_of(request), request.app, connection_of(request)
    await web_socket.prepare(request)
    transport = request.transport
    if transport is None:
        return None
    _keep_alive(transport)
    sid = request.query.get("clientId") or randomness.uuid4().hex
    dropped = app[ACCOUNTING].metrics.previews_dropped
    queue = SendQueue(count_dropped=dropped.labels(member).inc)
    client = ClientSocket(
        *(web_socket, transport, connection.driver, app, member, sid, queue, app[SOCKETS]),
        connection.passes_on,
    )
    # A socket that was opened as one of Comfy Cloud has a `token` in its query.
    receives_all = bool(prefix_of(request).query_tokens) or "token" in request.query
    age = float(request.headers.get(SOCKET_AGE, "0")) if connection.passes_on else 0.0
    client.begin(receives_all=receives_all, age=age)
    connection.upgraded(client.leave)
    return client


async def _read(
    connection: Connection, web_socket: web.WebSocketResponse, client: ClientSocket
) -> None:
    """Handle messages until the socket closes."""
    async for message in web_socket:
        connection.received(message)
        await connection.driver.give_way()  # hundreds may have come at once
        if message.type is aiohttp.WSMsgType.TEXT:
            client.receive(message.data)
        elif message.type is aiohttp.WSMsgType.PING:
            await web_socket.pong(message.data)


def _keep_alive(transport: asyncio.Transport) -> None:
    connection = transport.get_extra_info("socket")
    if connection is None:
        return
    with contextlib.suppress(OSError):
        connection.setsockopt(tcp.SOL_SOCKET, tcp.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE.items():
            if hasattr(tcp, option):
                connection.setsockopt(tcp.IPPROTO_TCP, getattr(tcp, option), value)
