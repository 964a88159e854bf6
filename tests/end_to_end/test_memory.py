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
from proxy.jobs.messages import EngineAnswer
from proxy.jobs.models import Job

OF_A_JOB = (Job, JobFollower, Tracker, EngineAnswer)


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alive() -> list[str]:
    return sorted(type(item).__name__ for item in gc.get_objects() if isinstance(item, OF_A_JOB))


async def until_none_is_alive() -> None:
    async with asyncio.timeout(TIMEOUT):
        while alive():  # noqa: ASYNC110 (nothing says when an object is freed)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("graph", [graphs.plain(), graphs.raising()], ids=["plain", "raising"])
async def test_an_ended_job_is_free_without_a_collection(
    client: Client, graph: dict[str, object], without_collector: None
) -> None:
    await until_none_is_alive()  # the start asks the engine, too
    await client.run(graph)
    await until_none_is_alive()  # a job leaves a moment after its client has its end
