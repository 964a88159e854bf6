"""A job is found among those of its account by its mark."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import graphs
from engine.rig import running_engine
from jobs.samples import job

from proxy.cloud.client import CloudClient
from proxy.engine.finder import JobFinder
from proxy.simulator import Simulator


async def none_known(_cloud_ids: Iterable[str]) -> set[str]:
    return set()


async def test_a_job_is_found_by_its_mark_alone(simulator: Simulator, tmp_path: Path) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        sent, _ = await rig.submit(graphs.plain())
        await rig.ended(sent)
    client = CloudClient(simulator.base_url, simulator.key)
    await client.start()
    try:
        finder = JobFinder(client, set(), none_known)
        assert await finder.find(sent) == sent.cloud_id
        assert await finder.find(job("another")) is None
    finally:
        await client.close()
