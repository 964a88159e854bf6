"""A job goes only where the table of transitions allows it, and nobody forgets to tell of it."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from engine.worlds import World
from jobs.hearing import Told
from jobs.samples import job
from msgspec.structs import replace

from proxy.costs.job_cost import Charge, JobCost
from proxy.engine.table import MAX_PREVIEW_BYTES
from proxy.jobs.models import TRANSITIONS, JobEnd, JobState, TransitionError, Wish
from proxy.storage.database import StorageError
from proxy.translate.errors import LocalError
from proxy.translate.events import Event, Preview, with_metadata

END = JobEnd("completed", {}, {"messages": []}, {}, 1000, 3000)
ANNA = {"member": "anna", "account": "one"}


@pytest.fixture
def world() -> World:
    return World()


def published(world: World) -> list[tuple[str, Any]]:
    return [(told.what, told.state) for told in world.received if told.what in ("changed", "left")]


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
    world.table.advance(live_job, JobState.SUBMITTED, cloud_id="c")
    assert (live_job.state, live_job.cloud_id) == (JobState.SUBMITTED, "c")
    assert world.recorder.noted == [("one", JobState.SUBMITTED)]
    assert published(world) == [("changed", JobState.SUBMITTED)]
    waited = {"member": "anna", "account": "one"}
    assert world.counted("job_wait_seconds_count", **waited) == 1


def test_a_job_that_its_client_does_not_know_of_is_recorded_and_not_published(world: World) -> None:
    live_job = world.add(job(state=JobState.RECEIVED, accepted=False))
    world.table.advance(live_job, JobState.SUBMITTING)
    assert world.recorder.noted == [("one", JobState.SUBMITTING)]
    assert published(world) == []
    world.table.advance(live_job, JobState.UNKNOWN)
    assert published(world) == [("changed", JobState.UNKNOWN)]


def test_a_job_is_counted_when_its_client_learns_of_it(world: World) -> None:
    live_job = world.add(job(state=JobState.RECEIVED, accepted=False))
    world.table.advance(live_job, JobState.QUEUED, accepted=True)
    world.table.advance(live_job, JobState.SUBMITTING)
    assert world.counted("jobs_accepted_total", member="anna") == 1


async def test_a_wish_to_cancel_takes_a_job_out_of_sight_at_once(world: World) -> None:
    live_job = world.add(job(state=JobState.SUBMITTING, accepted=True))
    world.received.clear()
    world.table.advance(live_job, wish=Wish.CANCEL)
    assert (world.heard.live.shown(), list(world.table)) == ([], [live_job])
    world.table.advance(live_job, JobState.SUBMITTED, cloud_id="c")
    assert published(world) == [("left", None)]
    withdrawn = {"member": "anna", "account": "", "outcome": "withdrawn"}
    assert world.counted("jobs_ended_total", **withdrawn) is None  # it may have begun
    await world.table.discard(live_job)
    assert world.counted("jobs_ended_total", **withdrawn) == 1
    assert published(world) == [("left", None)]


def test_why_a_job_waits_is_published_when_that_changes(world: World) -> None:
    live_job = world.add(job(accepted=True, state=JobState.UNKNOWN))
    world.received.clear()
    for reason in ("no_credits", "no_credits", None):
        world.table.show(live_job, reason=reason)
    reasons = [told.reason for told in world.received if told.what == "changed"]
    assert reasons == ["no_credits", None]


async def test_the_history_has_a_job_before_it_leaves_the_queue(world: World) -> None:
    live_job = world.add(job(state=JobState.RUNNING, accepted=True, account="one"))
    world.received.clear()
    await world.table.finish(live_job, END)
    assert world.recorder.ended == ["one"]
    assert world.received == [Told("recorded", "one", forgotten=("forgotten",))]
    assert live_job in world.table
    world.table.leave(live_job, END)
    assert live_job not in world.table
    assert published(world) == [("left", None)]
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
    assert published(world) == [("left", None)]


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
    world.table.advance(sent, JobState.SUBMITTED, cloud_id="b")
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


async def test_an_engine_whose_term_is_over_says_and_counts_nothing(world: World) -> None:
    live_job = world.add(job(state=JobState.SUBMITTING, accepted=False, account="one"))
    answer = live_job.awaited_answer()
    world.received.clear()
    world.term.end()
    world.table.advance(live_job, JobState.SUBMITTED, accepted=True)
    world.table.leave(live_job, END)
    assert (world.received, answer.done()) == ([], False)
    assert world.counted("jobs_accepted_total", member="anna") is None
    assert world.counted("jobs_ended_total", **ANNA, outcome="completed") is None


def test_costs_are_counted_in_credits_by_class_and_source(world: World) -> None:
    gpu, flux = Charge("", "estimated", 270_000), Charge("Flux", "reported", 8_400_000, 1)
    charges = gpu, flux, Charge("Dear", "unknown", 0, 2)
    for id_ in "ab":
        world.table.leave(world.add(job(id_, account="one")), replace(END, cost=JobCost(charges)))
    for charge, amount in ((gpu, 0.54), (flux, 16.8)):
        of_class = {"node_class": charge.node_class, "source": charge.source}
        found = world.counted("credits_used_total", **ANNA, **of_class)
        assert found == pytest.approx(amount)
    assert world.counted("unknown_costs_total", **ANNA, node_class="Dear") == 4


async def test_a_client_has_one_answer_once_its_job_is_accepted(world: World) -> None:
    live_job = world.add(job(accepted=False, state=JobState.RECEIVED))
    answer = live_job.awaited_answer()
    world.table.advance(live_job, JobState.SUBMITTING)
    assert not answer.done()
    omitted = {"2": {"errors": []}}
    world.table.advance(live_job, JobState.SUBMITTED, accepted=True, omitted=omitted)
    world.table.advance(live_job, JobState.RUNNING, accepted=True)
    world.table.answer(live_job, LocalError("refused", "No."))
    assert answer.result() == omitted


def test_how_many_go_before_is_told_when_that_changes(world: World) -> None:
    for count in (0, 1, 1, 0):
        world.table.announce_ahead("ben", count, tell=True)
    assert [(told.about, told.count) for told in world.received] == [("ben", 1), ("ben", 0)]


@pytest.mark.parametrize(
    ("before", "state", "tell"),
    [
        (JobState.QUEUED, None, False),
        (JobState.QUEUED, JobState.SUBMITTING, False),
        (JobState.SUBMITTING, JobState.UNKNOWN, True),
        (JobState.SUBMITTING, JobState.SUBMITTED, True),
        (JobState.SUBMITTED, JobState.RUNNING, True),
    ],
)
def test_sockets_hear_of_the_queue_when_a_job_goes_on(
    world: World, before: JobState, state: JobState | None, tell: bool
) -> None:
    live_job = world.add(job(accepted=True, state=before))
    world.received.clear()
    world.table.advance(live_job, state)
    assert world.received == [Told("changed", "one", state or before, tell=tell)]


@pytest.mark.parametrize(("size", "kept"), [(10, True), (MAX_PREVIEW_BYTES + 1, False)])
def test_the_last_preview_is_kept_unless_it_is_large(world: World, size: int, kept: bool) -> None:
    live_job = world.follow(job(state=JobState.RUNNING)).job
    preview = Preview("p", "1", "1", None, "1", bytes(size), "image/jpeg")
    world.table.message(live_job, preview)
    assert (live_job.preview == preview) is kept


def test_each_message_has_the_metadata_of_its_job(world: World) -> None:
    live_job = world.follow(job(state=JobState.RUNNING)).job
    event, live_job.metadata = Event("executing", {"node": "1"}), {"workflow_id": "w"}
    world.table.message(live_job, event)
    told = with_metadata(event, live_job.metadata)
    assert world.received[-1] == Told("message", "one", message=told)
    assert told != event
