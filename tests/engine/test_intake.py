"""A new job goes at once where a slot is free, and waits otherwise."""

from __future__ import annotations

from pathlib import Path

import gated
import graphs
from engine.rig import running_engine

from proxy.jobs.models import JobReceived, JobState
from proxy.simulator import Simulator


async def test_a_job_without_a_free_slot_is_accepted_and_waits(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        await rig.submit(gated.GRAPH)
        waiting, answer = await rig.submit(graphs.plain())
        assert answer.error is None
        assert waiting.state is JobState.QUEUED
        assert len(simulator.jobs) == 1


async def test_a_job_that_is_announced_twice_runs_once(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        first, _ = await rig.submit(gated.GRAPH)
        rig.bus.publish("engine", JobReceived(first.key, first.order, promised=True))
        await rig.submit(graphs.plain())
        assert len(simulator.jobs) == 1
        assert len(await rig.repository.live()) == 2
