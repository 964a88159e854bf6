"""A job's life is led to its history entry."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import gated
import graphs
import pytest
from engine.rig import running_engine

from proxy.costs.job_cost import JobCost, JobRun, Pricing
from proxy.engine import life
from proxy.jobs.messages import JobLeft, JobMessage, JobRecorded
from proxy.simulator import Simulator
from proxy.storage.database import StorageError
from proxy.storage.history import Recorded


async def test_a_job_ends_in_the_history_and_leaves_its_slot_to_the_next(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        first, _ = await rig.submit(graphs.plain())
        second, _ = await rig.submit(graphs.plain(1))
        assert (await rig.ended(first)).state == "succeeded"
        assert (await rig.ended(second)).state == "succeeded"
        assert await rig.repository.live() == []
        messages = rig.messages_of(first)
        assert (messages[0], messages[-1]) == ("execution_start", "executing None")


async def test_other_replicas_know_of_an_end_before_its_messages_are_sent_here(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        unflushed: list[str] = []
        received: list[str] = []

        async def flush() -> None:
            unflushed.clear()

        def hear(message: object) -> None:
            if isinstance(message, JobRecorded | JobLeft):
                unflushed.append(type(message).__name__)
                received.append(type(message).__name__)
            elif isinstance(message, JobMessage):
                assert unflushed == []
                received.append(message.message.type)

        monkeypatch.setattr(rig.bus, "flush", flush)
        with rig.bus.subscribe("jobs", hear), rig.bus.subscribe("events.local", hear):
            job, _ = await rig.submit(graphs.plain())
            await rig.ended(job)
        assert received[-4:] == ["JobRecorded", "execution_success", "JobLeft", "executing"]


async def test_a_new_job_that_its_account_refuses_goes_to_another(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.switches.update({"refuse_prompt": "PAYMENT_REQUIRED"})
    async with (
        Simulator() as other,
        running_engine(simulator, tmp_path, others=(other,)) as rig,
    ):
        job, answer = await rig.submit(graphs.plain())
        assert answer.error is None
        assert (await rig.ended(job)).state == "succeeded"
        assert len(other.jobs) == 1
    assert len(simulator.jobs) == 0


async def test_an_end_is_written_until_the_storage_takes_it(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        finish, refusals = rig.repository.finish, [StorageError("disk full")] * 2

        async def refused(*args: Any, **kwargs: Any) -> Recorded:
            if refusals:
                raise refusals.pop()
            return await finish(*args, **kwargs)

        monkeypatch.setattr(rig.repository, "finish", refused)
        job, _ = await rig.submit(graphs.plain())
        assert (await rig.ended(job)).state == "succeeded"
        assert refusals == []


@pytest.mark.parametrize("waits", [False, True])
async def test_a_job_that_the_cloud_runs_in_part_is_followed_while_the_storage_refuses_names(
    simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened: asyncio.Event,
    waits: bool,
) -> None:
    async def refused(*_: Any) -> Any:
        raise StorageError("disk full")

    graph = graphs.plain()
    graph["5"] = {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}
    async with running_engine(simulator, tmp_path) as rig:
        monkeypatch.setattr(rig.engine.files, "reveal", refused)
        if waits:
            await rig.submit(gated.GRAPH)
        job, answer = await rig.submit(graph)
        assert (answer.error, bool(answer.node_errors)) == (None, not waits)
        opened.set()
        assert (await rig.ended(job)).state == "succeeded"


@pytest.mark.parametrize("limit", [1, 100])
async def test_the_cost_of_a_large_job_is_computed_in_a_thread(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    threads: list[Any] = []

    def cost_of(_: Pricing, run: JobRun) -> JobCost:
        threads.append(threading.current_thread())
        return JobCost()

    monkeypatch.setattr(Pricing, "cost_of", cost_of)
    monkeypatch.setattr(life, "MAX_NODES_INLINE", limit)
    async with running_engine(simulator, tmp_path) as rig:
        job, _ = await rig.submit(graphs.plain())
        assert (await rig.ended(job)).state == "succeeded"
    assert [thread is threading.main_thread() for thread in threads] == [limit == 100]


async def test_the_end_of_a_job_is_stored_with_its_running_time_in_the_fair_shares(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path, fair_by="time") as rig:
        job, _ = await rig.submit(graphs.plain())
        await rig.ended(job)
        stored = (await rig.repository.load_shares()).members[job.member]
        assert stored.typical is not None
        assert stored.start == pytest.approx(stored.typical)  # and not what was expected of it
