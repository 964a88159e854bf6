"""A cloud whose answers are too large or have no end: each is given up within its bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from aiohttp import web
from broken_cloud import BrokenCloud, broken_cloud
from stack import PATIENCE, Client, running_proxy

from proxy.files import cache
from proxy.simulator import Simulator

MIB = 1024 * 1024


@pytest.fixture
async def cloud(simulator: Simulator) -> AsyncIterator[BrokenCloud]:
    async with broken_cloud(simulator) as running:
        yield running


class Endless:
    """An output that does not end (after 400 MiB it does, for the sake of the machine)."""

    def __init__(self, cloud: BrokenCloud) -> None:
        self.sent = 0
        self.stopped = asyncio.Event()
        cloud.answer("GET /api/view", self.answer)

    async def answer(self, request: web.Request, _real: bytes) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "image/png"})
        await answer.prepare(request)
        piece = b"x" * MIB
        try:
            while self.sent < 400 * MIB:
                await answer.write(piece)
                self.sent += len(piece)
        except ConnectionError:
            pass
        finally:
            self.stopped.set()
        return answer


async def test_an_endless_output_is_not_fetched_ahead(
    cloud: Any, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    endless = Endless(cloud)
    async with running_proxy(cloud, tmp_path, cache_mb=16, prefetch="images") as proxy:
        await Client(session, proxy.url).run(graphs.plain())
        async with asyncio.timeout(PATIENCE):
            await endless.stopped.wait()
        assert endless.sent < 100 * MIB
        assert proxy.services.files.cache.total <= 16 * MIB


async def test_an_endless_output_ends_for_its_reader(
    cloud: Any, session: aiohttp.ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MIN_ARRIVING", 8 * MIB)
    endless = Endless(cloud)
    async with running_proxy(cloud, tmp_path, cache_mb=4, prefetch="off") as proxy:
        client = Client(session, proxy.url)
        image = (await client.run(graphs.plain()))["outputs"]["2"]["images"][0]
        with suppress(aiohttp.ClientError):
            async with session.get((proxy.url / "view").with_query(image)) as answer:
                await answer.read()
        async with asyncio.timeout(PATIENCE):
            await endless.stopped.wait()
        assert endless.sent < 100 * MIB
        assert proxy.services.files.cache.arriving == 0
