"""What goes to the cloud, when and where, and what becomes of a job that was not taken."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import gated
import graphs
import pytest
from engine.rig import running_engine
from engine.worlds import World
from jobs.samples import job
from stack import TIMEOUT
from waiting import until

from proxy.engine import accounts as account_health
from proxy.engine.dispatcher import Dispatcher
from proxy.engine.live_job import LiveJob
from proxy.engine.policy import Policy
from proxy.jobs.conversion import job_of_request
from proxy.jobs.models import Job, JobRequest, JobState
from proxy.runtime.backoff import Backoff
from proxy.runtime.supervisor import Supervisor
from proxy.simulator import Simulator
from proxy.translate.errors import LocalError

SUBMIT = "POST /api/prompt"


async def test_what_has_no_slot_waits_with_us_and_goes_in_its_turn(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        running, _ = await rig.submit(gated.GRAPH)
        waiting = [(await rig.submit(graphs.plain(color)))[0] for color in range(3)]
        assert len(simulator.jobs) == 1
        await until(lambda: _are(rig.waiting(), [job.prompt_id for job in waiting]))
        assert all(job.content is None for job in waiting), "it is in the storage alone"
        opened.set()
        for job in (running, *waiting):
            await rig.ended(job)
    marks = [job.extra_data["comfy_cloud_proxy"] for job in simulator.jobs.values()]
    assert marks == [job.mark for job in (running, *waiting)]


async def _are(found: object, expected: list[str]) -> bool:
    return await found == expected  # type: ignore[misc]


@pytest.mark.parametrize("refusal", ["PAYMENT_REQUIRED", "QUEUE_LIMIT", "UNAVAILABLE"])
async def test_a_job_keeps_its_place_while_the_account_rests(
    simulator: Simulator,
    tmp_path: Path,
    opened: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
    refusal: str,
) -> None:
    for reason in account_health.RESTS:
        monkeypatch.setitem(account_health.RESTS, reason, Backoff(0.1, 1.0))
    async with running_engine(simulator, tmp_path) as rig:
        await rig.submit(gated.GRAPH)
        first, second = [(await rig.submit(graphs.plain(color)))[0] for color in range(2)]
        simulator.switches.update({"refuse_prompt": refusal})
        opened.set()
        await simulator.wait_for_calls(SUBMIT, 3)
        simulator.switches.refuse_prompt = None
        await rig.ended(first)
        await rig.ended(second)
    marks = [job.extra_data["comfy_cloud_proxy"] for job in simulator.jobs.values()]
    assert marks[1:] == [first.mark, second.mark]


async def test_all_jobs_go_once_the_first_has_shown_that_the_account_is_well_again(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(account_health.RESTS, "unreachable", Backoff(0.1, 0.1))
    simulator.switches.refuse_prompt = "UNAVAILABLE"
    waiting = [
        job_of_request(LiveJob, "local", JobRequest(gated.GRAPH), prompt_id=name) for name in "ab"
    ]
    for left in waiting:
        left.state, left.accepted = JobState.QUEUED, True
    async with running_engine(simulator, tmp_path, *waiting, slots=2, submit_timeout=0.0):
        await simulator.wait_for_calls(SUBMIT, 2)
        simulator.switches.refuse_prompt = None
        await until(lambda: len(simulator.jobs) == 2)


async def test_a_new_job_tries_a_resting_account_and_tells_its_client_why_it_rests(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        running, _ = await rig.submit(gated.GRAPH)
        waiting, _ = await rig.submit(graphs.plain())
        simulator.switches.refuse_prompt = "PAYMENT_REQUIRED"
        opened.set()
        await simulator.wait_for_calls(SUBMIT, 2)
        await rig.ended(running)
        new, answer = await rig.submit(graphs.plain(1))
        assert answer.error.type == "PAYMENT_REQUIRED"
        assert await rig.is_gone(new)
        await until(lambda: _are(rig.waiting(), [waiting.prompt_id]))


async def test_a_job_moves_to_the_account_that_takes_it(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with (
        Simulator(extra_nodes=[gated.gate(opened)]) as other,
        running_engine(simulator, tmp_path, others=(other,)) as rig,
    ):
        for _ in range(2):
            await rig.submit(gated.GRAPH)
        assert (len(simulator.jobs), len(other.jobs)) == (1, 1)
        waiting = [(await rig.submit(graphs.plain(color)))[0] for color in range(3)]
        simulator.switches.refuse_prompt = "PAYMENT_REQUIRED"
        opened.set()
        for job in waiting:
            await rig.ended(job)
        assert (len(simulator.jobs), len(other.jobs)) == (1, 4)


async def test_a_new_job_moves_on_within_its_request(simulator: Simulator, tmp_path: Path) -> None:
    simulator.switches.refuse_prompt = "PAYMENT_REQUIRED"
    async with (
        Simulator() as other,
        running_engine(simulator, tmp_path, others=(other,)) as rig,
    ):
        for color in range(2):
            job, answer = await rig.submit(graphs.plain(color))
            assert answer.error is None
            await rig.ended(job)
        assert (len(simulator.jobs), len(other.jobs)) == (0, 2)


class Life:
    """Notes which jobs have got a slot."""

    def __init__(self) -> None:
        self.jobs: asyncio.Queue[Job] = asyncio.Queue()

    async def run(self, job: Job) -> None:
        self.jobs.put_nowait(job)


@pytest.mark.parametrize("pause", [False, True], ids=["rest", "pause"])
async def test_a_rest_that_ends_while_the_dispatcher_looks_is_not_missed(
    monkeypatch: pytest.MonkeyPatch, pause: bool
) -> None:
    """A timer may fire a little early, as those of uvloop do: the rest ends during the look."""
    world, life, supervisor = World(), Life(), Supervisor()
    stubs: tuple[Any, Any] = (world.news, life)
    dispatcher = Dispatcher(
        world.term,
        world.table,
        world.scheduler,
        world.forecast,
        *stubs,
        supervisor,
        Policy(unable_timeout=60.0),
    )
    unable = world.forecast.unable

    def look_slowly(job: Job) -> tuple[float, LocalError] | None:
        time.sleep(max(0.0, ends - time.monotonic()))
        return unable(job)

    monkeypatch.setattr(world.forecast, "unable", look_slowly)
    ends = time.monotonic() + 0.05
    if pause:
        world.scheduler.paused_until = ends
    else:
        health = world.accounts["one"].health
        health.failed("unreachable", ends - account_health.RESTS["unreachable"].whole(1))
        assert health.until == pytest.approx(ends)
    waiting = world.add(job())
    supervisor.keep(dispatcher.run, "dispatch jobs")
    assert await asyncio.wait_for(life.jobs.get(), TIMEOUT) is waiting
    await supervisor.close()
