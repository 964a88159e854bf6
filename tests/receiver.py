"""A receiver of webhooks on a real port, which answers each path as a test has set it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook
from yarl import URL

#: No test waits longer for a message that has to come.
TIMEOUT = 60.0


@dataclass(frozen=True)
class Received:
    """A message as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The id by which repeats are known."""
        return self.headers["webhook-id"]

    @property
    def json(self) -> dict[str, Any]:
        """The body."""
        return dict(json.loads(self.body))

    @property
    def type(self) -> str:
        """The type of the message."""
        return str(self.json["type"])

    def verified(self, secret: str) -> dict[str, Any]:
        """The body, verified by the library of Standard Webhooks."""
        return dict(Webhook(secret).verify(self.body, dict(self.headers)))


Behavior = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Receiver:
    """What has come so far, and how each path answers: 204 where a test has set nothing."""

    url: URL = field(default_factory=URL)
    got: list[Received] = field(default_factory=list)
    answers: dict[str, Behavior] = field(default_factory=dict)
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)

    def answer(self, path: str, status: int, **headers: str) -> None:
        """Let a path answer with a status."""

        async def behave(_: web.Request) -> web.Response:
            return web.Response(status=status, headers=headers)

        self.answers[path] = behave

    def hang(self, path: str) -> None:
        """Let a path never answer."""

        async def behave(_: web.Request) -> web.Response:
            await asyncio.Event().wait()
            raise AssertionError

        self.answers[path] = behave

    def at(self, path: str) -> list[Received]:
        """What has come to a path."""
        return [received for received in self.got if received.path == path]

    async def until(self, count: int, path: str | None = None) -> list[Received]:
        """Wait until so many messages have come, to a path or to any, and return them."""
        async with asyncio.timeout(TIMEOUT), self._came:
            await self._came.wait_for(lambda: len(self._found(path)) >= count)
        return self._found(path)

    def _found(self, path: str | None) -> list[Received]:
        return self.got if path is None else self.at(path)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Take a message."""
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        async with self._came:
            self.got.append(Received(request.path, headers, body))
            self._came.notify_all()
        behave = self.answers.get(request.path)
        return web.Response(status=204) if behave is None else await behave(request)


@asynccontextmanager
async def receiving(host: str = "127.0.0.1") -> AsyncIterator[Receiver]:
    """A receiver on a free port."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    receiver.url = URL.build(scheme="http", host=host, port=runner.addresses[0][1])
    try:
        yield receiver
    finally:
        await runner.cleanup()
