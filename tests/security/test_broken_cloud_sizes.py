"""A cloud whose answers are too large or have no end: each is given up within its bound."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from aiohttp import web
from broken_cloud import BrokenCloud, broken_cloud
from stack import TIMEOUT, Client, running_proxy

from proxy.api.keys import FILES
from proxy.cloud.client import CloudClient
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


@pytest.mark.sqlite  # replicas fetch nothing ahead
async def test_an_endless_output_is_not_fetched_ahead(
    cloud: Any, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    endless = Endless(cloud)
    async with running_proxy(cloud, tmp_path, cache_mb=16, prefetch="images") as proxy:
        await Client(session, proxy.url).run(graphs.plain())
        async with asyncio.timeout(TIMEOUT):
            await endless.stopped.wait()
        assert endless.sent < 100 * MIB
        assert proxy.services[FILES].cache.total <= 16 * MIB


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
        async with asyncio.timeout(TIMEOUT):
            await endless.stopped.wait()
        assert endless.sent < 100 * MIB
        assert proxy.services[FILES].cache.arriving == 0


@asynccontextmanager
async def watched_loop() -> AsyncIterator[list[float]]:
    """The most processor time in seconds that the event loop took for anything else at once, in a
    list: other processes on the machine do not count."""
    longest = [0.0]

    async def watch() -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0.01)
            now = time.thread_time()
            longest[0] = max(longest[0], now - before)
            before = now

    watching = asyncio.create_task(watch())
    try:
        yield longest
    finally:
        watching.cancel()


#: 12 MB of lists.
LISTS = b"[" + b",".join([b"[]"] * 4_000_000) + b"]"


async def test_a_detail_full_of_lists_stalls_nobody(
    cloud: Any, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    def full(_request: web.Request, real: bytes) -> bytes:
        detail = json.loads(real)
        outputs = detail.get("outputs") or {}
        return b'{"outputs": {"2": {"text": %s}}, %s' % (
            LISTS,
            json.dumps({**detail, "kept": outputs}).replace('"outputs":', '"was":')[1:].encode(),
        )

    async with running_proxy(cloud, tmp_path) as proxy:
        client = Client(session, proxy.url)
        await client.run(graphs.plain(1))  # what is loaded once is loaded now
        cloud.answer(r"GET /api/jobs/[0-9a-f-]{36}", full)
        async with watched_loop() as longest:
            entry = await client.run(graphs.plain(2))
    assert longest[0] < 0.5
    assert entry["status"]["completed"]


async def test_an_event_full_of_lists_is_left_out(
    cloud: Any, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    def tells(message: str | bytes) -> list[str | bytes]:
        if isinstance(message, bytes) or '"executed"' not in message:
            return [message]
        return [message.replace('"output": {', '"output": {"text": ' + LISTS.decode() + ", ")]

    cloud.tells = tells
    async with running_proxy(cloud, tmp_path) as proxy:
        client = Client(session, proxy.url)
        async with watched_loop() as longest:
            entry = await client.run(graphs.plain())
    assert longest[0] < 0.5
    assert entry["outputs"]["2"]["images"]


async def test_a_list_of_jobs_without_an_end_is_read_to_a_bound(cloud: Any) -> None:
    pages = itertools.count(1)

    def page(_request: web.Request, _real: bytes) -> bytes:
        number = next(pages)
        jobs = [{"id": f"job-{number}-{index}", "status": "pending"} for index in range(200)]
        more = {"has_more": number < 100, "next_cursor": str(number)}
        return json.dumps({"jobs": jobs, "pagination": more}).encode()

    cloud.answer("GET /api/jobs", page)
    client = CloudClient(cloud.base_url, cloud.key)
    await client.start()
    try:
        assert len(await client.jobs(["pending"])) == 5000
    finally:
        await client.close()
    assert next(pages) == 26
