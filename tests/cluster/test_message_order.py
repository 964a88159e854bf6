"""Whatever befalls the bus, each socket hears of each job one start, its output and one end."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
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
    pairs = [(number, other) for number in numbers for other in numbers]
    return [pair for pair, _ in pairs], [other for _, other in pairs]


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


#: Seconds that a clock is wrong.
HOUR = 3600


async def _cut(cluster: Cluster, servers: Servers, engine: int) -> None:
    """The engine's replica loses the bus for some seconds."""
    way = cluster.ways[engine].bus
    way.cut()
    await asyncio.sleep(4)
    way.heal()


async def _kill_valkey(cluster: Cluster, servers: Servers, engine: int) -> None:
    """Valkey comes back empty."""
    await asyncio.to_thread(servers.valkey.stop, signal.SIGKILL)
    await asyncio.sleep(1)
    await asyncio.to_thread(servers.valkey.start)


async def _kill_engine(cluster: Cluster, servers: Servers, engine: int) -> None:
    """The engine's replica dies."""
    await cluster.replicas[engine].kill()
    await cluster.engine(but=cluster.replicas[engine])


async def _all(cluster: Cluster, servers: Servers, engine: int) -> None:
    """The engine's replica loses the bus, Valkey dies meanwhile, and then the replica."""
    cluster.ways[engine].bus.cut()
    await asyncio.sleep(3)
    await _kill_valkey(cluster, servers, engine)
    await _kill_engine(cluster, servers, engine)


@pytest.mark.parametrize("skew", [0, HOUR, -HOUR])
@pytest.mark.parametrize("befall", [_cut, _kill_valkey, _kill_engine, _all])
async def test_a_clock_is_wrong(
    tmp_path: Path,
    servers: Servers,
    simulator: Simulator,
    skew: int,
    befall: Callable[[Cluster, Servers, int], Awaitable[None]],
) -> None:
    """The clock of a replica is wrong, beside each of what may befall the engine's."""
    async with running_cluster(
        tmp_path, servers, simulator, forwarded=True, skews=(skew,)
    ) as cluster:
        engine = cluster.number(await cluster.engine())
        others = [number for number in range(3) if number != engine]
        pairs = [(first, other) for first in others for other in others]
        async with load.load(
            [cluster.client(pair) for pair, _ in pairs],
            [cluster.client(other) for _, other in pairs],
            repeats=True,
        ) as (runners, _):
            await load.one_more(runners)
            await befall(cluster, servers, engine)
            await load.one_more(runners, 2)
        check(runners)
        await load.check_records(cluster, load.submitted_by(runners))
