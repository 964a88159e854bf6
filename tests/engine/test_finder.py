"""A job is found among those of its account by its mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import pytest
from engine.rig import running_engine
from jobs.samples import job

from proxy.cloud import client as cloud_client
from proxy.cloud.client import CloudClient
from proxy.cloud.errors import CloudTruncated
from proxy.cloud.marks import MARK, JobList, MarkedJobs
from proxy.cloud.upstream import Known
from proxy.engine.finder import JobFinder
from proxy.simulator import Simulator
from proxy.storage.database import StorageError
from proxy.translate.snapshots import Snapshot


class Rows:
    """The storage, as far as it knows ids of the cloud; it refuses reads if it is `broken`."""

    def __init__(self, *cloud_ids: str, broken: bool = False) -> None:
        self.cloud_ids = set(cloud_ids)
        self.broken = broken

    async def knows(self, cloud_ids: set[str]) -> set[str]:
        if self.broken:
            raise StorageError("disk full")
        return cloud_ids & self.cloud_ids


class Cloud:
    """An account that lists jobs, all with the same mark, or the first ones unless it
    `is_whole`."""

    def __init__(self, mark: str, *cloud_ids: str, is_whole: bool = True) -> None:
        self.mark = mark
        self.is_whole = is_whole
        self.cloud_ids = cloud_ids

    async def jobs(self, _since: int) -> JobList:
        jobs = [Snapshot(cloud_id, "pending", settled=False) for cloud_id in self.cloud_ids]
        return JobList(jobs, self.is_whole)

    async def extra_data(self, _cloud_id: str) -> dict[str, Any]:
        return {MARK: self.mark}

    async def find(self, mark: str, known: Known, *, since: int) -> str | None:
        return await MarkedJobs(self.jobs, self.extra_data).find(mark, known, since)


def finder_over(cloud: Any, rows: Any, *live: str) -> JobFinder:
    return JobFinder(cloud, set(live), {"ended"}, rows, timeout=0.0)


async def test_a_job_is_found_by_its_mark_alone(simulator: Simulator, tmp_path: Path) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        sent, _ = await rig.submit(graphs.plain())
        await rig.ended(sent)
    client = CloudClient(simulator.base_url, simulator.key)
    await client.start()
    try:
        finder = finder_over(client, Rows())
        assert await finder.find(sent) == sent.cloud_id
        assert await finder.find(job("another")) is None
    finally:
        await client.close()


async def test_a_look_goes_back_to_the_first_attempt(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud_client, "_PAGE_SIZE", 2)
    async with running_engine(simulator, tmp_path) as rig:
        jobs = [(await rig.submit(graphs.plain(color)))[0] for color in range(5)]
        for sent in jobs:
            await rig.ended(sent)
    client = CloudClient(simulator.base_url, simulator.key)
    await client.start()
    try:
        finder = finder_over(client, Rows())
        assert await finder.find(jobs[0]) == jobs[0].cloud_id
    finally:
        await client.close()


async def test_jobs_that_are_live_or_stored_are_not_candidates() -> None:
    lost = job("lost")
    cloud = Cloud(lost.mark, "live", "of the history")
    assert await finder_over(cloud, Rows("of the history"), "live").find(lost) is None
    assert await finder_over(cloud, Rows(), "live").find(lost) == "of the history"
    assert await finder_over(cloud, Rows(broken=True), "live").find(lost) == "of the history"


async def test_a_job_that_is_not_in_a_list_that_was_cut_off_may_be_there() -> None:
    lost = job("lost")
    cloud = Cloud(lost.mark, "a", is_whole=False)
    assert await finder_over(cloud, Rows()).find(lost) == "a"
    with pytest.raises(CloudTruncated):
        await finder_over(cloud, Rows("a")).find(lost)


def test_an_id_of_another_job_is_not_new() -> None:
    finder = finder_over(Cloud(""), Rows(), "live")
    assert finder.claim("a")
    assert not finder.claim("a")
    assert not finder.claim("live")
    assert not finder.claim("ended")
