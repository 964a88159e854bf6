"""The replica whose engine runs the jobs dies or stands still, and another takes over."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import graphs
import pytest
from cluster import load
from cluster.replicas import Cluster, Servers, running_cluster

from proxy.simulator import Simulator, Switches

#: Seconds of the lease: the default.
LEASE = 10.0
#: Seconds in which another engine takes over, with the default lease.
TAKEOVER = 15.0
#: Seconds in which a replica that was frozen is an ordinary one.
RECOVERY = 8.0


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(plan="pro", switches=Switches(pace=0.05)) as running:
        yield running


@pytest.fixture
async def cluster(tmp_path: Path, servers: Servers, simulator: Simulator) -> AsyncIterator[Cluster]:
    async with running_cluster(tmp_path, servers, simulator, engine_lease=str(LEASE)) as running:
        yield running


@pytest.mark.parametrize("engine_dies", [False, True], ids=["standby", "engine"])
async def test_what_is_called_absent_never_runs(
    cluster: Cluster, simulator: Simulator, session: aiohttp.ClientSession, engine_dies: bool
) -> None:
    """A replica dies while it answers submissions; another one says what has become of them."""
    dying = await cluster.engine() if engine_dies else await cluster.standby()
    other = next(replica for replica in cluster.replicas if replica is not dying)
    asked = [str(uuid.uuid4()) for _ in range(40)]
    client = cluster.client(cluster.number(dying))

    async def submit(prompt_id: str) -> bool | None:
        body = {"prompt": graphs.plain(int(prompt_id[:6], 16)), "prompt_id": prompt_id}
        try:
            return (await client.post("prompt", body))[0] == 200
        except aiohttp.ClientError:
            return None

    answers = [asyncio.create_task(submit(prompt_id)) for prompt_id in asked]
    await simulator.signal.until(lambda: len(simulator.jobs) >= 1, 60)
    await dying.kill()
    told = dict(zip(asked, await asyncio.gather(*answers), strict=True))
    await asyncio.sleep(1.0)  # what the promise says
    survivor = cluster.client(cluster.number(other))
    present = {
        prompt_id for prompt_id in asked if (await survivor.get(f"api/jobs/{prompt_id}"))[0] == 200
    }
    assert present >= {prompt_id for prompt_id, taken in told.items() if taken}
    assert None in told.values()
    await cluster.engine(but=dying)
    async with asyncio.timeout(60):
        while set((await survivor.get("history"))[1]) != present:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    load.only_these_ran(simulator, present)
