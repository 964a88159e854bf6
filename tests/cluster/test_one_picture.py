"""The bus is lost in part: no job is for a moment in neither the queue nor the history.

A program that polls takes such a job for lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import graphs
import pytest
from cluster.replicas import Cluster, Servers, running_cluster

from proxy.simulator import Simulator

#: Seconds of bad weather, and of good weather behind it.
BAD, GOOD = 8.0, 4.0
#: Jobs that one client has at once.
JOBS = 3


class Poller:
    """Submits at any replica, and looks for its jobs at each."""

    def __init__(self, cluster: Cluster) -> None:
        self.clients = cluster.clients()
        self.live: set[str] = set()
        self.polls = 0
        self.lost: list[str] = []
        self._number = 0

    async def submit(self, stop: asyncio.Event) -> None:
        """Submit jobs at the replicas in turn, until the event."""
        while not stop.is_set():
            if len(self.live) < JOBS:
                self._number += 1
                client = self.clients[self._number % len(self.clients)]
                graph = graphs.sampled(self._number, steps=3)
                self.live.add(await client.submit(graph))
            await asyncio.sleep(0.02)

    async def poll(self, number: int, stop: asyncio.Event) -> None:
        """Look for all jobs at one replica, in the queue and then in the history, again and
        again."""
        client = self.clients[number]
        while not stop.is_set():
            for prompt_id in list(self.live):
                queue = (await client.get("queue"))[1]
                items = [*queue["queue_running"], *queue["queue_pending"]]
                if all(item[1] != prompt_id for item in items):
                    ended = prompt_id in (await client.get(f"history/{prompt_id}"))[1]
                    if not ended:
                        self.lost.append(f"{prompt_id} at {number}")
                    elif prompt_id in (await client.get("history"))[1]:
                        self.live.discard(prompt_id)
                    else:
                        self.lost.append(f"{prompt_id} in the list at {number}")
                self.polls += 1
            await asyncio.sleep(0.01)


async def flapping_at_a_replica(cluster: Cluster, _: Servers) -> None:
    way = cluster.ways[cluster.number(await cluster.standby())].bus
    for _ in range(int(BAD)):
        way.reset()
        await asyncio.sleep(1)


async def a_hole_at_a_replica(cluster: Cluster, _: Servers) -> None:
    way = cluster.ways[cluster.number(await cluster.standby())].bus
    way.hole()
    await asyncio.sleep(BAD)
    way.heal()


async def a_hole_at_the_engine(cluster: Cluster, _: Servers) -> None:
    way = cluster.ways[cluster.number(await cluster.engine())].bus
    way.hole()
    await asyncio.sleep(BAD)
    way.heal()


async def cut_at_the_engine(cluster: Cluster, _: Servers) -> None:
    way = cluster.ways[cluster.number(await cluster.engine())].bus
    way.cut()
    await asyncio.sleep(BAD)
    way.heal()


async def flapping_at_the_engine(cluster: Cluster, _: Servers) -> None:
    way = cluster.ways[cluster.number(await cluster.engine())].bus
    for _ in range(int(BAD)):
        way.reset()
        await asyncio.sleep(1)


async def valkey_restarted(_: Cluster, servers: Servers) -> None:
    await asyncio.to_thread(servers.valkey.stop)
    await asyncio.sleep(2)
    await asyncio.to_thread(servers.valkey.start)
    await asyncio.sleep(BAD - 2)


@pytest.mark.parametrize(
    "weather",
    [
        flapping_at_a_replica,
        a_hole_at_a_replica,
        a_hole_at_the_engine,
        cut_at_the_engine,
        flapping_at_the_engine,
        valkey_restarted,
    ],
)
async def test_a_job_is_in_the_queue_or_in_the_history_at_each_replica(
    tmp_path: Path,
    servers: Servers,
    simulator: Simulator,
    weather: Callable[[Cluster, Servers], Awaitable[None]],
) -> None:
    async with running_cluster(tmp_path, servers, simulator, forwarded=True) as cluster:
        poller, stop = Poller(cluster), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(poller.submit(stop))
            for number in range(len(cluster.replicas)):
                tasks.create_task(poller.poll(number, stop))
            await asyncio.sleep(1)
            await weather(cluster, servers)
            await asyncio.sleep(GOOD)
            stop.set()
        assert poller.lost == []
        assert poller.polls > 100
