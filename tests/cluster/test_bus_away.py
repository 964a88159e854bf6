"""Valkey is away for half a minute, or comes back empty: what clients need comes from storage."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest
from chaos.accounting import prompt_id_of
from cluster import load
from cluster.replicas import Cluster, Servers
from servers import ServerProcess

from proxy.simulator import Simulator

#: Seconds without it.
AWAY = 30.0
#: Seconds after which a client is told of an end at the latest.
TOLD_WITHIN = 5.0


async def stopped(valkey: ServerProcess) -> None:
    await asyncio.to_thread(valkey.stop)
    try:
        await asyncio.sleep(AWAY)
    finally:
        await asyncio.to_thread(valkey.start)


async def frozen(valkey: ServerProcess) -> None:
    valkey.freeze()
    try:
        await asyncio.sleep(AWAY)
    finally:
        valkey.thaw()


async def restarted(valkey: ServerProcess) -> None:
    for _ in range(3):
        await asyncio.to_thread(valkey.stop, signal.SIGKILL)
        await asyncio.to_thread(valkey.start)
        await asyncio.sleep(1)


@pytest.mark.parametrize("outage", [stopped, frozen, restarted])
async def test_no_request_fails_and_every_end_is_sent(
    cluster: Cluster,
    servers: Servers,
    simulator: Simulator,
    outage: Callable[[ServerProcess], Awaitable[None]],
) -> None:
    async with load.load(
        [cluster.client(number % 3) for number in range(6)],
        [cluster.client((number + number // 3) % 3) for number in range(6)],
    ) as (runners, _):
        await load.one_more(runners)
        await outage(servers.valkey)
        await load.one_more(runners, 2)
    for runner in runners:
        runner.check(only_ends=True)
    told_at = {prompt_id: at for runner in runners for prompt_id, at in runner.told_at.items()}
    late = {
        prompt_id: delay
        for job in simulator.jobs.values()
        if (prompt_id := prompt_id_of(job.extra_data))
        and (delay := told_at[prompt_id] - (job.ended or 0) / 1000) > TOLD_WITHIN
    }
    assert late == {}
    await load.check_records(cluster, load.submitted_by(runners))
    assert len(simulator.sockets) == 1
