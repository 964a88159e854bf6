"""Jobs end when their clients want them no more, wherever they are."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import gated
import graphs
import pytest
from engine.rig import Rig, running_engine
from waiting import until

from proxy.cloud.resilience import RetryPolicy
from proxy.jobs.models import Job, is_shown
from proxy.runtime.backoff import Backoff
from proxy.simulator import HttpFault, Simulator
from proxy.storage.database import FencedError, StorageError
from proxy.translate.errors import LocalError

CANCEL = "POST /api/jobs/{id}/cancel"


async def being_sent(rig: Rig, simulator: Simulator, opened: asyncio.Event) -> Job:
    """A job, the second one, that the cloud has and has not answered yet."""
    await rig.submit(gated.GRAPH)
    sent, _ = await rig.submit(graphs.waiting())
    simulator.switches.late_answer = 2.0
    opened.set()
    await simulator.signal.until(lambda: len(simulator.jobs) == 2, 30)
    return sent


async def test_a_waiting_job_leaves_no_trace(simulator: Simulator, tmp_path: Path) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        await rig.submit(gated.GRAPH)
        waiting, _ = await rig.submit(graphs.plain())
        assert await rig.cancel(waiting)
        assert await rig.is_gone(waiting)
        assert not await rig.cancel(waiting)
        assert rig.messages_of(waiting) == []
    assert simulator.calls[CANCEL] == 0


async def test_a_waiting_job_that_is_interrupted_ends_as_a_run(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        await rig.submit(gated.GRAPH)
        waiting, _ = await rig.submit(graphs.plain())
        assert await rig.cancel(waiting, interrupt=True)
        assert (await rig.ended(waiting)).state == "cancelled"
        assert "execution_interrupted" in rig.messages_of(waiting)
    assert len(simulator.jobs) == 1


async def test_an_interrupt_is_written_before_it_is_answered(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        sent = await being_sent(rig, simulator, opened)
        assert await rig.cancel(sent, interrupt=True)
        stored = await rig.repository.get(*sent.key)
        assert stored is not None
        assert (stored.state, stored.interrupted) == ("submitting", True)
        assert (await rig.ended(sent)).state == "cancelled"


@pytest.mark.parametrize("interrupt", [False, True])
async def test_a_cancellation_that_cannot_be_written_is_not_promised(
    interrupt: bool,
    simulator: Simulator,
    tmp_path: Path,
    opened: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refused(*_: Any) -> None:
        raise StorageError("disk full")

    async with running_engine(simulator, tmp_path) as rig:
        sent = await being_sent(rig, simulator, opened)
        with monkeypatch.context() as patch:
            patch.setattr(rig.engine.recorder, "flush", refused)
            with pytest.raises(StorageError, match="disk full"):
                await rig.cancel(sent, interrupt=interrupt)
        on_cloud = list(simulator.jobs.values())[1]
        await simulator.signal.until(lambda: on_cloud.status == "cancelled", 30)


async def test_a_running_job_ends_when_the_cloud_says_so(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        running, _ = await rig.submit(gated.GRAPH)
        await until(lambda: "executing 1" in rig.messages_of(running))
        assert await rig.cancel(running)
        assert (await rig.ended(running)).state == "cancelled"


async def test_a_job_that_waits_on_the_cloud_is_gone_at_once(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path, slots=2) as rig:
        running, _ = await rig.submit(gated.GRAPH)
        await until(lambda: "executing 1" in rig.messages_of(running))
        ahead, _ = await rig.submit(graphs.plain())
        assert await rig.cancel(ahead)
        assert not is_shown(ahead)
        await until(lambda: rig.is_gone(ahead))
        assert rig.messages_of(ahead) == []
    assert simulator.calls[CANCEL] == 1


async def test_a_cancel_while_the_job_is_being_sent_reaches_the_cloud_once(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        sent = await being_sent(rig, simulator, opened)
        assert await rig.cancel(sent)
        on_cloud = list(simulator.jobs.values())[1]
        await simulator.signal.until(lambda: on_cloud.status == "cancelled", 30)
        assert (await rig.ended(sent)).state == "cancelled"  # it had begun there
    assert simulator.calls[CANCEL] == 1


async def test_a_job_that_is_cancelled_before_its_answer_is_accepted_in_the_storage(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path, slots=2) as rig:
        await rig.submit(gated.GRAPH)
        job = await rig.store(rig.job(graphs.plain()))
        rig.engine.submit(job)
        await until(lambda: len(simulator.jobs) == 2)
        cancelling = asyncio.create_task(rig.cancel(job))
        await simulator.signal.until(lambda: simulator.calls[CANCEL] == 1, 30)
        await rig.engine.recorder.flush()
        stored = await rig.repository.get(*job.key)
        assert stored is not None
        assert stored.accepted
        rig.engine.release(job.key, watched=True)
        assert await cancelling
        await until(lambda: rig.is_gone(job))


async def test_a_job_that_cannot_be_cancelled_continues(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    retries = RetryPolicy(budget=0.5, backoff=Backoff(0.1, 0.1))
    async with running_engine(simulator, tmp_path, retries=retries) as rig:
        running, _ = await rig.submit(gated.GRAPH)
        await until(lambda: "executing 1" in rig.messages_of(running))
        simulator.faults.add(HttpFault("POST /api/jobs*", status=500), times=None)
        with pytest.raises(LocalError, match="refused the request"):
            await rig.cancel(running)
        opened.set()
        assert (await rig.ended(running)).state == "succeeded"


async def test_a_job_that_the_cloud_does_not_know_yet_is_not_said_to_be_cancelled(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        running, _ = await rig.submit(gated.GRAPH)
        await until(lambda: "executing 1" in rig.messages_of(running))
        simulator.faults.add(HttpFault(CANCEL.replace("{id}", "*"), status=404))
        with pytest.raises(LocalError) as caught:
            await rig.cancel(running, interrupt=True)
        assert caught.value.type == "cloud_unreachable"
        assert await rig.cancel(running, interrupt=True)
        assert (await rig.ended(running)).state == "cancelled"


async def test_a_cancellation_after_the_term_is_left_to_the_next_engine(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        running, _ = await rig.submit(gated.GRAPH)
        await until(lambda: running.is_on_cloud)
        rig.engine.recorder.term.until = -math.inf
        with pytest.raises(FencedError):
            await rig.cancel(running)
    assert simulator.calls[CANCEL] == 0
