"""A job's life is led to its history entry."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import gated
import graphs
import pytest
from engine.rig import running_engine
from waiting import until

from proxy.cloud.client import CloudClient
from proxy.cloud.upstream import Capabilities
from proxy.engine.live_job import LiveJob
from proxy.jobs.conversion import job_of_request
from proxy.jobs.models import JobRequest, JobState
from proxy.simulator import HttpFault, Simulator
from proxy.storage.database import StorageError


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


async def test_a_new_job_that_is_put_off_is_accepted_in_the_storage_before_its_client_is_told(
    simulator: Simulator, tmp_path: Path
) -> None:
    busy = '{"error": {"type": "DEPLOYMENT_BUSY", "message": "busy"}}'
    simulator.faults.add(HttpFault("POST /api/prompt", status=503, body=busy), times=None)
    async with running_engine(simulator, tmp_path) as rig:
        job, answer = await rig.submit(graphs.plain())
        row = await rig.repository.get("local", job.prompt_id)
        assert answer.error is None
        assert row is not None
        assert (row.state, row.accepted) == ("queued", True)


async def test_a_new_job_that_is_not_found_is_sent_again_where_it_is_taken_once(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CloudClient, "capabilities", Capabilities(idempotent=True))
    lost = job_of_request(LiveJob, "local", JobRequest(graphs.plain()), prompt_id="lost")
    lost.state, lost.account, lost.accepted = JobState.SUBMITTING, "default", False
    async with running_engine(simulator, tmp_path, lost) as rig:
        await until(lambda: len(simulator.jobs) == 1)
        rig.engine.release(lost.key, watched=True)
        assert (await rig.ended(lost)).state == "succeeded"


async def test_of_a_waiting_job_that_was_taken_out_of_the_storage_nothing_is_told(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        first, _ = await rig.submit(gated.GRAPH)
        waiting, _ = await rig.submit(graphs.plain())
        assert waiting.state == "queued"
        await rig.repository.discard([waiting.order])
        opened.set()
        assert (await rig.ended(first)).state == "succeeded"
        await until(lambda: rig.engine.table.get(waiting.key) is None)
        assert rig.messages_of(waiting) == []
    assert len(simulator.jobs) == 1


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
        monkeypatch.setattr(rig.engine.resources.files, "reveal", refused)
        if waits:
            await rig.submit(gated.GRAPH)
        job, answer = await rig.submit(graph)
        assert (answer.error, bool(answer.node_errors)) == (None, not waits)
        opened.set()
        assert (await rig.ended(job)).state == "succeeded"
