"""One job from its first event to its end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import gated
import graphs
import pytest
from engine.rig import Files, running_engine
from stack import TIMEOUT
from waiting import until

from proxy.bus import BusMessage, EventBus
from proxy.engine import announcer
from proxy.engine.tracker import EventReceived
from proxy.jobs.messages import JobMessage, JobReceived, JobReleased, StepsMissed, StepsReceived
from proxy.simulator import HttpFault, Simulator, SocketFault
from proxy.translate import codec
from proxy.translate.events import Preview
from proxy.translate.frames import CloudPicture

SUBMIT, DETAIL = "POST /api/prompt", "GET /api/jobs/{id}"


async def test_a_slot_passes_on_as_soon_as_an_end_is_known(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    simulator.switches.late_detail = 2 * TIMEOUT  # the outputs of the first never come
    async with running_engine(simulator, tmp_path) as rig:
        await rig.submit(gated.GRAPH)
        await rig.submit(graphs.plain())
        opened.set()
        await until(lambda: simulator.calls[SUBMIT] == 2)


async def test_a_waiting_job_that_is_refused_fails_for_its_client(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        await rig.submit(gated.GRAPH)
        refused, _ = await rig.submit(graphs.plain())
        simulator.switches.refuse_prompt = "PARTNER_NODE_DISABLED"
        opened.set()
        entry = await rig.ended(refused)
        assert [
            type_ for type_ in rig.messages_of(refused) if not type_.startswith("executing")
        ] == [
            "execution_start",
            "execution_cached",
            "execution_error",
        ]
    status = codec.loads(entry.result)["status"]
    assert (status["status_str"], status["completed"]) == ("error", False)
    _, error = status["messages"][-1]
    assert error["exception_type"] == "PARTNER_NODE_DISABLED"
    assert "remove the node" in error["exception_message"]


async def test_the_history_has_the_entry_before_the_client_hears_of_the_end(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        job, _ = await rig.submit(graphs.plain())
        await rig.ended(job)
        messages = rig.messages_of(job)
        assert messages[0] == "execution_start"
        assert messages[-2:] == ["execution_success", "executing None"]
        assert messages.count("execution_success") == 1


async def test_a_job_without_any_event_has_a_whole_life(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.faults.add(SocketFault("lose"), times=None)
    async with running_engine(simulator, tmp_path) as rig:
        job, _ = await rig.submit(graphs.plain())
        assert (await rig.ended(job)).state == "succeeded"
        assert "executed" in rig.messages_of(job)


async def test_a_detail_that_is_too_large_each_time_is_given_up(
    simulator: Simulator, tmp_path: Path
) -> None:
    large = json.dumps({"status": "completed", "outputs": {"1": {"text": [0] * 100_001}}})
    simulator.faults.add(SocketFault("lose"), times=None)
    simulator.faults.add(HttpFault(DETAIL, status=200, body=large), times=None)
    async with running_engine(simulator, tmp_path) as rig:
        job, _ = await rig.submit(graphs.plain())
        entry = await rig.ended(job)
    assert simulator.calls[DETAIL] == 3
    (_, error) = codec.loads(entry.result)["status"]["messages"][-1]
    assert "too large to be read" in error["exception_message"]


async def test_a_replica_that_has_missed_steps_gets_them_once_more(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventBus, "lossy", True)
    async with running_engine(simulator, tmp_path) as rig:
        job, _ = await rig.submit(gated.GRAPH)
        await until(lambda: rig.messages_of(job)[-1:] == ["executing 1"])
        first = [message for message in rig.received if isinstance(message, JobMessage)]
        steps = [message for message in first if message.step is not None]
        assert [message.number for message in steps] == list(range(1, len(steps) + 1))
        assert {message.epoch for message in first} == {1}

        def repeated(epoch: int, number: int, order: int = job.order) -> list[BusMessage]:
            rig.received.clear()
            received = StepsReceived(job.key, order, epoch, number)
            rig.bus.publish("engine", StepsMissed((received,)))
            return list(rig.received)

        assert repeated(1, 1) == steps[1:]
        assert repeated(1, len(steps)) == []
        assert repeated(0, 5) == steps  # of another engine
        assert repeated(1, 0, order=job.order + 1) == []
        opened.set()
        await rig.ended(job)
        assert repeated(1, 0) == []


@pytest.mark.parametrize("held_up", [False, True])
async def test_pictures_give_way_only_while_an_input_takes_long(
    simulator: Simulator,
    tmp_path: Path,
    opened: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
    held_up: bool,
) -> None:
    localising, localised = asyncio.Event(), asyncio.Event()

    async def localise(_: Files, *given: Any, **__: Any) -> Any:
        localising.set()
        await localised.wait()
        return given[-1]

    monkeypatch.setattr(Files, "localise", localise)
    async with running_engine(simulator, tmp_path) as rig:
        job, _ = await rig.submit(gated.GRAPH)
        await until(lambda: "executing 1" in rig.messages_of(job))
        follower = rig.engine._workers["default"].router.followers[job.cloud_id]
        if held_up:
            follower.post(EventReceived("executed", {"node": "2", "output": {}}))
            await localising.wait()
        for _ in range(200):  # at once, as from a full buffer
            follower.post(CloudPicture(b"a picture", "image/jpeg", node_id="1"))
        localised.set()
        opened.set()
        await rig.ended(job)
        previews = [
            message
            for message in rig.received
            if isinstance(message, JobMessage) and isinstance(message.message, Preview)
        ]
    assert len(previews) == (65 if held_up else 200)


async def test_nothing_is_told_of_a_job_before_its_client_has_the_answer(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer, "_ALONE", 600.0)
    async with running_engine(simulator, tmp_path) as rig:
        job = await rig.store(rig.job(graphs.plain()))
        rig.bus.publish("engine", JobReceived(job.key, job.order, job))
        await until(lambda: [done.status for done in simulator.jobs.values()] == ["completed"])
        runs = rig.engine._runs[job.member]
        await until(lambda: job in runs and runs[job].ending)
        assert rig.received == []
        rig.bus.publish("engine", JobReleased(job.key, watched=False))
        assert (await rig.ended(job)).state == "succeeded"
        assert (job.answered, job.watched) == (True, False)


async def test_a_job_is_told_after_a_while_also_if_nobody_says_that_its_client_has_the_answer(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer, "_ALONE", 0.05)
    async with running_engine(simulator, tmp_path) as rig:
        job = await rig.store(rig.job(graphs.plain()))
        rig.bus.publish("engine", JobReceived(job.key, job.order, job))
        assert (await rig.ended(job)).state == "succeeded"


async def test_a_job_that_waits_is_known_to_be_answered(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        await rig.submit(gated.GRAPH)
        waiting, _ = await rig.submit(graphs.plain())
        assert (waiting.answered, waiting.watched) == (True, True)
        rig.bus.publish("engine", JobReleased(waiting.key, watched=False))
        assert waiting.watched, "only the first word counts"
        opened.set()
        await rig.ended(waiting)
