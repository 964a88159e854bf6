"""Webhooks of two processes on PostgreSQL: either adds one, the leader delivers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import graphs
import pytest
from cluster.replicas import Cluster, Servers, running_cluster
from receiver import Receiver, receiving

from proxy.simulator import Simulator


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


@pytest.fixture
async def pair(tmp_path: Path, servers: Servers, simulator: Simulator) -> AsyncIterator[Cluster]:
    """Two replicas whose webhooks may connect to this machine."""
    settings = {"webhook_networks": "127.0.0.1"}
    async with running_cluster(tmp_path, servers, simulator, count=2, **settings) as running:
        yield running


async def added(cluster: Cluster, number: int, receiver: Receiver) -> dict[str, Any]:
    """A webhook that a replica has added, for the ends and starts of jobs."""
    body = {"url": str(receiver.url / "hook"), "types": ["job.started", "job.completed"]}
    status, answer = await cluster.client(number).post("proxy/api/webhooks", body)
    assert status == 201, answer
    return dict(answer)


async def test_a_killed_engine_is_followed_by_one_that_delivers(
    pair: Cluster, receiver: Receiver
) -> None:
    """With the ids that the messages had, and signed with the same secret."""
    engine = await pair.engine()
    other = pair.number(await pair.standby())
    made = await added(pair, other, receiver)
    receiver.hang("/hook")
    await pair.client(other).submit(graphs.plain(1))
    first = {received.id for received in await receiver.until(2)}
    await engine.kill()
    del receiver.answers["/hook"]
    await pair.engine(but=engine)
    *_, one, two = await receiver.until(4)
    assert {one.id, two.id} == first
    one.verified(made["secret"])
    prompt_id = await pair.client(other).submit(graphs.plain(2))
    *_, last = await receiver.until(6)
    assert last.verified(made["secret"])["data"]["prompt_id"] == prompt_id
    assert len({received.id for received in receiver.got}) == 4
