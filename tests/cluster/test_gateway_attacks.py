"""Attacks of strangers on a gateway behind nginx and Caddy, configured as the examples are.

What only a reverse proxy does well is its duty: the gateway must hardly see any of it.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from browser.reverse_proxy import caddy, nginx
from process import before
from security.attack import STRANGER, Record, Target, running_target
from stack import TIMEOUT
from yarl import URL

from proxy.simulator import Simulator

ADDRESSES = [f"127.0.0.{number}" for number in range(2, 6)]
HEAD = b"GET /proxy/sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\n"
FORM = (
    b"POST /proxy/sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n\r\ntoken="
)
UPLOAD = (
    b"POST /upload/image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
)

#: Bytes of an upload.
SIZE = 5_000_000

#: Connections of the gateway that the reverse proxy may open for strangers.
FEW = 100


@dataclass
class Front(Target):
    """A gateway that is attacked through its reverse proxy."""

    front: URL | None = None

    @property
    def url(self) -> URL:
        assert self.front is not None
        return self.front

    def connections(self) -> int:
        """The open files of the gateway, most of which are connections."""
        return len(list(Path(f"/proc/{self.process.process.pid}/fd").iterdir()))

    async def hold(self, sent: bytes, count: int) -> None:
        """Open that many connections of each address, send these bytes and read nothing."""
        for source in ADDRESSES:
            for _ in range(count):
                await self.connect(sent, source=source)


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
async def front(
    request: pytest.FixtureRequest, simulator: Simulator, tmp_path: Path, record_property: Record
) -> AsyncIterator[Front]:
    options = ("--trusted-proxies", "127.0.0.1")
    environment = before(simulator)
    async with (
        running_target(
            tmp_path / "data", record_property, *options, environment=environment
        ) as target,
        request.param(tmp_path / "front", int(target.process.url.port or 0)) as url,
    ):
        front = Front(target.process, target.tokens, target.record, front=url)
        try:
            yield front
        finally:
            front.let_go()


async def test_half_open_connections(front: Front) -> None:
    async with front.attacked_by(STRANGER) as figures:
        before = front.connections()
        await front.hold(b"", 400)
        await front.hold(HEAD + b"X-A: " + b"x" * 8000, 400)
        await asyncio.sleep(3)
        assert front.connections() - before < FEW
    assert figures.growth < 50


async def test_slow_forms(front: Front) -> None:
    async with front.attacked_by(STRANGER) as figures:
        before = front.connections()
        await front.hold(FORM, 150)
        for _ in range(30):
            for writer in front.writers:
                writer.write(b"x")
            await asyncio.sleep(0.1)
        assert front.connections() - before < FEW
    assert figures.growth < 50


async def test_slow_uploads(front: Front) -> None:
    async with front.attacked_by(STRANGER) as figures:
        await front.hold(UPLOAD, 150)
        for _ in range(30):
            for writer in front.writers:
                writer.write(b"x")
            await asyncio.sleep(0.1)
    assert figures.growth < 100


async def test_unread_answers(front: Front) -> None:
    async with front.attacked_by(STRANGER) as figures:
        await front.hold((HEAD + b"\r\n") * 500, 50)
        await asyncio.sleep(4)
    assert figures.growth < 100


async def test_members_get_all_that_they_get_without_it(front: Front) -> None:
    headers = front.bearer("bob")
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.ws_connect(front.url / "ws") as socket:
            assert (await socket.receive_json(timeout=TIMEOUT))["type"] == "status"
        form = aiohttp.FormData()
        form.add_field("image", io.BytesIO(bytes(SIZE)), filename="large.bin")
        async with session.post(front.url / "upload/image", data=form) as answer:
            assert answer.status == 200
            name = (await answer.json())["name"]
        view = (front.url / "view").with_query(filename=name, type="input")
        async with session.get(view) as answer:
            assert len(await answer.read()) == SIZE
        async with asyncio.timeout(TIMEOUT):
            async with session.get(front.url / "proxy/api/events") as answer:
                assert await answer.content.readline()
