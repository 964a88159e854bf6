"""A cloud that answers wrongly: a server before the simulator that changes what it passes on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import aiohttp
from aiohttp import web
from yarl import URL

from proxy.simulator import Simulator

#: Makes the answer to a request, of the real one's body if it wants; `None` leaves it as it is.
Answering: TypeAlias = Callable[
    [web.Request, bytes], Awaitable[bytes | web.StreamResponse | None] | bytes | None
]
#: Answers a request.
Replacing: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Makes other messages (texts or binary) of one for the event socket.
Telling: TypeAlias = Callable[[str | bytes], list[str | bytes]]

_HOP = frozenset({"content-length", "transfer-encoding", "connection", "content-encoding", "date"})


@dataclass(eq=False)
class BrokenCloud:
    """The simulator as a broken cloud shows it; it stands where tests expect a simulator.

    `answers` are by a pattern over method and path; the first that fits makes the answer. What is
    `replaced` does not come to the simulator.
    """

    simulator: Simulator
    base_url: URL = field(default_factory=URL)
    answers: list[tuple[re.Pattern[str], Answering]] = field(default_factory=list)
    replaced: list[tuple[re.Pattern[str], Replacing]] = field(default_factory=list)
    tells: Telling = lambda message: [message]
    sockets: set[asyncio.Transport] = field(default_factory=set)

    @property
    def key(self) -> str:
        return self.simulator.key

    def answer(self, route: str, make: Answering) -> None:
        """Let `make` answer the requests of a route from now on."""
        self.answers.insert(0, (re.compile(route), make))

    def replace(self, route: str, handle: Replacing) -> None:
        """Let `handle` answer the requests of a route from now on, in the simulator's place."""
        self.replaced.append((re.compile(route), handle))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        for pattern, handle in self.replaced:
            if pattern.fullmatch(f"{request.method} {request.path}"):
                return await handle(request)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._relay(request)
        url = self.simulator.base_url.join(URL(request.raw_path, encoded=True))
        headers = {
            name: value for name, value in request.headers.items() if name.lower() not in _HOP
        }
        body = await request.read()
        async with (
            aiohttp.ClientSession(auto_decompress=True) as session,
            session.request(
                request.method, url, data=body, headers=headers, allow_redirects=False
            ) as answer,
        ):
            real = await answer.read()
            kept = {
                name: value for name, value in answer.headers.items() if name.lower() not in _HOP
            }
            status = answer.status
        for pattern, make in self.answers:
            if pattern.fullmatch(f"{request.method} {request.path}"):
                made = make(request, real)
                changed = await made if isinstance(made, Awaitable) else made
                if isinstance(changed, web.StreamResponse):
                    return changed
                if changed is not None:
                    kept = {"Content-Type": answer.headers.get("Content-Type", "text/plain")}
                    return web.Response(body=changed, headers=kept)
        return web.Response(status=status, body=real, headers=kept)

    def flood(self, frames: bytes) -> None:
        """Write bytes on all event sockets as they are."""
        for socket in self.sockets:
            socket.write(frames)

    async def _relay(self, request: web.Request) -> web.StreamResponse:
        near = web.WebSocketResponse()
        await near.prepare(request)
        assert request.transport is not None
        self.sockets.add(transport := request.transport)
        url = self.simulator.base_url.join(URL(request.raw_path, encoded=True))
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as far:

            async def forward() -> None:
                async for message in near:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        await far.send_str(message.data)

            sending = asyncio.create_task(forward())
            try:
                async for message in far:
                    for reply in self.tells(message.data):
                        if isinstance(reply, str):
                            await near.send_str(reply)
                        else:
                            await near.send_bytes(reply)
            finally:
                self.sockets.discard(transport)
                sending.cancel()
        return near


@asynccontextmanager
async def broken_cloud(simulator: Any) -> AsyncIterator[Any]:
    """A `BrokenCloud` on a port of its own."""
    cloud = BrokenCloud(simulator)
    server = web.Application(client_max_size=256 * 1024 * 1024)
    server.router.add_route("*", "/{path:.*}", cloud.handle)
    runner = web.AppRunner(server, handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    cloud.base_url = URL(f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        yield cloud
    finally:
        await runner.cleanup()
