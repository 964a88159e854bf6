"""What another engine had when it died is found, and nothing is sent twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import gated
import graphs
import pytest
from engine.rig import running_engine
from structlog.testing import capture_logs
from waiting import until

from proxy.cloud import client as cloud_client
from proxy.cloud.resilience import ONCE
from proxy.engine.live_job import LiveJob
from proxy.jobs.conversion import job_of_request
from proxy.jobs.models import Job, JobRequest, JobState, Wish, is_shown
from proxy.simulator import HttpFault, Simulator
from proxy.translate import codec


def left(state: JobState, *, wish: Wish = Wish.NONE, **fields: object) -> Job:
    """A job that an engine had in this state when it died."""
    job = job_of_request(LiveJob, "local", JobRequest(graphs.plain(1)), prompt_id="left")
    job.state, job.accepted, job.account = state, True, "default"
    job.wish = wish
    for name, value in fields.items():
        setattr(job, name, value)
    return job


async def put_on_the_cloud(
    simulator: Simulator, session: aiohttp.ClientSession, job: Job, **graph: object
) -> str:
    url = simulator.base_url / "api/prompt"
    body = {"prompt": graph or job.graph, "extra_data": {"comfy_cloud_proxy": job.mark}}
    async with session.post(url, json=body, headers={"X-API-Key": simulator.key}) as answer:
        assert answer.status == 200
        return str((await answer.json())["prompt_id"])


@pytest.mark.parametrize("state", [JobState.RECEIVED, JobState.QUEUED])
async def test_what_had_not_gone_goes_now(
    simulator: Simulator, tmp_path: Path, state: JobState
) -> None:
    job = left(state, accepted=state is JobState.QUEUED, account="")
    async with running_engine(simulator, tmp_path, job) as rig:
        assert (await rig.ended(job)).state == "succeeded"
    assert len(simulator.jobs) == 1


async def test_what_the_cloud_has_is_found_by_its_mark_and_not_sent_again(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    job = left(JobState.SUBMITTING)
    await put_on_the_cloud(simulator, session, job)
    async with running_engine(simulator, tmp_path, job) as rig:
        assert (await rig.ended(job)).state == "succeeded"
    assert len(simulator.jobs) == 1


async def test_what_the_cloud_does_not_have_for_certain_goes_again(
    simulator: Simulator, tmp_path: Path
) -> None:
    job = left(JobState.UNKNOWN)
    async with running_engine(simulator, tmp_path, job, adoption_timeout=0.0) as rig:
        assert (await rig.ended(job)).state == "succeeded"
    assert len(simulator.jobs) == 1


async def test_what_had_given_its_slot_back_is_not_looked_for(
    simulator: Simulator, tmp_path: Path
) -> None:
    job = left(JobState.UNKNOWN, account="")
    async with running_engine(simulator, tmp_path, job, adoption_timeout=3600.0) as rig:
        assert (await rig.ended(job)).state == "succeeded"
    assert len(simulator.jobs) == 1


async def test_nothing_is_certain_while_the_account_cannot_be_read(
    simulator: Simulator, tmp_path: Path
) -> None:
    job = left(JobState.UNKNOWN)
    broken = simulator.faults.add(HttpFault("GET /api/jobs*", status=500), times=None)
    async with running_engine(simulator, tmp_path, job, adoption_timeout=0.0) as rig:
        await simulator.signal.until(lambda: broken.happened > 1, 30)
        assert simulator.jobs == {}
        simulator.faults.remove(broken)
        await rig.ended(job)
    assert len(simulator.jobs) == 1


async def test_nothing_is_certain_while_the_list_is_cut_off(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, other = (
        left(JobState.UNKNOWN),
        job_of_request(LiveJob, "ben", JobRequest({}), prompt_id="other"),
    )
    await put_on_the_cloud(simulator, session, job)
    for number in range(2, 5):
        await put_on_the_cloud(simulator, session, other, **graphs.plain(number))
    monkeypatch.setattr(cloud_client, "_PAGE_SIZE", 1)
    monkeypatch.setattr(cloud_client, "_MAX_PAGES", 2)
    with capture_logs() as lines:
        async with running_engine(simulator, tmp_path, job, adoption_timeout=0.0) as rig:
            await until(lambda: "unanswered_job_read_failed" in [line["event"] for line in lines])
            monkeypatch.setattr(cloud_client, "_MAX_PAGES", 25)
            assert (await rig.ended(job)).state == "succeeded"
    assert len(simulator.jobs) == 4


async def test_what_cannot_be_found_in_a_list_that_is_cut_off_ends_as_lost(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud_client, "_MAX_PAGES", 0)
    job = left(JobState.UNKNOWN)
    policy = {"adoption_timeout": 0.0, "lost_timeout": 0.1}
    async with running_engine(simulator, tmp_path, job, **policy) as rig:
        entry = await rig.ended(job)
    _, error = codec.loads(entry.result)["status"]["messages"][-1]
    assert "too many newer jobs" in error["exception_message"]
    assert simulator.jobs == {}


async def test_what_no_client_wants_any_more_is_not_sent_again(
    simulator: Simulator, tmp_path: Path
) -> None:
    job = left(JobState.UNKNOWN, wish=Wish.CANCEL)
    async with running_engine(simulator, tmp_path, job, adoption_timeout=0.0) as rig:
        await until(lambda: rig.is_gone(job))
    assert simulator.jobs == {}


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.SUBMITTING, JobState.UNKNOWN])
async def test_an_interrupt_survives_the_engine(
    simulator: Simulator, tmp_path: Path, state: JobState
) -> None:
    job = left(state, wish=Wish.INTERRUPT)
    async with running_engine(simulator, tmp_path, job, adoption_timeout=0.0) as rig:
        assert (await rig.ended(job)).state == "cancelled"
        assert "execution_interrupted" in rig.messages_of(job)
    assert simulator.jobs == {}


async def test_an_interrupt_survives_the_engine_while_the_cloud_has_the_job(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    job = left(JobState.SUBMITTING, wish=Wish.INTERRUPT)
    job.loaded.graph = gated.GRAPH
    await put_on_the_cloud(simulator, session, job)
    async with running_engine(simulator, tmp_path, job) as rig:
        assert (await rig.ended(job)).state == "cancelled"
    assert [there.status for there in simulator.jobs.values()] == ["cancelled"]


async def test_an_interrupt_survives_a_cloud_that_does_not_cancel_at_once(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    job = left(JobState.SUBMITTING, wish=Wish.INTERRUPT)
    job.loaded.graph = gated.GRAPH
    await put_on_the_cloud(simulator, session, job)
    simulator.faults.add(HttpFault("POST /api/jobs*", status=500), times=3)
    async with running_engine(simulator, tmp_path, job, retries=ONCE) as rig:
        assert (await rig.ended(job)).state == "cancelled"


@pytest.mark.parametrize("state", [JobState.SUBMITTING, JobState.UNKNOWN])
async def test_what_is_shown_without_an_answer_goes_again_where_the_cloud_does_not_have_it(
    simulator: Simulator, tmp_path: Path, state: JobState
) -> None:
    job = left(state, accepted=False)
    broken = simulator.faults.add(HttpFault("GET /api/jobs*", status=500), times=None)
    async with running_engine(simulator, tmp_path, job, adoption_timeout=0.0) as rig:
        await simulator.signal.until(lambda: broken.happened > 1, 30)
        assert is_shown(rig.live(job))
        simulator.faults.remove(broken)
        assert (await rig.ended(job)).state == "succeeded"
    assert len(simulator.jobs) == 1


@pytest.mark.parametrize("account", ["default", "former"])
async def test_a_running_job_is_followed_to_its_end_wherever_it_is(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    opened: asyncio.Event,
    account: str,
) -> None:
    job = left(JobState.RUNNING, account=account, started_at=1)
    job.loaded.graph = gated.GRAPH
    job.cloud_id = await put_on_the_cloud(simulator, session, job)
    async with running_engine(simulator, tmp_path, job) as rig:
        opened.set()
        assert (await rig.ended(job)).state == "succeeded"
    assert len(simulator.jobs) == 1


async def test_a_running_job_that_was_cancelled_meanwhile_ends_as_interrupted(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    job = left(JobState.RUNNING, wish=Wish.CANCEL, started_at=1)
    job.loaded.graph = gated.GRAPH
    job.cloud_id = await put_on_the_cloud(simulator, session, job)
    await simulator.signal.until(lambda: simulator.jobs[job.cloud_id].status == "in_progress", 30)
    async with running_engine(simulator, tmp_path, job) as rig:
        assert (await rig.ended(job)).state == "cancelled"


async def test_a_job_whose_account_is_gone_says_so_and_ends_as_lost(
    simulator: Simulator, tmp_path: Path
) -> None:
    job = left(JobState.RUNNING, account="old", cloud_id="gone", started_at=1)
    async with running_engine(simulator, tmp_path, job, lost_timeout=1.0) as rig:
        entry = await rig.ended(job)
    assert "no_account" in [told.reason for told in rig.heard.news]
    _, error = codec.loads(entry.result)["status"]["messages"][-1]
    assert error["exception_type"] == "JobLost"
    assert "account old" in error["exception_message"]
