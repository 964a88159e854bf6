"""The engine's replica cannot reach the cloud: another one runs the jobs, if it can reach it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import graphs
import pytest
from cluster import load
from cluster.forwarder import Forwarder
from cluster.load import Runner
from cluster.replicas import Cluster, Replica, Servers, running_cluster

from proxy.simulator import Simulator

#: Seconds in which jobs start at another replica, on a machine that does other work, too.
HANDED_OVER = 20.0
#: Seconds without the cloud, for which an engine would have been handed over.
AWAY = 12.0


@pytest.fixture
async def cluster(tmp_path: Path, servers: Servers, simulator: Simulator) -> AsyncIterator[Cluster]:
    """Three replicas with ways that can be cut."""
    async with running_cluster(tmp_path, servers, simulator, forwarded=True) as running:
        yield running


async def active(cluster: Cluster) -> list[Replica]:
    """The replicas that run the engine, whether or not they reach the cloud."""
    reports = [(await cluster.readiness(replica))[1] for replica in cluster.replicas]
    states = [report.get("engine") for report in reports]
    return [
        replica
        for replica, state in zip(cluster.replicas, states, strict=True)
        if state == "active"
    ]


async def handovers(cluster: Cluster, replica: Replica, direction: str) -> int:
    """How often a replica has given or taken the engine, by its metrics."""
    async with cluster.session.get(replica.url / "metrics") as answer:
        page = await answer.text()
    series = rf'^comfy_cloud_proxy_leadership_handovers_total{{direction="{direction}"}} (\S+)$'
    found = re.search(series, page, re.MULTILINE)
    return 0 if found is None else int(float(found[1]))


async def given(cluster: Cluster) -> int:
    """How often any replica has given the engine to another one."""
    return sum([await handovers(cluster, replica, "given") for replica in cluster.replicas])


async def until_offered(cluster: Cluster, replica: Replica, offered: bool) -> None:
    """Wait until a replica offers its engine, or no longer does, by its metrics."""
    series = f"\ncomfy_cloud_proxy_leadership_offered {float(offered)}\n"
    page = ""
    async with asyncio.timeout(HANDED_OVER):
        while series not in page:
            async with cluster.session.get(replica.url / "metrics") as answer:
                page = await answer.text()
            await asyncio.sleep(0.1)


@asynccontextmanager
async def clients_at(cluster: Cluster, numbers: Sequence[int]) -> AsyncIterator[list[Runner]]:
    """Six clients that submit and listen at these replicas, each with a job that has ended."""
    async with load.load(
        [cluster.client(numbers[number % len(numbers)]) for number in range(6)],
        [cluster.client(numbers[number // 2 % len(numbers)]) for number in range(6)],
        repeats=True,
    ) as (runners, _):
        await load.one_more(runners)
        yield runners


async def check(cluster: Cluster, runners: Sequence[Runner]) -> None:
    """Every job has had one life, on each socket and on the cloud."""
    for runner in runners:
        runner.check()
    await load.check_records(cluster, load.submitted_by(runners))


@pytest.mark.parametrize("weather", [Forwarder.hole, Forwarder.cut], ids=["hole", "refused"])
async def test_an_engine_without_the_cloud_gives_way_to_a_replica_that_reaches_it(
    cluster: Cluster, weather: Callable[[Forwarder], None]
) -> None:
    engine = await cluster.engine()
    number = cluster.number(engine)
    others = [other for other in range(3) if other != number]
    async with clients_at(cluster, others) as runners:
        weather(cluster.ways[number].cloud)
        began = time.monotonic()
        after = await cluster.engine(but=engine)
        new = await cluster.client(others[0]).submit(graphs.sampled(77))
        assert (await cluster.client(others[0]).ended(new))["status"]["completed"]
        assert time.monotonic() - began < HANDED_OVER
        assert await active(cluster) == [after]
        cluster.ways[number].cloud.heal()
        await load.one_more(runners)
    assert await active(cluster) == [after], "it does not go back"
    assert await handovers(cluster, engine, "given") == 1
    assert await handovers(cluster, after, "taken") == 1
    assert any(line["event"] == "leadership_transferred" for line in engine.log_lines())
    for runner in runners:
        runner.check(only_ends=True)
    await load.check_records(cluster, [*load.submitted_by(runners), new])


@pytest.mark.parametrize("weather", [Forwarder.hole, Forwarder.cut], ids=["hole", "refused"])
async def test_an_engine_stays_while_no_replica_reaches_the_cloud(
    cluster: Cluster, weather: Callable[[Forwarder], None]
) -> None:
    engine = await cluster.engine()
    async with clients_at(cluster, [0, 1, 2]) as runners:
        for ways in cluster.ways:
            weather(ways.cloud)
        await until_offered(cluster, engine, True)
        await asyncio.sleep(AWAY)
        for ways in cluster.ways:
            ways.cloud.heal()
        await load.one_more(runners)
    assert await given(cluster) == 0
    await until_offered(cluster, engine, False)
    await check(cluster, runners)
