"""The event sockets: every socket of an account receives everything."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from aiohttp import WSCloseCode, WSMsgType, web

from proxy.simulator import delivery, events
from proxy.simulator.faults import Faults, SocketFault
from proxy.simulator.switches import Switches
from proxy.translate import codec

#: A socket that is this many messages behind is dropped.
BACKLOG = 20_000


class EventConnection:
    """One connection: an outbox, a task that empties it, and the flags that were announced."""

    def __init__(
        self,
        response: web.WebSocketResponse,
        request: web.Request,
        switches: Switches,
        faults: Faults,
    ) -> None:
        self.flags: dict[str, Any] = {}
        self.client_id = request.query.get("clientId", "")
        self.sent = 0
        self._response = response
        self._transport = request.transport
        self._switches = switches
        self._faults = faults
        self._outbox: deque[events.Message] = deque()
        self._filled = asyncio.Event()
        self._held: list[events.Message] = []
        self._stalled = False
        self._moved = asyncio.get_running_loop().time()

    def send(self, message: events.Message) -> None:
        """Append a message."""
        self._outbox.append(message)
        self._filled.set()
        if len(self._outbox) > BACKLOG:
            self.drop()

    def drop(self) -> None:
        """Reset the connection."""
        delivery.reset(self._transport)

    async def close(self, code: int, reason: str = "") -> None:
        """Close properly, without waiting long for the other side."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(0.2):
                await self._response.close(code=code, message=reason.encode())

    async def run(self) -> None:
        """Read and write until either side has closed."""
        writer = asyncio.create_task(self._write())
        watch = asyncio.create_task(self._watch())
        try:
            await self._read()
        finally:
            writer.cancel()
            watch.cancel()
            await asyncio.gather(writer, watch, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            message = await self._response.receive()
            self._moved = asyncio.get_running_loop().time()
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
                return
            if message.type is WSMsgType.ERROR:
                return
            if message.type is WSMsgType.PING and not self._stalled:
                await self._response.pong(message.data)
            elif message.type is WSMsgType.TEXT:
                self._announce(message.data)

    def _announce(self, text: str) -> None:
        try:
            message = codec.loads(text)
        except ValueError:
            return
        if not isinstance(message, dict) or message.get("type") != "feature_flags":
            return
        if isinstance(message.get("data"), dict):
            self.flags = message["data"]
        if self._switches.feature_flags == "asked":
            self.send(events.CloudEvent("feature_flags", events.features(self._switches)))

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            idle = self._switches.socket_idle
            if idle and loop.time() - self._moved >= idle:
                await self.close(WSCloseCode.GOING_AWAY, "idle")
                return
            await asyncio.sleep(min(idle / 4, 0.25) if idle else 0.25)

    async def _write(self) -> None:
        try:
            while True:
                while self._outbox:
                    await self._send(self._outbox.popleft())
                self._filled.clear()
                await self._filled.wait()
        except ConnectionError:
            return

    async def _send(self, message: events.Message) -> None:
        fault = self._faults.socket(message.name)
        copies = 1
        if fault is not None:
            if fault.kind == "lose":
                return
            if fault.kind == "reorder":
                self._held.append(message)
                return
            if fault.kind == "duplicate":
                copies = 2
            await self._suffer(fault)
        for _ in range(copies):
            await self._put(message)
        held, self._held = self._held, []
        for late in held:
            await self._put(late)

    async def _suffer(self, fault: SocketFault) -> None:
        match fault.kind:
            case "drop":
                self.drop()
                raise ConnectionResetError
            case "close":
                await self.close(fault.code)
                raise ConnectionResetError
            case "stall":
                self._stalled = True
                await asyncio.Event().wait()
            case "garbage":
                await self._response.send_str('{"type": "execu')
                await self._response.send_bytes(b"\x00\x00")
            case "oversized":
                await self._response.send_bytes(os.urandom(16) + bytes(fault.size))
            case "delay":
                await asyncio.sleep(fault.seconds)

    async def _put(self, message: events.Message) -> None:
        wire = message.wire(self.flags, self._switches)
        if isinstance(wire, str):
            await self._response.send_str(wire)
        elif wire is not None:
            await self._response.send_bytes(wire)
        self._moved = asyncio.get_running_loop().time()
        self.sent += 1


class EventSockets:
    """The sockets of one account."""

    def __init__(self, switches: Switches, faults: Faults, changed: Callable[[], None]) -> None:
        self.sockets: list[EventConnection] = []
        self._switches = switches
        self._faults = faults
        self._changed = changed

    def broadcast(self, message: events.Message) -> None:
        """Send to every socket of the account, whatever its `clientId`."""
        for socket in self.sockets:
            socket.send(message)

    async def serve(self, request: web.Request, remaining: int) -> web.StreamResponse:
        """Serve a connection from its handshake to its end."""
        response = web.WebSocketResponse(autoping=False, max_msg_size=4 * 1024 * 1024)
        await response.prepare(request)
        socket = EventConnection(response, request, self._switches, self._faults)
        socket.send(events.status(remaining, sid=socket.client_id or str(uuid4())))
        if self._switches.feature_flags == "pushed":
            socket.send(events.CloudEvent("feature_flags", events.features(self._switches)))
        self.sockets.append(socket)
        self._changed()
        try:
            await socket.run()
        finally:
            self.sockets.remove(socket)
            self._changed()
        return response

    def drop(self) -> None:
        """Reset every connection."""
        for socket in list(self.sockets):
            socket.drop()

    async def close(self, code: int = WSCloseCode.GOING_AWAY) -> None:
        """Close every connection properly."""
        await asyncio.gather(*(socket.close(code) for socket in list(self.sockets)))
