"""What stays in memory of jobs that have ended."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import graphs
import pytest
from stack import TIMEOUT, Client

from proxy.engine.follower import JobFollower
from proxy.engine.tracker import Tracker
from proxy.jobs.models import Job

OF_A_JOB = (Job, JobFollower, Tracker)


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alive() -> dict[int, object]:
    """The parts of jobs in memory by their ids, which no other has while these are held."""
    return {id(item): item for item in gc.get_objects() if isinstance(item, OF_A_JOB)}


@pytest.mark.parametrize("graph", [graphs.plain(), graphs.raising()], ids=["plain", "raising"])
async def test_an_ended_job_is_free_without_a_collection(
    client: Client, graph: dict[str, object], without_collector: None
) -> None:
    before = alive()  # of other tests, and of the start, which asks the engine, too
    await client.run(graph)
    async with asyncio.timeout(TIMEOUT):
        # A job leaves a moment after its client has its end.
        while alive().keys() - before.keys():  # noqa: ASYNC110 (nothing says when it is freed)
            await asyncio.sleep(0.01)
