"""A scripted stand-in for the cloud: real sockets, and any fault that a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from proxy.cloud.client import CloudClient
from proxy.cloud.resilience import CallGate, CircuitBreaker, RateLimiter, RetryPolicy
from proxy.runtime.backoff import Backoff

KEY = "comfyui-canary-0123456789abcdef"

QUICK = RetryPolicy(2.0, Backoff(first=0.001, longest=0.004), attempt_timeout=5.0)

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """A request as it came over the wire; forms are left to the reply."""

    method: str
    target: str
    headers: Any
    body: bytes


@dataclass
class Script:
    """Answers with one reply after the other; the last one goes on."""

    replies: list[Reply]
    url: URL = field(default_factory=URL)
    seen: list[Seen] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = b"" if request.content_type.startswith("multipart/") else await request.read()
        self.seen.append(Seen(request.method, request.raw_path, request.headers, body))
        reply = self.replies[0] if len(self.replies) == 1 else self.replies.pop(0)
        return await reply(request)


def answer(value: Any = None, status: int = 200, **options: Any) -> Reply:
    """A JSON answer, or with `body=`/`text=` any other."""

    async def reply(_: web.Request) -> web.StreamResponse:
        if "body" in options or "text" in options:
            return web.Response(status=status, **options)
        return web.json_response(value, status=status, **options)

    return reply


def redirect(location: URL | str, status: int = 302) -> Reply:
    return answer(status=status, body=b"", headers={"Location": str(location)})


async def hang_up(request: web.Request) -> web.StreamResponse:
    """Cut the connection after the request has been read."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def cut_off(body: bytes, length: int) -> Reply:
    """Promise `length` bytes, send `body`, cut the connection."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(length)})
        await response.prepare(request)
        await response.write(body)
        assert request.transport is not None
        request.transport.close()
        return response

    return reply


Serve = Callable[..., Awaitable[Script]]
Connect = Callable[..., Awaitable[CloudClient]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(reply, …)` starts a server on its own port."""
    async with AsyncExitStack() as stack:

        async def start(*replies: Reply) -> Script:
            script = Script(list(replies))
            app = web.Application(client_max_size=2**26)
            app.router.add_route("*", "/{path:.*}", script.handle)
            server = TestServer(app)
            await server.start_server(access_log=None)
            stack.push_async_callback(server.close)
            script.url = server.make_url("/")
            return script

        yield start


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """`await connect(url)` starts a client that repeats quickly."""
    async with AsyncExitStack() as stack:

        async def start(
            url: URL,
            *,
            breaker: CircuitBreaker | None = None,
            limiter: RateLimiter | None = None,
            **options: Any,
        ) -> CloudClient:
            gate = CallGate(
                breaker or CircuitBreaker(failures=1000),
                limiter or RateLimiter(Backoff(0.01, 30.0)),
            )
            client = CloudClient(url, KEY, gate=gate, **{"retries": QUICK, **options})
            await client.start()
            stack.push_async_callback(client.close)
            return client

        yield start
