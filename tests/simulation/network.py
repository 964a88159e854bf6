"""The way to the cloud: `proxy.cloud.connections.Connections` without sockets.

What has been handed to the network arrives, or not, whatever becomes of the process that sent it.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import WSMsgType
from multidict import CIMultiDict, CIMultiDictProxy
from simulation.deployment_files import STORAGE_HOST
from simulation.event_stream import EventStream
from simulation.loop import Process
from simulation.weather import LATE, Weather
from yarl import URL

from proxy.cloud import connections

if TYPE_CHECKING:
    from simulation.world import World

#: The accounts of Comfy Cloud, their hosts, and that of webhooks.
ACCOUNTS = ("default", "second")
CLOUD_HOSTS, HOOK_HOST = ("cloud.test", "other.test"), "hooks.test"

#: The first API key of the accounts.
KEY = "comfyui-simulated-key-0123456789"

#: What a handshake that was refused has asked.
_ASKED = aiohttp.RequestInfo(URL("wss://cloud.test/ws"), "GET", CIMultiDictProxy(CIMultiDict()))

#: Where jobs are submitted, on Comfy Cloud and on a deployment.
_SUBMISSIONS = ("/api/prompt", "/api/v2/jobs")


class SimulatedConnections:
    """Stands for `Connections`, as far as HTTP calls, event sockets and webhooks use it."""

    #: The world of the current run.
    world: World

    def __init__(self, *_: object, **__: object) -> None:
        self._process: Process | None = None

    async def start(self) -> None:
        """Open the sessions, of which the process has one more."""
        self._process = self.world.process()
        if self._process is not None:
            self._process.sessions += 1

    async def close(self) -> None:
        """Close the sessions."""
        if self._process is not None:
            self._process.sessions -= 1
            self._process = None

    async def __aenter__(self) -> SimulatedConnections:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def choose(self, _url: URL) -> tuple[SimulatedSession, None]:
        """Return what opens websockets."""
        return SimulatedSession(self), None

    async def request(self, method: str, url: URL, **options: Any) -> SimulatedResponse:
        """Send a request, and return its response. Raises `CONNECTION_ERRORS`."""
        timeout = options.get("timeout")
        async with asyncio.timeout(None if timeout is None else timeout.total):
            if url.host == HOOK_HOST:
                status = await self.world.hooks.post(url, options["data"], options["headers"])
                return SimulatedResponse(status, b"")
            response = await self._request(
                method, url, options.get("data"), options.get("headers") or {}
            )
        if isinstance(response.content, EventStream):
            response.content.silence = options["timeout"].sock_read
        return response

    async def _request(
        self, method: str, url: URL, data: bytes | None, headers: Mapping[str, str]
    ) -> SimulatedResponse:
        world, weather, loop = self.world, self.world.weather, self.world.loop
        process = world.process()
        submits = method == "POST" and url.path in _SUBMISSIONS
        ambushed = process if submits else None
        await world.ambush(ambushed, "before")
        await asyncio.sleep(weather.draw(0.001, 0.02))  # the connection
        await world.ambush(ambushed, "connected")
        if weather.cloud_away(process, url.host):
            await asyncio.sleep(weather.draw(0.0, connections.CONNECT_TIMEOUT))
            raise aiohttp.ClientConnectionError
        connections.begin_to_send()
        body = data if isinstance(data, bytes) else b""
        if submits:
            world.note("", "", "calls", f"{method} {url.path}")
            world.check_epoch(process)
        half_lost = weather.cloud_half_lost(process)
        if method == "GET" and weather.chance(_readings(url)):
            await self._broken()
        if weather.chance("request_lost") or (half_lost and weather.draw(0, 1) < 0.5):
            await self._broken()
        failed = weather.chance("submission_failed" if submits else "gateway_failed")
        if failed and weather.draw(0.0, 1.0) < 0.5:  # it has taken nothing
            return _of_gateway(weather)
        if submits and (weather.chance("request_late") or weather.chance("submission_late")):
            late = weather.draw(1.0, LATE)
            loop.in_world(late, world.handle, method, url, body, headers, loop.create_future())
            await self._broken()
        answer: asyncio.Future[tuple[int, Any, dict[str, str]]] = loop.create_future()
        loop.in_world(weather.way_to_cloud(), world.handle, method, url, body, headers, answer)
        await world.ambush(ambushed, "sent")
        status, content, told = await answer
        await asyncio.sleep(weather.way_to_cloud())
        await world.ambush(ambushed, "answered")
        if half_lost or weather.chance("response_lost") or weather.cloud_away(process, url.host):
            await self._broken()
        if submits and weather.chance("submission_lost"):
            await self._broken()
        if weather.chance("gateway_error"):
            return SimulatedResponse(504, b"<html>")
        if failed:
            return _of_gateway(weather)
        is_file = url.host == STORAGE_HOST or url.name == "content"
        if weather.chance("garbage") and method == "GET" and not is_file:
            return SimulatedResponse(200, b"{broken")
        if isinstance(content, EventStream):
            content.process = process
            return SimulatedResponse(status, content, told)
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        return SimulatedResponse(status, text, told, url)

    async def _broken(self) -> None:
        """Let a connection break after a while."""
        await asyncio.sleep(self.world.weather.draw(0.0, 5.0))
        raise aiohttp.ServerDisconnectedError


def _of_gateway(weather: Weather) -> SimulatedResponse:
    """Return an answer that does not say what has become of a request, mostly of a gateway."""
    return SimulatedResponse((500, 502, 504)[int(weather.draw(0.0, 3.0)) % 3], b"<html>")


def _readings(url: URL) -> str:
    """Return the rate at which readings of jobs are lost, for an address of them."""
    if url.path == "/api/jobs":
        return "list_lost"
    return "reading_lost" if url.path.startswith("/api/v2/jobs") else ""


class SimulatedResponse:
    """Stands for `aiohttp.ClientResponse`."""

    def __init__(
        self,
        status: int,
        body: bytes | EventStream,
        headers: Mapping[str, str] | None = None,
        url: URL | None = None,
    ) -> None:
        self.status = status
        self.url = url
        self.headers = CIMultiDict({"Content-Type": "application/json", **(headers or {})})
        self.content_length = None if isinstance(body, EventStream) else len(body)
        self.content = _Content(body) if isinstance(body, bytes) else body

    async def __aenter__(self) -> SimulatedResponse:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def release(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Close a stream; else nothing is open."""
        if isinstance(self.content, EventStream):
            self.content.close()


class _Content:
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        body, self._body = self._body, b""
        yield body

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        """Yield the body as one chunk."""
        async for chunk in self.iter_any():
            yield chunk, True


class SimulatedSession:
    """Stands for `aiohttp.ClientSession`."""

    def __init__(self, connections: SimulatedConnections) -> None:
        self._connections = connections

    async def ws_connect(self, url: URL, **_: Any) -> CloudSocket:
        """Open an event socket."""
        world = self._connections.world
        process = world.process()
        await asyncio.sleep(world.weather.draw(0.01, 0.3))
        if world.weather.cloud_away(process, url.host):
            await asyncio.sleep(world.weather.draw(0.0, 10.0))
            raise aiohttp.ClientConnectionError
        if not world.accepts(url.host, url.query["token"]):
            raise aiohttp.WSServerHandshakeError(_ASKED, (), status=401, message="refused")
        socket = CloudSocket(world, process, url.host)
        world.clouds[url.host].sockets.append(socket)
        return socket


class CloudSocket(aiohttp.ClientWebSocketResponse):
    """One event socket of the cloud: messages in order, but for those that are exchanged."""

    def __init__(self, world: World, process: Process | None, host: str) -> None:
        self._world = world
        self._host = host
        self.process = process
        self._inbox: deque[aiohttp.WSMessage] = deque()
        self._news = asyncio.Event()
        self._arrives = 0.0
        self._open = True

    @property
    def close_code(self) -> int | None:
        """No code: it was lost."""
        return None

    async def send_str(self, data: str, compress: int | None = None) -> None:
        """Send the flags."""

    async def close(self, **_: Any) -> bool:  # type: ignore[override]
        """Close from this side."""
        self.lose()
        return True

    def lose(self) -> None:
        """End the connection, with all that is under way."""
        self._open = False
        sockets = self._world.clouds[self._host].sockets
        if self in sockets:
            sockets.remove(self)
        self._news.set()

    def receive(self, data: str | bytes, late: float) -> None:
        """Let a message arrive, in its turn or `late`."""
        if self._world.weather.cloud_away(self.process, self._host):
            return
        loop = self._world.loop
        at = max(self._arrives + 1e-6, loop.time() + self._world.weather.draw(0.005, 0.05))
        if late:
            at += late
        else:
            self._arrives = at
        loop.in_world(at - loop.time(), self._arrived, data)

    def _arrived(self, data: str | bytes) -> None:
        if self._open:
            type_ = WSMsgType.TEXT if isinstance(data, str) else WSMsgType.BINARY
            self._inbox.append(aiohttp.WSMessage(type_, data, None))
            self._news.set()

    def __aiter__(self) -> CloudSocket:
        return self

    async def __anext__(self) -> aiohttp.WSMessage:
        while not self._inbox:
            if not self._open:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._inbox.popleft()
