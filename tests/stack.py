"""The whole stack for tests: the simulator, the proxy on a real port, and a client of its API."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from backend import add_database, settings_of
from yarl import URL

from proxy import app
from proxy.api.keys import FILES, Services
from proxy.api.web_interface import WebInterface
from proxy.app.server import Server
from proxy.edge.accepting import listen
from proxy.edge.listener import address_of
from proxy.edge.tls import Certificate
from proxy.engine.policy import DetailTimeouts, Policy
from proxy.files.library import Prefetch
from proxy.settings import AccountAccess, read_accounts
from proxy.simulator import Simulator

#: No test waits longer for an event that has to come.
TIMEOUT = 60.0

QUICK = {
    "detail": DetailTimeouts(first=0.01, longest=0.05, settle=2.0, settle_stopped=1.0, lost=0.5),
    "connected_wait": 0.5,
    "lost_wait": 0.05,
    "submit_timeout": 2.0,
    "adoption_timeout": 0.5,
    "status_interval": 0.2,
}


@dataclass(repr=False)  # asyncio would make it of each result of a fixture
class Proxy:
    """A running proxy."""

    url: URL
    services: Services


@asynccontextmanager
async def running_proxy(
    simulator: Simulator,
    folder: Path,
    *,
    policy: dict[str, Any] | None = None,
    timeouts: app.Timeouts | None = None,
    interface: WebInterface | None = None,
    port: int = 0,
    prefetch: Prefetch | None = None,
    **settings: Any,
) -> AsyncIterator[Proxy]:
    """The proxy before `simulator`, with its data in `folder`, on `port` or a free one.

    `prefetch` is which outputs it downloads when their job ends. Without the setting `accounts` the
    simulator's own is the only one. Without an `interface` there is none, whether it is installed
    or not.
    """
    await add_database(folder)
    chosen = settings_of(folder, **settings)
    jobs_policy = Policy(**{**QUICK, **(policy or {})})
    accounts = (
        read_accounts(chosen)
        if chosen.accounts
        else [AccountAccess("default", simulator.base_url, simulator.key)]
    )
    async with (
        app.lifespan(
            chosen,
            accounts=accounts,
            policy=jobs_policy,
            timeouts=timeouts,
            interface=interface or WebInterface(),
        ) as services,
        serving(Server(services, stop_timeout=0.5), port=port) as url,
    ):
        if prefetch is not None:
            services[FILES].library.prefetch = prefetch
        yield Proxy(URL(url), services)


@asynccontextmanager
async def serving(
    server: Server,
    host: str = "127.0.0.1",
    port: int = 0,
    certificate: Certificate | None = None,
) -> AsyncIterator[str]:
    """A server that listens, by its address."""
    sockets = await listen([host], port)
    try:
        await server.start(sockets, certificate)
        yield address_of(sockets, host, tls=certificate is not None)
    finally:
        for listening in sockets:
            listening.close()
        await server.stop()


@dataclass
class Listener:
    """A client's websocket and all that it heard: `(type, data)`, binary as `("binary", bytes)`."""

    socket: aiohttp.ClientWebSocketResponse
    received: list[tuple[str, Any]] = field(default_factory=list)

    async def next(self) -> tuple[str, Any]:
        """The next message."""
        async with asyncio.timeout(TIMEOUT):
            message = await self.socket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            self.received.append(("binary", message.data))
        elif message.type is aiohttp.WSMsgType.TEXT:
            parsed = json.loads(message.data)
            self.received.append((parsed["type"], parsed["data"]))
        else:
            raise ConnectionError(f"the socket ended: {message}")
        return self.received[-1]

    async def until(self, type_: str, **fields: Any) -> dict[str, Any]:
        """Read up to a message of this type whose data has these fields."""
        while True:
            kind, data = await self.next()
            if kind == type_ and all(data.get(key) == value for key, value in fields.items()):
                return data

    async def until_end(self, prompt_id: str) -> None:
        """Read up to the end of a run."""
        await self.until("executing", node=None, prompt_id=prompt_id)

    def types(self) -> list[str]:
        """What was heard, without `status`."""
        return [type_ for type_, _ in self.received if type_ != "status"]

    def of(self, type_: str) -> list[Any]:
        """The data of all messages of a type."""
        return [data for kind, data in self.received if kind == type_]


@dataclass
class Client:
    """A program that speaks the local API."""

    session: aiohttp.ClientSession
    url: URL
    client_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @asynccontextmanager
    async def listening(
        self, flags: dict[str, Any] | None = None, *, client_id: str | None = None
    ) -> AsyncIterator[Listener]:
        """A websocket that has had its first `status`, and the answer to its flags."""
        url = (self.url / "ws").with_query(clientId=client_id or self.client_id)
        async with self.session.ws_connect(url) as socket:
            listener = Listener(socket)
            await listener.until("status")
            if flags is not None:
                await socket.send_json({"type": "feature_flags", "data": flags})
                await listener.until("feature_flags")
            listener.received.clear()
            yield listener

    async def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and parsed JSON (or text) of a POST."""
        async with self.session.post(self.url / path, json=body) as answer:
            return answer.status, _parsed(await answer.read())

    async def get(self, path: str, **query: str) -> tuple[int, Any]:
        """Status and parsed JSON (or text) of a GET."""
        async with self.session.get((self.url / path).with_query(query)) as answer:
            return answer.status, _parsed(await answer.read())

    async def until_ready(self) -> None:
        """Ask until the proxy says that it can take jobs."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                status, _ = await self.get("readyz")
                if status == 200:
                    return
                await asyncio.sleep(0.02)

    async def submit(self, graph: dict[str, Any], **fields: Any) -> str:
        """Submit for this client; the id."""
        body = {"prompt": graph, "client_id": self.client_id, **fields}
        status, answer = await self.post("prompt", body)
        assert status == 200, answer
        return str(answer["prompt_id"])

    async def run(self, graph: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """Submit and listen to the end; the history entry."""
        async with self.listening() as listener:
            prompt_id = await self.submit(graph, **fields)
            await listener.until_end(prompt_id)
        return await self.history(prompt_id)

    async def history(self, prompt_id: str) -> dict[str, Any]:
        """The history entry of an ended job."""
        _, answer = await self.get(f"history/{prompt_id}")
        return dict(answer[prompt_id])

    async def ended(self, prompt_id: str) -> dict[str, Any]:
        """The history entry of a job, when it has ended: for tests without a websocket."""
        async with asyncio.timeout(TIMEOUT):
            while prompt_id not in (found := (await self.get(f"history/{prompt_id}"))[1]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return dict(found[prompt_id])

    async def view(self, item: dict[str, str], **query: str) -> bytes:
        """The bytes of an output."""
        url = (self.url / "view").with_query({**item, **query})
        async with self.session.get(url, allow_redirects=False) as answer:
            assert answer.status == 200, answer
            return await answer.read()

    async def upload(self, name: str, data: bytes, **fields: str) -> dict[str, str]:
        """Upload a picture; the answer."""
        form = aiohttp.FormData(fields)
        form.add_field("image", data, filename=name, content_type="image/png")
        async with self.session.post(self.url / "upload/image", data=form) as answer:
            assert answer.status == 200, await answer.text()
            return dict(await answer.json())


def bare(item: dict[str, Any]) -> dict[str, Any]:
    """A file of an output, or of an upload, without what assets add."""
    return {name: item[name] for name in item.keys() - {"id", "preview_id", "asset"}}


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()
