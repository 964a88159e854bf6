"""A new job goes at once where a slot is free, and waits otherwise."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import gated
import graphs
import pytest
from engine.rig import Catalog, running_engine
from waiting import until

from proxy.catalog.owners import Needs
from proxy.cloud.resilience import ONCE
from proxy.engine import intake
from proxy.engine.live_job import LiveJob
from proxy.jobs.models import JobContent, JobState
from proxy.simulator import HttpFault, Simulator
from proxy.storage.database import StorageError
from proxy.translate.packs import Rewriting


async def test_a_job_without_a_free_slot_is_accepted_and_waits(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        await rig.submit(gated.GRAPH)
        waiting, answer = await rig.submit(graphs.plain())
        assert answer.error is None
        assert waiting.state is JobState.QUEUED
        assert len(simulator.jobs) == 1


async def test_a_job_needs_what_the_graph_names_that_the_cloud_runs(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewritten, needs = graphs.plain(1), Needs(frozenset({"default"}), "own.safetensors")
    monkeypatch.setattr(Catalog, "needs_of", lambda _, graph: needs if graph == rewritten else None)
    content = JobContent(graphs.plain(), {}, rewriting=Rewriting(rewritten))
    async with running_engine(simulator, tmp_path) as rig:
        await rig.submit(gated.GRAPH)
        waiting, _ = await rig.submit(graphs.plain(), content=content)
        assert waiting.needs == needs


async def test_a_job_that_is_being_refused_is_accepted_no_more(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.switches.update({"refuse_prompt": "PAYMENT_REQUIRED"})
    timeout, begun = 1.0, asyncio.get_running_loop().time()
    monkeypatch.setattr(intake, "ANSWER_TIMEOUT", timeout)

    def is_late() -> bool:
        return asyncio.get_running_loop().time() > begun + 2 * timeout

    async with running_engine(simulator, tmp_path) as rig:
        discard = rig.repository.discard

        async def slow(*given: Any, **also: Any) -> None:
            await until(is_late)
            await discard(*given, **also)

        monkeypatch.setattr(rig.repository, "discard", slow)
        begun = asyncio.get_running_loop().time()
        job, answer = await rig.submit(graphs.plain())
        assert answer.error is not None
        assert await rig.is_gone(job)


async def test_the_refusal_of_a_job_that_cannot_be_deleted_is_unconfirmed(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine may end before it is deleted, and the next one runs it."""
    simulator.switches.update({"refuse_prompt": "PAYMENT_REQUIRED"})

    async def refusing(*_: Any, **also: Any) -> None:
        raise StorageError("away")

    async with running_engine(simulator, tmp_path) as rig:
        with monkeypatch.context() as patched:
            patched.setattr(rig.repository, "discard", refusing)
            _, answer = await rig.submit(graphs.plain())
        assert answer.error is not None
        assert answer.error.kind == "unconfirmed"
        assert "may run later" in answer.error.message


async def test_a_job_that_has_been_refused_does_not_come_back_into_the_queue(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.switches.update({"refuse_prompt": "PAYMENT_REQUIRED"})
    timeout, begun = 1.0, 0.0
    monkeypatch.setattr(intake, "ANSWER_TIMEOUT", timeout)

    async def slow(_member: str, value: Any, _job: str | None = None) -> Any:
        await until(lambda: asyncio.get_running_loop().time() > begun + 2 * timeout)
        return value

    async with running_engine(simulator, tmp_path) as rig:
        monkeypatch.setattr(rig.engine.resources.files, "reveal", slow)
        begun = asyncio.get_running_loop().time()
        _, answer = await rig.submit(graphs.plain())
        assert answer.error is not None
        assert not any(told.what == "changed" for told in rig.heard.news)


async def test_a_job_whose_client_was_told_that_it_is_lost_is_not_sent_again(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "ANSWER_TIMEOUT", 1.0)
    simulator.faults.add(HttpFault("POST /api/prompt", status=200, body="{}"))
    broken = simulator.faults.add(HttpFault("GET /api/jobs*", status=500), times=None)
    async with running_engine(simulator, tmp_path, retries=ONCE) as rig:
        begun = asyncio.get_running_loop().time()
        job, answer = await rig.submit(graphs.plain())
        assert answer.error is not None
        await until(lambda: asyncio.get_running_loop().time() > begun + 2.0)
        simulator.faults.remove(broken)
        await until(lambda: rig.is_gone(job))
        assert simulator.calls["POST /api/prompt"] == 1


async def test_a_job_on_its_way_is_accepted_in_the_storage_before_its_client_is_told(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "ANSWER_TIMEOUT", 0.5)
    simulator.faults.add(HttpFault("POST /api/prompt", delay=60.0))
    async with running_engine(simulator, tmp_path) as rig:
        job, answer = await rig.submit(graphs.plain())
        row = await rig.repository.get("local", job.prompt_id)
        assert answer.error is None
        assert row is not None
        assert (row.state, row.accepted) == ("submitting", True)


async def test_a_job_that_is_accepted_as_its_refusal_comes_is_not_refused(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a freeze: what the cloud has answered meanwhile is seen directly after the timer."""
    monkeypatch.setattr(intake, "ANSWER_TIMEOUT", 0.0)
    found = []

    async def run(job: LiveJob) -> None:
        asyncio.get_running_loop().call_later(0.0, lambda: found.append(job.accepted))
        await until(lambda: found)

    async with running_engine(simulator, tmp_path) as rig:
        monkeypatch.setattr(rig.engine._life, "run", run)
        _, answer = await rig.submit(graphs.plain())
        assert (answer.error, found) == (None, [True])
