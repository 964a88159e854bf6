"""A new job goes at once where a slot is free, and waits otherwise."""

from __future__ import annotations

from pathlib import Path

import gated
import graphs
import pytest
from engine.rig import Catalog, EngineAnswer, running_engine

from proxy.catalog.owners import Needs
from proxy.jobs.messages import JobAnswered, JobChanged, JobReceived
from proxy.jobs.models import JobContent, JobState
from proxy.simulator import Simulator
from proxy.storage.database import StorageError
from proxy.storage.payloads import Payload
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


async def test_a_job_that_is_announced_twice_runs_once(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        first, _ = await rig.submit(gated.GRAPH)
        rig.bus.publish("engine", JobReceived(first.key, first.order, promised=True))
        await rig.submit(graphs.plain())
        assert len(simulator.jobs) == 1
        assert len(await rig.repository.live()) == 2


async def test_a_job_is_shown_before_its_client_has_an_answer_also_if_a_connection_breaks(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        job = await rig.store(rig.job(graphs.plain()))
        read, failures, shown = rig.repository.payloads.get, [StorageError("it broke")], []
        rig.bus.subscribe("jobs", shown.append)

        async def payload(order: int) -> Payload | None:
            if failures:
                raise failures.pop()
            return await read(order)

        monkeypatch.setattr(rig.repository.payloads, "get", payload)
        with EngineAnswer(rig.bus, "answers", JobAnswered) as answered:
            rig.bus.publish("engine", JobReceived(job.key, job.order))
            answer = await answered.within(30.0)
            assert answer is not None
            assert answer.error is None
            assert any(isinstance(message, JobChanged) for message in shown)
        assert failures == []
