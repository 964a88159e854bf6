"""Replicas are replaced one after the other behind a load balancer, and clients do not notice."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from browser.reverse_proxy import cluster_caddy
from cluster import load
from cluster.replicas import Servers, running_cluster
from cluster.test_upgrade import NEXT, next_release, schema_of
from servers import haproxy
from stack import Client
from yarl import URL

from proxy.simulator import Simulator, Switches
from proxy.storage.start import HEAD

#: Seconds from SIGTERM to the end.
OUT_WITHIN = 30.0

_colors = itertools.count(1)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(plan="pro", switches=Switches(pace=0.02)) as running:
        yield running


#: Messages after which more come.
OPEN = (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)


class Follower:
    """A client behind the load balancer. It connects again when its socket is closed, and submits
    and asks on; every answer must be a good one."""

    def __init__(self, session: aiohttp.ClientSession, url: URL) -> None:
        self.client = Client(session, url)
        self.submitted: list[str] = []
        self.closed: Counter[int | None] = Counter()
        self.ends: Counter[str] = Counter()
        self.polls = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Go on until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(self._listen())
            await asyncio.gather(self._submit(stop), self._poll(stop))
            listening.cancel()

    async def _submit(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            prompt_id = await self.client.submit(graphs.sampled(next(_colors), steps=2))
            self.submitted.append(prompt_id)
            async with asyncio.timeout(60):
                while prompt_id not in await self._get(f"history/{prompt_id}"):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    async def _poll(self, stop: asyncio.Event) -> None:
        for path in itertools.cycle(("queue", "history?max_items=2", "prompt", "api/jobs?limit=2")):
            if stop.is_set():
                return
            await self._get(path)
            self.polls += 1
            await asyncio.sleep(0.05)

    async def _get(self, path: str) -> Any:
        async with self.client.session.get(f"{self.client.url.origin()}/{path}") as answer:
            assert answer.status == 200, (path, answer.status, await answer.text())
            return await answer.json()

    async def _listen(self) -> None:
        url = (self.client.url / "ws").with_query(clientId=self.client.client_id)
        while True:
            async with self.client.session.ws_connect(url) as socket:
                while (message := await socket.receive()).type in OPEN:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        event = json.loads(message.data)
                        if event["type"] in load.ENDS:
                            self.ends[event["data"]["prompt_id"]] += 1
            self.closed[message.data] += 1  # the socket says 1006 if its answer came too late


@asynccontextmanager
async def in_front(balancer: str, folder: Path, ports: list[int]) -> AsyncIterator[URL]:
    """The load balancer of the documents or of the example, before processes on these ports."""
    if balancer == "caddy":
        async with cluster_caddy(folder / "caddy", ports) as url:
            yield url
    else:
        with haproxy(folder, ports) as server:
            yield URL(f"http://127.0.0.1:{server.port}")


@pytest.mark.parametrize(
    ("release", "balancer"), [("same", "haproxy"), ("newer", "haproxy"), ("same", "caddy")]
)
async def test_replicas_are_replaced_one_after_the_other(
    tmp_path: Path, servers: Servers, simulator: Simulator, release: str, balancer: str
) -> None:
    async with running_cluster(tmp_path, servers, simulator) as cluster:
        environment = {}
        if release == "newer":
            environment = {"PYTHONPATH": str(next_release(tmp_path)), "PYTHONSAFEPATH": "1"}
        async with in_front(
            balancer, tmp_path, [replica.port for replica in cluster.replicas]
        ) as url:
            followers = [Follower(cluster.session, url) for _ in range(5)]
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                for follower in followers:
                    tasks.create_task(follower.run(stop))
                await until_all_have(followers, 1)
                for replica in cluster.replicas:
                    began = time.monotonic()
                    assert await replica.stop() == 0
                    assert time.monotonic() - began < OUT_WITHIN
                    replica.environment = {**replica.environment, **environment}
                    await replica.start()
                    await cluster.is_ready(replica)
                    # old and new ones run side by side
                    before = min(len(follower.submitted) for follower in followers)
                    await until_all_have(followers, before + 2)
                stop.set()
        await load.check_records(
            cluster, [prompt_id for follower in followers for prompt_id in follower.submitted]
        )
        assert len(simulator.sockets) == 1
        schema = schema_of(cluster)
    closed = sum((follower.closed for follower in followers), Counter())
    assert set(closed) == {1012}
    for follower in followers:
        assert max(follower.ends.values()) == 1
        assert follower.polls > 0
    assert schema == (NEXT if release == "newer" else HEAD)


async def until_all_have(followers: list[Follower], count: int) -> None:
    """Wait until each has submitted so many jobs."""
    async with asyncio.timeout(60):
        while min(len(follower.submitted) for follower in followers) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
