"""A receiver of webhooks that fails, hangs, breaks connections, and is away at times."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from chaos.messages import Attempt, Message
from standardwebhooks import Webhook, WebhookVerificationError
from yarl import URL

#: How attempts are answered other than with a 204, each with its chance.
FAILURES = {"error": 0.08, "reset": 0.04, "hang": 0.01}
#: Seconds for which the receiver is there, and for which it is away.
THERE, AWAY = (2.0, 10.0), (0.5, 4.0)


@dataclass
class FailingReceiver:
    """What has come, as `attempts`. `secrets` are those of the endpoints, by their paths; what
    comes to other paths is accepted and not kept."""

    rng: random.Random
    attempts: list[Attempt] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    _port: int = 0
    _well: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> URL:
        """Where it is, when it is there."""
        return URL.build(scheme="http", host="127.0.0.1", port=self._port)

    def heal(self) -> None:
        """Fail no more, and answer what hangs."""
        self._well.set()

    async def come_and_go(self) -> None:
        """Be away again and again, until it is well."""
        while not self._well.is_set():
            await self._wait(THERE)
            await self.close()
            await self._wait(AWAY)
            await self.open()

    @contextmanager
    def having_port(self) -> Iterator[None]:
        """Have a port that nobody else takes, whether it listens or not."""
        with socket.socket() as reserved:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind(("127.0.0.1", 0))
            self._port = reserved.getsockname()[1]
            yield

    async def open(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_port=True).start()

    async def close(self) -> None:
        """Break all connections, and listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _wait(self, seconds: tuple[float, float]) -> None:
        try:
            async with asyncio.timeout(self.rng.uniform(*seconds)):
                await self._well.wait()
        except TimeoutError:
            pass

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        secret = self.secrets.get(request.path)
        if secret is None:
            return web.Response(status=204)
        attempt = _attempt(request, body, secret)
        self.attempts.append(attempt)
        match self._failure():
            case "error":
                return web.Response(status=500)
            case "reset":
                if request.transport is not None:
                    request.transport.abort()
                return web.Response(status=500)
            case "hang":
                await self._well.wait()
        attempt.accepted = True
        return web.Response(status=204)

    def _failure(self) -> str | None:
        if self._well.is_set():
            return None
        (chosen,) = self.rng.choices(
            [*FAILURES, None], [*FAILURES.values(), 1 - sum(FAILURES.values())]
        )
        return chosen


@asynccontextmanager
async def receiving(receiver: FailingReceiver) -> AsyncIterator[None]:
    """Let a receiver be there, and well again at the end."""
    with receiver.having_port():
        await receiver.open()
        try:
            yield
        finally:
            receiver.heal()
            await receiver.close()


def _attempt(request: web.Request, body: bytes, secret: str) -> Attempt:
    data = json.loads(body)
    message = Message(request.path, data["type"], _subject(data["data"]))
    try:
        Webhook(secret).verify(body, {name.lower(): text for name, text in request.headers.items()})
        verified = True
    except WebhookVerificationError:
        verified = False
    return Attempt(message, request.headers["webhook-id"], body, verified)


def _subject(data: Mapping[str, Any]) -> str:
    """Return what a message is about: a job by its id, or a budget of a member."""
    return str(data.get("prompt_id") or f"{data['budget']} of {data['member']}")
