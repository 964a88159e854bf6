"""What the cloud is asked does not grow with replicas."""

from __future__ import annotations

import asyncio
from pathlib import Path

import graphs
from cluster.replicas import Cluster, Servers, running_cluster

from proxy.simulator import Simulator, Switches

JOBS = 12


async def calls_of_jobs(cluster: Cluster, simulator: Simulator) -> dict[str, int]:
    """The calls for some jobs at all replicas while everybody polls for them."""
    before = simulator.calls.copy()
    clients = [cluster.client(number) for number in range(len(cluster.replicas))]
    ended = asyncio.Event()

    async def poll() -> None:
        while not ended.is_set():
            for client in clients:
                for path in ("queue", "history", "api/jobs", "prompt"):
                    assert (await client.get(path))[0] == 200

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(poll())
        for number in range(JOBS):
            client = clients[number % len(clients)]
            entry = await client.run(graphs.plain(number))
            item = entry["outputs"]["2"]["images"][0]
            assert await client.view(item) == await client.view(item)
        ended.set()
    assert len(simulator.sockets) == 1
    return dict(simulator.calls - before)


async def test_one_event_socket_and_as_many_calls_as_with_one_replica(
    servers: Servers, tmp_path: Path
) -> None:
    calls = {}
    for count in (1, 3):
        async with (
            Simulator(plan="pro", switches=Switches(pace=0.02)) as simulator,
            running_cluster(tmp_path / str(count), servers, simulator, count=count) as cluster,
        ):
            calls[count] = await calls_of_jobs(cluster, simulator)
    for route in ("POST /api/prompt", "GET /api/view"):
        assert calls[3][route] == calls[1][route] == JOBS, calls
    # how often a job is looked at depends on how long it takes
    assert sum(calls[3].values()) <= 1.5 * sum(calls[1].values()), calls
