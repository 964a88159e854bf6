"""What clients sent for jobs takes the memory of its members while it is there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import gated
import graphs
from engine.rig import Rig, running_engine
from jobs.samples import job
from waiting import until

from proxy.engine.live_job import LiveJob
from proxy.simulator import Simulator

MB = 1024 * 1024
#: The memory of the proxy, of which a member may hold a half; twice the text is there until it is
#: sent.
MEMORY, TEXT = 16 * MB, "x" * 3 * MB
LARGE = {"extra_pnginfo": {"workflow": {"id": "w", "text": TEXT}}}


def held(rig: Rig) -> int:
    return rig.engine.resources.budget.held()["job"]


def large_graph() -> dict[str, Any]:
    return {**gated.GRAPH, "2": {"class_type": "EmptyImage", "inputs": {"text": TEXT}}}


async def test_what_only_the_submission_needs_is_kept_until_the_cloud_has_the_job(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    more = {**LARGE, "preview_method": "none", "workflow_metadata": {"tab": "a"}}
    async with running_engine(simulator, tmp_path, memory=MEMORY) as rig:
        running, answer = await rig.submit(gated.GRAPH, extra_data=more)
        assert answer.error is None
        await until(lambda: running.state == "running")
        assert running.loaded.extra_data == {
            "preview_method": "none",
            "workflow_metadata": {"tab": "a"},
        }
        assert (running.wants_previews, running.metadata) == (False, {"tab": "a"})
        assert held(rig) == 0
        opened.set()
        await rig.ended(running)


async def test_a_job_waits_until_there_is_room_for_its_graph(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_engine(simulator, tmp_path, slots=3, memory=MEMORY) as rig:
        first, _ = await rig.submit(large_graph())
        await until(lambda: first.state == "running")
        assert 3 * MB <= held(rig) < 4 * MB
        second, answer = await rig.submit(large_graph())
        assert answer.error is None
        await until(lambda: second.reason == "memory")
        assert (second.state, second.content) == ("queued", None)
        assert "starts when one of them has ended" in (second.message or "")
        assert held(rig) < 4 * MB
        opened.set()
        assert (await rig.ended(first)).state == "succeeded"
        assert (await rig.ended(second)).state == "succeeded"
        assert held(rig) == 0


async def test_jobs_that_end_before_they_run_are_read_as_there_is_room(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_engine(simulator, tmp_path, memory=MEMORY) as rig:
        running, _ = await rig.submit(gated.GRAPH)
        waiting = [(await rig.submit(graphs.plain(), extra_data=LARGE))[0] for _ in range(3)]
        assert held(rig) == 0
        await rig.cancel(*waiting, interrupt=True)
        await until(lambda: held(rig) > 0)
        for one in waiting:
            assert (await rig.ended(one)).state == "cancelled"
        assert held(rig) == 0
        opened.set()
        await rig.ended(running)


async def test_what_a_job_holds_at_the_end_of_a_term_is_released(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_engine(simulator, tmp_path, memory=MEMORY) as rig:
        running, _ = await rig.submit(large_graph())
        await until(lambda: running.state == "running")
        assert held(rig) > 0
    assert held(rig) == 0


async def test_a_job_that_can_never_have_room_fails_with_a_sentence(
    simulator: Simulator, tmp_path: Path
) -> None:
    left = job("large", "local", extra_data={"text": TEXT * 2}, accepted=True)
    assert isinstance(left, LiveJob)
    async with running_engine(simulator, tmp_path, left, memory=MEMORY) as rig:
        entry = await rig.ended(left)
        assert entry.state == "failed"
        assert b"memory_mb" in entry.result
    assert len(simulator.jobs) == 0
