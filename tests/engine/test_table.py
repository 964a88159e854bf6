"""A job goes only where the table of transitions allows it, and nobody forgets to tell of it."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from engine.worlds import World
from jobs.samples import job

from proxy.engine.live_job import JobChanges
from proxy.jobs.messages import JobChanged, JobLeft, JobRecorded
from proxy.jobs.models import TRANSITIONS, JobEnd, JobState, TransitionError, Wish
from proxy.storage.database import StorageError

END = JobEnd("completed", {}, {"messages": []}, {}, 1000, 3000)


@pytest.fixture
def world() -> World:
    return World()


def published(world: World) -> list[tuple[str, Any]]:
    return [
        (type(message).__name__, message.job.state if isinstance(message, JobChanged) else None)
        for message in world.received
        if isinstance(message, JobChanged | JobLeft)
    ]


@pytest.mark.parametrize(("before", "after"), list(product(JobState, JobState)))
def test_only_what_the_table_of_transitions_has_is_allowed(
    world: World, before: JobState, after: JobState
) -> None:
    live_job = job(state=before)
    if after in TRANSITIONS[before]:
        world.table.advance(live_job, after)
        assert live_job.state is after
    else:
        with pytest.raises(TransitionError, match="cannot become"):
            world.table.advance(live_job, after)
        assert live_job.state is before
        assert world.recorder.noted == []
        assert world.received == []


def test_a_change_of_state_is_recorded_and_published_with_all_that_changes(world: World) -> None:
    live_job = job(state=JobState.SUBMITTING, accepted=True, account="one")
    world.table.add(live_job)
    world.received.clear()
    world.table.advance(live_job, JobState.SUBMITTED, JobChanges(cloud_id="c"))
    assert (live_job.state, live_job.cloud_id) == (JobState.SUBMITTED, "c")
    assert world.recorder.noted == [("one", JobState.SUBMITTED)]
    assert published(world) == [("JobChanged", JobState.SUBMITTED)]
    waited = {"member": "anna", "account": "one"}
    assert world.counted("job_wait_seconds_count", **waited) == 1


def test_a_job_that_its_client_does_not_know_of_is_recorded_and_not_published(world: World) -> None:
    live_job = world.add(job(state=JobState.RECEIVED, accepted=False))
    world.table.advance(live_job, JobState.SUBMITTING)
    assert world.recorder.noted == [("one", JobState.SUBMITTING)]
    assert published(world) == []
    world.table.advance(live_job, JobState.UNKNOWN)
    assert published(world) == [("JobChanged", JobState.UNKNOWN)]


def test_a_job_is_counted_when_its_client_learns_of_it(world: World) -> None:
    live_job = world.add(job(state=JobState.RECEIVED, accepted=False))
    world.table.advance(live_job, JobState.QUEUED, JobChanges(accepted=True))
    world.table.advance(live_job, JobState.SUBMITTING)
    assert world.counted("jobs_accepted_total", member="anna") == 1


def test_a_wish_to_cancel_takes_a_job_out_of_sight_at_once(world: World) -> None:
    live_job = world.add(job(state=JobState.SUBMITTING, accepted=True))
    world.received.clear()
    world.table.advance(live_job, changes=JobChanges(wish=Wish.CANCEL))
    world.table.advance(live_job, JobState.SUBMITTED, JobChanges(cloud_id="c"))
    assert published(world) == [("JobLeft", None)]
    withdrawn = {"member": "anna", "account": "", "outcome": "withdrawn"}
    assert world.counted("jobs_ended_total", **withdrawn) == 1


def test_why_a_job_waits_is_published_when_that_changes(world: World) -> None:
    live_job = world.add(job(accepted=True, state=JobState.UNKNOWN))
    world.received.clear()
    for reason in ("no_credits", "no_credits", None):
        world.table.show(live_job, reason=reason)
    reasons = [news.progress.reason for news in world.received if isinstance(news, JobChanged)]
    assert reasons == ["no_credits", None]


async def test_the_history_has_a_job_before_it_leaves_the_queue(world: World) -> None:
    live_job = world.add(job(state=JobState.RUNNING, accepted=True, account="one"))
    world.received.clear()
    await world.table.finish(live_job, END)
    assert world.recorder.ended == ["one"]
    assert world.received == [JobRecorded(live_job.key, ("forgotten",))]
    assert live_job in world.table
    world.table.leave(live_job, END)
    assert live_job not in world.table
    assert published(world) == [("JobLeft", None)]
    ended = {"member": "anna", "account": "one"}
    assert world.counted("jobs_ended_total", **ended, outcome="completed") == 1
    assert world.counted("job_running_seconds_sum", **ended) == 2.0


async def test_a_job_whose_end_the_storage_refuses_is_where_it_was(world: World) -> None:
    live_job = world.add(job(state=JobState.RUNNING, accepted=True))
    world.recorder.refusals = 1
    with pytest.raises(StorageError):
        await world.table.finish(live_job, END)
    assert (live_job.state, world.recorder.ended) == (JobState.RUNNING, [])
    await world.table.finish(live_job, END)
    assert world.recorder.ended == ["one"]


async def test_a_job_that_is_discarded_leaves_no_trace(world: World) -> None:
    live_job = world.add(job(state=JobState.SUBMITTED, accepted=True, cloud_id="c"))
    world.received.clear()
    await world.table.discard(live_job)
    assert (live_job in world.table, world.recorder.discarded) == (False, ["one"])
    assert published(world) == [("JobLeft", None)]


async def test_a_job_that_leaves_does_not_take_a_new_one_with_its_id_along(world: World) -> None:
    former = world.add(job(state=JobState.RUNNING, accepted=True))
    latter = job(state=JobState.QUEUED, accepted=True)
    await world.table.finish(former, END)
    world.table.add(latter)
    world.table.leave(former, END)
    assert world.table.get(latter.key) is latter


async def test_the_id_on_the_cloud_of_a_live_job_is_known_whether_it_is_followed_or_not(
    world: World,
) -> None:
    taken_over = world.add(job(state=JobState.SUBMITTED, account="removed", cloud_id="a"))
    sent = world.add(job("two", state=JobState.SUBMITTING))
    world.table.advance(sent, JobState.SUBMITTED, JobChanges(cloud_id="b"))
    assert world.table.cloud_ids == {"a", "b"}
    await world.table.discard(taken_over)
    await world.table.finish(sent, END)
    world.table.leave(sent, END)
    assert not world.table.cloud_ids
    assert set(world.table.ended_ids) == {"a", "b"}


async def test_nor_does_one_that_is_discarded(world: World) -> None:
    former = world.add(job(state=JobState.QUEUED, accepted=True))
    latter = job(state=JobState.QUEUED, accepted=True)
    world.table.add(latter)
    await world.table.discard(former)
    assert world.table.get(latter.key) is latter


async def test_waiting_jobs_that_cannot_be_withdrawn_stay(world: World) -> None:
    live_job = world.add(job(accepted=True))
    world.received.clear()
    world.recorder.refusals = 1
    with pytest.raises(StorageError):
        await world.table.withdraw([live_job])
    assert live_job in world.table
    assert published(world) == []


@pytest.mark.parametrize("wanted", [["job.started"], []])
def test_a_start_is_announced_where_webhooks_want_it(world: World, wanted: list[str]) -> None:
    world.recorder.outbox.wanted = frozenset(wanted)
    live_job = job(state=JobState.SUBMITTED)
    world.table.add(live_job)
    world.table.advance(live_job, JobState.RUNNING)
    assert world.recorder.started_jobs == ["one"] * len(wanted)


async def test_nothing_is_shown_of_a_job_that_has_left(world: World) -> None:
    """A reading of the account that fails concerns all jobs that were live when it began."""
    live_job = job(state=JobState.RUNNING, accepted=True, account="one")
    world.table.add(live_job)
    await world.table.finish(live_job, END)
    world.table.leave(live_job, END)
    world.received.clear()
    world.table.show(live_job, reason="unreachable")
    assert world.received == []
