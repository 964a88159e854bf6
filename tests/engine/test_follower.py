"""One job from its first event to its end."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import gated
import graphs
import pytest
from engine.rig import Files, running_engine
from jobs.samples import job
from waiting import until

from proxy.engine.follower import JobFollower, Starting
from proxy.engine.inbox import Inbox
from proxy.engine.localiser import Localiser, Secrets
from proxy.engine.policy import DetailTimeouts
from proxy.engine.tracker import Ended, EventReceived, SnapshotReceived, Tracker
from proxy.jobs.models import JobState
from proxy.sharing.budget import MemoryBudget
from proxy.sharing.loop_turns import LoopAccount, LoopTurns
from proxy.simulator import HttpFault, Simulator, SocketFault
from proxy.storage.database import ValueRefusedError
from proxy.translate import codec
from proxy.translate.events import Preview
from proxy.translate.frames import CloudPicture
from proxy.translate.snapshots import Snapshot

SUBMIT, DETAIL = "POST /api/prompt", "GET /api/jobs/{id}"


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


async def test_a_job_whose_outputs_the_database_does_not_take_fails(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_given: Any, **_more: Any) -> Any:
        raise ValueRefusedError("too large")

    monkeypatch.setattr(Files, "localise", refused)
    monkeypatch.setattr(Files, "reveal", refused)
    async with running_engine(simulator, tmp_path) as rig:
        job, _ = await rig.submit(graphs.plain())
        entry = await rig.ended(job)
    assert entry.state == "failed"
    (_, error) = codec.loads(entry.result)["status"]["messages"][-1]
    assert "filename_prefix" in error["exception_message"]


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
        follower = job.follower
        assert follower is not None
        if held_up:
            follower.post(EventReceived("executed", {"node": "2", "output": {}}))
            await localising.wait()
        for _ in range(200):  # at once, as from a full buffer
            follower.post(CloudPicture(b"a picture", "image/jpeg", node_id="1"))
        localised.set()
        opened.set()
        await rig.ended(job)
        previews = [told for told in rig.heard.news if isinstance(told.message, Preview)]
    assert len(previews) == (65 if held_up else 200)


def inbox(budget: MemoryBudget | None = None) -> Inbox:
    return Inbox(partial((budget or MemoryBudget(2**28)).member, "ann", "job"))


def waiting_follower() -> JobFollower:
    """One that takes nothing yet."""
    live_job, unused = job(state=JobState.SUBMITTED), None
    tracker = Tracker(live_job.prompt_id, live_job.graph)
    given: Any = unused
    localiser = Localiser(live_job, given, given, Secrets(()))
    return JobFollower(live_job, tracker, localiser, None, DetailTimeouts(), given, inbox())


def test_of_many_inputs_those_that_say_the_same_are_one() -> None:
    follower = waiting_follower()
    for value in range(1000):
        follower.post(EventReceived("progress", {"node": "1", "value": value}))
        follower.post(EventReceived("progress_state", {"nodes": {}}))
    before = len(follower.inbox)
    for value in range(1000):
        follower.post(EventReceived("progress", {"node": "1", "value": value}))
        follower.post(EventReceived("progress", {"node": "1", "value": value}))
    assert len(follower.inbox) == before + 1


def test_of_an_endless_flood_the_end_is_kept() -> None:
    follower = waiting_follower()
    for number in range(10_000):
        follower.post(EventReceived("executing", {"node": str(number)}))
    assert len(follower.inbox) <= 5001
    assert follower.reading
    follower.post(EventReceived("execution_success", {}))
    assert follower.end_reported.is_set()


def test_inputs_that_wait_take_their_memory_from_the_budget() -> None:
    budget = MemoryBudget(2**20)
    waiting = inbox(budget)
    text = EventReceived("executed", {"node": "1", "output": {"text": ["x" * 100_000]}})
    taken = [waiting.put(text, is_held_up=False) for _ in range(20)]
    assert taken[:4] == [True] * 4
    assert not taken[-1]
    assert budget.held()["job"] <= 2**19
    assert waiting.put(CloudPicture(b"x" * 100_000, "image/jpeg"), is_held_up=False)
    assert waiting.put(EventReceived("execution_success", {}), is_held_up=False)
    while len(waiting) > 1:
        assert waiting.pop() == text
    assert waiting.pop() == EventReceived("execution_success", {})
    assert budget.held()["job"] == 0


def test_inputs_of_a_job_that_nobody_follows_are_forgotten() -> None:
    budget = MemoryBudget(2**20)
    waiting = inbox(budget)
    for _ in range(3):
        waiting.put(CloudPicture(b"x" * 100_000, "image/jpeg"), is_held_up=False)
    assert budget.held()["job"] > 200_000
    waiting.clear()
    assert budget.held()["job"] == 0


async def test_what_happens_to_a_job_is_charged_to_its_member(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged: set[LoopAccount] = set()
    monkeypatch.setattr(LoopAccount, "charge", lambda account, _: charged.add(account))
    monkeypatch.setattr(LoopTurns, "is_calm", lambda _: False)
    of_member = LoopAccount(LoopTurns())
    monkeypatch.setattr(LoopTurns, "of_member", lambda *_: of_member)
    async with running_engine(simulator, tmp_path) as rig:
        job, _ = await rig.submit(gated.GRAPH)
        await until(lambda: "executing 1" in rig.messages_of(job))
        assert of_member in charged
        opened.set()
        await rig.ended(job)


def withdrawn(state: JobState = JobState.SUBMITTED) -> JobFollower:
    """A follower of a job that its client no longer wants."""
    live_job = job(state=state)
    unused: Any = None
    files: Any = Files()
    follower = JobFollower(
        live_job,
        Tracker(live_job.prompt_id, live_job.graph),
        Localiser(live_job, files, unused, Secrets(())),
        None,
        DetailTimeouts(),
        unused,
        inbox(),
    )
    follower.withdraw()
    return follower


async def happenings_of(follower: JobFollower) -> list[object]:
    return [each async for each in follower.follow() if not isinstance(each, Starting)]


@pytest.mark.parametrize(
    ("start_time", "state", "has_run"),
    [
        (None, JobState.SUBMITTED, False),
        (1000, JobState.SUBMITTED, True),
        (None, JobState.RUNNING, True),
    ],
)
async def test_a_job_that_is_withdrawn_has_an_end_if_the_cloud_had_begun_it(
    start_time: int | None, state: JobState, has_run: bool
) -> None:
    follower = withdrawn(state)
    snapshot = Snapshot("c", "cancelled", settled=True, start_time=start_time)
    follower.post(SnapshotReceived(snapshot))
    happenings = await happenings_of(follower)
    assert [each for each in happenings if isinstance(each, Ended)] == happenings[-1:]
    assert bool(happenings) is has_run


async def test_a_job_that_is_withdrawn_as_it_starts_has_an_end() -> None:
    follower = withdrawn()
    follower.post(EventReceived("execution_start", {}))
    follower.post(SnapshotReceived(Snapshot("c", "cancelled", settled=True)))
    assert isinstance((await happenings_of(follower))[-1], Ended)


async def test_what_slow_readings_take_counts_for_a_job_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed = 0.0

    class Slow:
        title = "The deployment studio"

        async def job(self, _cloud_id: str) -> None:
            nonlocal passed
            passed += 10.0

    monkeypatch.setattr("proxy.engine.follower.clock.monotonic", lambda: passed)
    live_job = job(state=JobState.SUBMITTED)
    unused: Any = None
    slow: Any = Slow()
    follower = JobFollower(
        live_job,
        Tracker(live_job.prompt_id, live_job.graph),
        Localiser(live_job, unused, unused, Secrets(())),
        slow,
        DetailTimeouts(first=0.001, longest=0.001, lost=60.0),
        unused,
        inbox(),
    )
    follower.read_detail()
    reading = asyncio.create_task(follower.read_when_wanted())
    happenings = [happening async for happening in follower.follow()]
    reading.cancel()
    assert passed == 70.0
    (ended,) = [happening for happening in happenings if isinstance(happening, Ended)]
    assert ended.result.data["exception_message"] == "The deployment studio no longer has this job."
