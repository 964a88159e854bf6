"""Requests that a reverse proxy and the gateway behind it could read differently, so that a part of
one becomes a request of its own, whose answer the next client gets."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from browser.reverse_proxy import caddy, nginx
from process import TIMEOUT, before
from security.attack import Record, Target, running_target
from servers import haproxy
from waiting import until
from yarl import URL

from proxy.simulator import Simulator

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST /outer HTTP/1.1\r\nHost: 127.0.0.1\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(HIDDEN)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
#: A body in chunks that ends at once, behind which is a hidden request.
EMPTY_CHUNKS = b"\r\n0\r\n\r\n" + HIDDEN

FORMS = {
    "a length and chunks": POST + b"Content-Length: 5\r\n" + CHUNKED + EMPTY_CHUNKS,
    "chunks and a length": POST + CHUNKED + LENGTH + EMPTY_CHUNKS,
    "two lengths": POST + b"Content-Length: 0\r\n" + LENGTH + b"\r\n" + HIDDEN,
    "a list of lengths": POST + b"Content-Length: 0, %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a length with a sign": POST + LENGTH.replace(b": ", b": +") + b"\r\n" + HIDDEN,
    "a length in octal": POST + LENGTH.replace(b": ", b": 0") + b"\r\n" + HIDDEN,
    "a length with a space": POST + LENGTH.replace(b":", b" :") + b"\r\n" + HIDDEN,
    "a length with a null": POST + LENGTH.replace(b"\r\n", b"\0\r\n") + b"\r\n" + HIDDEN,
    "a folded length": POST + LENGTH.replace(b": ", b":\r\n ") + b"\r\n" + HIDDEN,
    "a folded header with a length": POST + b"X-A: b\r\n " + LENGTH + b"\r\n" + HIDDEN,
    "a folded encoding": POST + LENGTH + CHUNKED.replace(b": ", b":\r\n ") + EMPTY_CHUNKS,
    "an encoding with a tab": POST + LENGTH + CHUNKED.replace(b": ", b":\t") + EMPTY_CHUNKS,
    "an encoding with a space": POST + LENGTH + CHUNKED.replace(b":", b" :") + EMPTY_CHUNKS,
    "another encoding": POST + LENGTH + CHUNKED.replace(b"chunked", b"xchunked") + EMPTY_CHUNKS,
    "two encodings": POST + LENGTH + CHUNKED + CHUNKED.replace(b"chunked", b"x") + EMPTY_CHUNKS,
    "an encoding in quotes": POST
    + LENGTH
    + CHUNKED.replace(b"chunked", b'"chunked"')
    + EMPTY_CHUNKS,
    "an extension of a chunk": POST + CHUNKED + b"\r\n0;a=\n\r\n\r\n" + HIDDEN,
    "an extension with a line": POST + CHUNKED + b"\r\n2;\nxx\r\n0\r\n\r\n" + HIDDEN,
    "a chunk with a sign": POST + CHUNKED + b"\r\n+0\r\n\r\n" + HIDDEN,
    "a chunk with a prefix": POST + CHUNKED + b"\r\n0x0\r\n\r\n" + HIDDEN,
    "a chunk beyond 64 bits": POST + CHUNKED + b"\r\n10000000000000000\r\n\r\n" + HIDDEN,
    "a chunk that is longer than its size": POST + CHUNKED + b"\r\n1\r\nabc0\r\n\r\n" + HIDDEN,
    "a trailer with a length": POST + CHUNKED + b"\r\n0\r\n" + LENGTH + b"\r\n" + HIDDEN,
    "bare line feeds": POST.replace(b"\r\n", b"\n") + LENGTH + b"\n" + HIDDEN,
    "a bare line feed in a header": POST + b"X-A: b\n" + LENGTH + b"\r\n" + HIDDEN,
    "a bare carriage return": POST + b"X-A: b\r" + LENGTH + b"\r\n" + HIDDEN,
    "chunks with bare line feeds": POST + CHUNKED + b"\r\n0\n\n" + HIDDEN,
    "an old version": POST.replace(b"1.1", b"1.0") + CHUNKED + EMPTY_CHUNKS,
    "a length of a GET": POST.replace(b"POST", b"GET") + LENGTH + b"\r\n" + HIDDEN,
    "an upgrade": POST.replace(b"POST /outer", b"GET /ws")
    + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 7\r\n"
    + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    + HIDDEN,
    "an upgrade to HTTP/2": POST
    + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    + b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    + LENGTH
    + b"\r\n"
    + HIDDEN,
    "an expectation": POST + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n" + HIDDEN,
    "a hop-by-hop length": POST
    + b"Connection: close, Content-Length\r\n"
    + LENGTH
    + b"\r\n"
    + HIDDEN,
}


@asynccontextmanager
async def _haproxy(folder: Path, upstream: int) -> AsyncIterator[URL]:
    await asyncio.to_thread(folder.mkdir)
    with haproxy(folder, [upstream]) as server:
        yield URL(f"http://127.0.0.1:{server.port}")


class Gateway:
    """A gateway behind a reverse proxy."""

    def __init__(self, target: Target, front: URL) -> None:
        self.target = target
        self.front = front

    def handled(self, path: str) -> int:
        """How many requests for that path it has handled."""
        return sum(
            b"request_handled" in line and path.encode() in line
            for line in self.target.process.said
        )

    async def send(self, form: bytes) -> bytes:
        """Send bytes by the reverse proxy; what comes back until the end or half a second of
        silence."""
        reader, writer = await asyncio.open_connection(self.front.host, self.front.port)
        writer.write(form)
        answer = b""
        try:
            while data := await asyncio.wait_for(reader.read(65536), 0.5):
                answer += data
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
        return answer

    async def ask_as_bob(self) -> None:
        """Ask for something on all connections that the reverse proxy may have open."""

        async def ask(session: aiohttp.ClientSession) -> None:
            async with session.get(self.front / "queue") as answer:
                assert answer.status == 200
                assert await answer.json() == {"queue_running": [], "queue_pending": []}

        async with (
            aiohttp.ClientSession(headers=self.target.bearer("bob")) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(8):
                group.create_task(ask(session))


@pytest.fixture(params=[nginx, caddy, _haproxy], ids=["nginx", "caddy", "haproxy"])
async def gateway(
    request: pytest.FixtureRequest, simulator: Simulator, tmp_path: Path, record_property: Record
) -> AsyncIterator[Gateway]:
    options = ("--trusted-proxies", "127.0.0.1", "--log-level", "debug")
    async with (
        running_target(
            tmp_path / "data", record_property, *options, environment=before(simulator)
        ) as target,
        request.param(tmp_path / "front", int(target.process.url.port or 0)) as front,
    ):
        yield Gateway(target, front)


async def test_no_part_of_a_request_is_one_of_its_own(gateway: Gateway) -> None:
    """The gateway answers a hidden request only where the reverse proxy saw two as well."""
    await gateway.ask_as_bob()
    smuggled = []
    for name, form in FORMS.items():
        before = gateway.handled("/hidden")
        answer = await gateway.send(form)
        await gateway.ask_as_bob()
        marker = name.replace(" ", "-")
        await gateway.send(b"GET /%b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % marker.encode())
        async with asyncio.timeout(TIMEOUT):
            await until(lambda marker=marker: gateway.handled(f"/{marker}") == 1)
        hidden = gateway.handled("/hidden") - before
        answers = len(re.findall(rb"HTTP/1\.[01] [2-5]\d\d ", answer))
        if hidden > max(0, answers - 1):
            smuggled.append((name, answer[:200]))
    assert not smuggled
    assert not any(b"Traceback" in line for line in gateway.target.process.said)


#: What aiohttp's parser refuses and a reverse proxy may pass on.
ODD = (
    b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: x\r\nX-A: " + b"b" * 17_000 + b"\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: x\r\nX-A: \x01\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"BAD\x7fMETHOD / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: x\r\n\r\n",
)


async def test_what_cannot_be_parsed_is_answered_behind_a_reverse_proxy(gateway: Gateway) -> None:
    for sent in ODD:
        assert (await gateway.send(sent)).startswith(b"HTTP/1."), sent[:80]
    await gateway.ask_as_bob()
    assert not any(b"Traceback" in line for line in gateway.target.process.said)
