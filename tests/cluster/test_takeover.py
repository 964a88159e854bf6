"""The replica whose engine runs the jobs dies, and another takes over."""

from __future__ import annotations

import asyncio
import time
import uuid

import aiohttp
import graphs
import pytest
from cluster import load
from cluster.replicas import Cluster

from proxy.simulator import Simulator

#: Seconds in which another process leads.
TAKEOVER = 8.0


def of_the_others(cluster: Cluster, engine: int) -> tuple[list[int], list[int]]:
    """Where six clients submit and where they listen, all beside the engine's replica."""
    one, other = [number for number in range(3) if number != engine]
    return [one, other, one, other, one, other], [one, one, other, other, one, other]


async def test_a_killed_engine_is_followed_by_another_and_nobody_notices(
    cluster: Cluster, simulator: Simulator
) -> None:
    engine = await cluster.engine()
    submitting, listening = of_the_others(cluster, cluster.number(engine))
    async with load.load(
        [cluster.client(number) for number in submitting],
        [cluster.client(number) for number in listening],
    ) as (runners, _):
        await load.one_more(runners)
        await engine.kill()
        began = time.monotonic()
        await cluster.engine(but=engine)
        assert time.monotonic() - began < TAKEOVER
        await load.one_more(runners, 2)
    for runner in runners:
        runner.check(only_ends=True)
    assert len(simulator.sockets) == 1
    await load.check_records(cluster, load.submitted_by(runners))


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
    outcomes = dict(zip(asked, await asyncio.gather(*answers), strict=True))
    await asyncio.sleep(1.0)  # what the promise says
    survivor = cluster.client(cluster.number(other))
    present = {
        prompt_id for prompt_id in asked if (await survivor.get(f"api/jobs/{prompt_id}"))[0] == 200
    }
    assert present >= {prompt_id for prompt_id, taken in outcomes.items() if taken}
    assert None in outcomes.values()
    await cluster.engine(but=dying)
    async with asyncio.timeout(60):
        while set((await survivor.get("history"))[1]) != present:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    load.only_these_ran(simulator, present)
