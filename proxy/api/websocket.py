"""`/ws`: what a client hears.

One task reads all the time, another one writes what waits in the queue; nobody waits for a slow
client.

A ping follows a long silence. A local ComfyUI sends none, but every client must answer them (RFC
6455, 5.5.2) and libraries do so without a request. Still no client is closed for lack of a pong:
many read their socket only while they wait for a job, and a local ComfyUI would keep them. It is
TCP that judges: the ping has to be acknowledged, by the system of a peer that is there and by
nobody where it is not. `TCP_USER_TIMEOUT` bounds the wait for that, and for a peer that takes
nothing more; where it is missing the system's own, longer bound counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket as tcp
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING

import aiohttp
import structlog
from aiohttp import web
from msgspec import Struct, field

from proxy.api.connections import connection_of, member_of, way_of
from proxy.api.keys import ACCOUNTING, BUDGET, JOBS, features
from proxy.budget import Allocation, MemoryLimitError
from proxy.supervisor import Supervisor
from proxy.translate import codec, frames
from proxy.translate.events import Binary, Event, Message, Preview, status

if TYPE_CHECKING:
    pass

log = structlog.get_logger(__name__)

#: Bytes that may wait before the client counts as gone.
LIMIT = 64 * 1024 * 1024
#: Bytes that wait from which they are taken from the budget.
COUNTED = 256 * 1024
#: Bytes of previews that may wait before older ones make room.
PREVIEW_LIMIT = 2 * 1024 * 1024
#: What a waiting message weighs beside its own bytes.
OVERHEAD = 256


class Outgoing(Struct, frozen=True):
    """A message on its way; `metadata` asks for a preview of type 4, else it is of type 1."""

    message: Message
    metadata: bool

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        match self.message:
            case Event() as event:
                return OVERHEAD + len(event.text)
            case Preview() as preview:
                return OVERHEAD + len(preview.image)
            case Binary() as binary:
                return OVERHEAD + len(binary.data)
            case text:
                return OVERHEAD + len(text.text)

    @property
    def droppable(self) -> bool:
        """Whether it is a mere preview."""
        return isinstance(self.message, Preview) and not self.message.result


class SendQueue(Struct, eq=False):
    """Messages in the order in which a local ComfyUI sends them to this one socket.

    A preview that leads its `progress` is sent in its place to a socket that asked for metadata,
    and behind that `progress` to any other, as a local ComfyUI does. `metadata` says whether the
    socket asked. More than `limit` bytes are too many; with more than `preview_limit` bytes of
    previews the older ones make room.
    """

    limit: int = LIMIT
    preview_limit: int = PREVIEW_LIMIT
    metadata: bool = False
    overflowed: bool = False
    # An empty deque takes three times the memory of an empty OrderedDict.
    _waiting: OrderedDict[int, Outgoing] = field(default_factory=OrderedDict)
    _previews: OrderedDict[int, None] = field(default_factory=OrderedDict)
    _held: Preview | None = None
    _next: int = 0
    _size: int = 0
    _preview_size: int = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def size(self) -> int:
        """Bytes that wait, about."""
        return self._size

    def want_metadata(self, wanted: bool) -> None:
        """Previews from now on go out as type 4, or as type 1."""
        self._release()
        self.metadata = wanted

    def put(self, message: Message, *, for_all: bool = False) -> int:
        """Take a message; `for_all` sends a preview as type 1 whatever the socket asked for.

        Returns how many previews had to make room.
        """
        if self.overflowed:
            return 0
        metadata = self.metadata and not for_all
        if isinstance(message, Preview) and message.leads and not metadata:
            dropped = self._release()
            self._held = message
            return dropped
        held, dropped = self._held, 0
        if held is not None and not _may_pass(message, held):
            dropped += self._release()
        dropped += self._add(Outgoing(message, metadata))
        if held is not None and _is_progress_of(message, held):
            dropped += self._release()
        return dropped

    def pop(self) -> Outgoing | None:
        """The next message to send, if there is one."""
        if not self._waiting:
            return None
        number, outgoing = self._waiting.popitem(last=False)
        self._size -= outgoing.size
        if outgoing.droppable:
            self._preview_size -= outgoing.size
            del self._previews[number]
        return outgoing

    def _release(self) -> int:
        """Send the preview that waited for its `progress`; how many had to make room."""
        held, self._held = self._held, None
        return 0 if held is None else self._add(Outgoing(held, metadata=False))

    def _add(self, outgoing: Outgoing) -> int:
        size = outgoing.size
        self._waiting[self._next] = outgoing
        self._size += size
        if outgoing.droppable:
            self._previews[self._next] = None
            self._preview_size += size
        self._next += 1
        count = 0
        while len(self._previews) > 1 and self._preview_size > self.preview_limit:
            number, _ = self._previews.popitem(last=False)
            dropped = self._waiting.pop(number)
            count += 1
            self._size -= dropped.size
            self._preview_size -= dropped.size
        self.overflowed = self._size > self.limit
        return count


def _may_pass(message: Message, held: Preview) -> bool:
    """Whether a message goes before the preview that waits: its progress, and other jobs'."""
    if not isinstance(message, Event):
        return isinstance(message, Preview) and message.prompt_id != held.prompt_id
    if message.type in ("status", "feature_flags", "progress_state", "progress"):
        return True
    return bool(message.data.get("prompt_id", held.prompt_id) != held.prompt_id)


def _is_progress_of(message: Message, held: Preview) -> bool:
    """Whether a message is the `progress` that a preview leads."""
    return (
        isinstance(message, Event)
        and message.type == "progress"
        and message.data.get("prompt_id") == held.prompt_id
    )


class Sockets:
    """The open sockets of a server.

    One to which nothing was sent for `ping_interval` seconds gets a ping (0: never).
    """

    def __init__(self, supervisor: Supervisor, ping_interval: float = 0.0) -> None:
        self._supervisor = supervisor
        self._ping_interval = ping_interval
        self._sockets: set[ClientSocket] = set()
        self._pinging: asyncio.Task[None] | None = None

    def join(self, socket: ClientSocket) -> None:
        """A socket was opened."""
        self._sockets.add(socket)
        if self._pinging is None and self._ping_interval > 0:
            self._pinging = self._supervisor.keep(self._ping, "ping silent sockets")

    def leave(self, socket: ClientSocket) -> None:
        """A socket is gone."""
        self._sockets.discard(socket)

    async def close(self, code: int) -> None:
        """Tell every client that the server goes away."""
        goodbyes = [socket.leave(code, GOING_AWAY) for socket in self._sockets]
        if goodbyes:
            await asyncio.wait(goodbyes)
        if self._pinging is not None:
            self._pinging.cancel()

    async def _ping(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self._ping_interval / 4))
            since = loop.time() - self._ping_interval
            for socket in self._sockets:
                socket.ping_if_silent(since)


#: The largest message that a client may send, as in ComfyUI; a larger one closes with 1009.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
#: Letters of the largest message that is read for feature flags, which take some hundred.
MAX_FLAGS = 64 * 1024
#: How long a client has to take the close frame.
CLOSE_SECONDS = 2.0

#: The reason in the close frame of a server that stops.
GOING_AWAY = "The proxy is stopping."
#: The reason in the close frame of a client that lets too much pile up.
TOO_SLOW = "This client reads too slowly; connect again."

#: In seconds, but `TCP_USER_TIMEOUT` in milliseconds.
_KEEP_ALIVE = {
    "TCP_KEEPIDLE": 60,
    "TCP_KEEPINTVL": 15,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": 180_000,
}


class ClientSocket(Struct, eq=False):
    """One client's websocket, as the subscribers know it."""

    _web_socket: web.WebSocketResponse
    _transport: asyncio.Transport
    _app: web.Application
    _member: str
    _sid: str
    _queue: SendQueue
    _writing: asyncio.Task[None] | None = None
    _written_at: float = 0.0
    _ping_due: bool = False
    _negotiated: bool = False
    _silent: bool = False
    _ended: bool = False
    _leaving: asyncio.Task[None] | None = None
    _left: asyncio.Future[None] | None = None
    _held: Allocation | None = None

    def send(self, message: Message, *, for_all: bool) -> None:
        """Take a message without waiting; a client that lets too much pile up has to go."""
        if self._silent:
            return
        dropped = self._queue.put(message, for_all=for_all)
        if dropped:
            self._app[ACCOUNTING].metrics.previews_dropped.labels(self._member).inc(dropped)
        self._write_on()
        if self._queue.overflowed or not self._fits():
            log.warning("socket_overflowed", waiting=len(self._queue))
            self.leave(aiohttp.WSCloseCode.TRY_AGAIN_LATER, TOO_SLOW)

    def _fits(self) -> bool:
        """Take what waits from the budget of the member, unless it is little."""
        size = self._queue.size
        if size < COUNTED or self._ended:
            self._release()
            return True
        if self._held is None:
            self._held = self._app[BUDGET].member(self._member, "socket")
        try:
            self._held.resize(size)
        except MemoryLimitError:
            return False
        return True

    def _release(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None

    @property
    def asks_for_previews(self) -> bool:
        """Whether the client's feature flags ask for previews with metadata."""
        return self._queue.metadata

    def superseded(self) -> None:
        """The connection stays open and gets nothing more."""
        self._silent = True

    def greet(self) -> None:
        """Send the first message: the queue with the `sid`."""
        remaining = self._app[JOBS].queue_remaining(self._member)
        self.send(status(remaining, self._sid), for_all=False)

    def hear(self, text: str) -> None:
        """Take a client's message: its feature flags, if the first JSON object has them."""
        if self._negotiated or len(text) > MAX_FLAGS:
            return
        try:
            message = codec.loads(text)
        except ValueError:
            return
        if not isinstance(message, dict):
            return
        self._negotiated = True
        if message.get("type") == "feature_flags":
            wanted = message.get("data")
            metadata = isinstance(wanted, dict) and wanted.get("supports_preview_metadata") is True
            self._queue.want_metadata(metadata)
            if metadata:
                self._app[JOBS].subscribers.understands_several(self._member, self._sid)
            self.send(Event("feature_flags", features(self._app)), for_all=False)

    def ping_if_silent(self, since: float) -> None:
        """Send a ping if nothing was sent since then."""
        if 0 < self._written_at <= since and self._writing is None and not self._silent:
            self._ping_due = True
            self._write_on()

    def _write_on(self) -> None:
        """Have the queue written; a socket with nothing to say has no task."""
        if self._writing is None and not self._ended:
            self._writing = asyncio.create_task(self._deliver(), name="write to a socket")

    async def _deliver(self) -> None:
        try:
            while self._leaving is None and (outgoing := self._queue.pop()) is not None:
                await self._write(outgoing)
            if self._ping_due and self._leaving is None:
                await self._web_socket.ping()
        except ConnectionError:
            self._silent = True  # who reads the socket hears of it too
        except Exception:
            log.exception("socket_failed")
            self._transport.abort()
        finally:
            self._fits()
            self._ping_due = False
            self._written_at = asyncio.get_running_loop().time()
            self._writing = None

    async def _write(self, outgoing: Outgoing) -> None:
        # A compressor of its own for each message: one a socket would hold 256 KiB for its life.
        compress = self._web_socket.compress or None
        match outgoing.message:
            case Event() as event:
                await self._web_socket.send_str(event.text, compress)
            case Preview() as preview:
                frame = frames.encode_preview(preview, metadata=outgoing.metadata)
                if frame is not None:
                    await self._web_socket.send_bytes(frame, compress)
            case Binary() as binary:
                await self._web_socket.send_bytes(binary.data, compress)
            case text:
                await self._web_socket.send_bytes(frames.encode_text(text), compress)

    def leave(self, code: int, reason: str, patience: float = CLOSE_SECONDS) -> asyncio.Task[None]:
        """Say goodbye, and cut the connection when the client does not say so too."""
        self._silent = True
        if self._leaving is None:
            goodbye = self._leave(code, reason, patience)
            self._leaving = asyncio.create_task(goodbye, name="goodbye")
        return self._leaving

    async def _leave(self, code: int, reason: str, patience: float) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(patience):
                payload = code.to_bytes(2, "big") + reason.encode()
                await self._web_socket.send_frame(payload, aiohttp.WSMsgType.CLOSE)
                if not self._ended:
                    self._left = asyncio.get_running_loop().create_future()
                    await self._left
        self._transport.abort()

    async def end(self) -> None:
        """The client has closed the connection: answer that, unless it is the answer."""
        self._ended = True
        self._release()
        if self._left is not None and not self._left.done():
            self._left.set_result(None)
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])
        if self._leaving is None:
            await self._web_socket.close(drain=False)
        else:
            self._transport.close()
            await self._leaving


SOCKETS = web.AppKey("sockets", Sockets)


async def serve(request: web.Request) -> web.StreamResponse:
    """Open a websocket and serve it until it closes. A bad handshake is a 400 with a text.

    A `token` in the query is the mark of a program written for Comfy Cloud; with members it has
    to be valid besides.
    """
    # Pings are answered here, where their bytes are no longer counted as held.
    web_socket = web.WebSocketResponse(
        max_msg_size=MAX_MESSAGE_BYTES, autoclose=False, autoping=False
    )
    await web_socket.prepare(request)
    transport = request.transport
    if transport is None:
        return web_socket
    _keep_alive(transport)
    member = member_of(request)
    sockets, metrics = request.app[SOCKETS], request.app[ACCOUNTING].metrics
    sid = request.query.get("clientId") or uuid.uuid4().hex
    client = ClientSocket(web_socket, transport, request.app, member, sid, SendQueue())
    subscribers = request.app[JOBS].subscribers
    subscribers.attach(member, sid, client, client.greet, hears_all=_cloud_way(request))
    sockets.join(client)
    connection = connection_of(request)
    connection.upgraded(client.leave)
    metrics.websockets.labels(member).inc()
    log.debug("socket_opened", sid=sid)
    try:
        async for message in web_socket:
            connection.heard(message)
            if message.type is aiohttp.WSMsgType.TEXT:
                client.hear(message.data)
            elif message.type is aiohttp.WSMsgType.PING:
                await web_socket.pong(message.data)
    finally:
        subscribers.detach(member, sid, client)
        sockets.leave(client)
        metrics.websockets.labels(member).dec()
        with contextlib.suppress(ConnectionError):
            await client.end()
        log.debug("socket_closed", sid=sid, code=web_socket.close_code)
    return web_socket


def _cloud_way(request: web.Request) -> bool:
    """Whether the socket was opened as Comfy Cloud's are, with a `token` in the query."""
    return bool(way_of(request).query_tokens) or "token" in request.query


def _keep_alive(transport: asyncio.Transport) -> None:
    connection = transport.get_extra_info("socket")
    if connection is None:
        return
    with contextlib.suppress(OSError):
        connection.setsockopt(tcp.SOL_SOCKET, tcp.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE.items():
            if hasattr(tcp, option):
                connection.setsockopt(tcp.IPPROTO_TCP, getattr(tcp, option), value)
