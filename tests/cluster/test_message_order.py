"""Whatever befalls the bus, each socket hears of each job one start, its output and one end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from cluster import load
from cluster.load import Runner
from cluster.replicas import Cluster, Servers, running_cluster

from proxy.simulator import Simulator

#: Seconds of bad weather.
BAD = 15.0


def everywhere(cluster: Cluster) -> tuple[list[int], list[int]]:
    """Where nine clients submit, and where they listen: each pair of replicas."""
    numbers = range(len(cluster.replicas))
    pairs = [(one, other) for one in numbers for other in numbers]
    return [one for one, _ in pairs], [other for _, other in pairs]


def check(runners: Sequence[Runner]) -> None:
    for runner in runners:
        assert runner.submitted
        runner.check()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_bus_of_each_replica_breaks_each_second(
    tmp_path: Path, servers: Servers, simulator: Simulator, seed: int
) -> None:
    rng = random.Random(seed)
    async with running_cluster(tmp_path, servers, simulator, forwarded=True) as cluster:
        submitting, listening = everywhere(cluster)
        async with load.load(
            [cluster.client(number) for number in submitting],
            [cluster.client(number) for number in listening],
            repeats=True,
        ) as (runners, _):
            await load.one_more(runners)
            end = asyncio.get_running_loop().time() + BAD
            while asyncio.get_running_loop().time() < end:
                await asyncio.sleep(rng.uniform(0.1, 0.6))
                rng.choice(cluster.ways).bus.reset()
            await load.one_more(runners, 2)
        check(runners)
        await load.check_records(cluster, load.submitted_by(runners))
