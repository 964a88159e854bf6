"""However many clients poll, the cloud is asked no more than for one."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
import gated
import graphs
from stack import Client, running_proxy

from proxy.cloud.event_socket import IdleWatchdog, Timeouts
from proxy.engine.policy import DetailTimeouts
from proxy.simulator import Simulator

PATHS = ["history", "history/{id}", "queue", "prompt", "api/jobs", "api/jobs/{id}", "object_info"]

#: Nothing is read merely because time has passed.
UNHURRIED = {"connected_wait": 600.0, "detail": DetailTimeouts(first=5.0)}
UNWATCHED = Timeouts(watchdog=lambda: IdleWatchdog(first=600.0))


async def calls_for_a_job(folder: Path, *, clients: int) -> Counter[str]:
    """The calls to the cloud while a job runs, is polled by `clients`, and is fetched by some."""
    opened = asyncio.Event()
    async with (
        Simulator(extra_nodes=[gated.gate(opened)]) as simulator,
        running_proxy(simulator, folder, policy=UNHURRIED, timeouts=UNWATCHED) as proxy,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100)) as session,
    ):
        client = Client(session, proxy.url)
        await client.get("object_info")
        async with client.listening() as listener:
            before = Counter(simulator.calls)
            prompt_id = await client.submit({**gated.GRAPH, **graphs.plain()})
            await listener.until("executing", node="1")
            polls = [poll(client, prompt_id, "history/{id}") for _ in range(clients)]
            polls += [poll(client, prompt_id, *PATHS) for _ in range(clients // 20 + 1)]
            await asyncio.gather(*polls)
            opened.set()
            await listener.until_end(prompt_id)
        await asyncio.gather(*(view(client, prompt_id) for _ in range(clients // 20 + 1)))
        return Counter(simulator.calls) - before


async def poll(client: Client, prompt_id: str, *paths: str) -> None:
    for path in paths:
        status, _ = await client.get(path.replace("{id}", prompt_id))
        assert status == 200


async def view(client: Client, prompt_id: str) -> None:
    await poll(client, prompt_id, *PATHS)
    await client.view((await client.history(prompt_id))["outputs"]["2"]["images"][0])


async def test_a_thousand_pollers_cost_the_cloud_no_more_than_one(tmp_path: Path) -> None:
    alone = await calls_for_a_job(tmp_path / "alone", clients=1)
    storm = await calls_for_a_job(tmp_path / "storm", clients=1000)
    assert storm == alone
    assert alone["POST /api/prompt"] == 1
