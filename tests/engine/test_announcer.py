"""An engine tells and counts what becomes of jobs, as long as its term lasts."""

from __future__ import annotations

import pytest
from engine.worlds import World
from jobs.samples import job

from proxy.costs.job_cost import Charge, JobCost
from proxy.engine.live_job import JobChanges
from proxy.jobs.conversion import stored_of
from proxy.jobs.messages import JobAnswered, JobChanged, JobLeft, JobNews, JobsAhead
from proxy.jobs.models import JobEnd, JobState
from proxy.translate.errors import LocalError


@pytest.fixture
def world() -> World:
    return World()


def end_of(*charges: Charge) -> JobEnd:
    """The end of a job that has run for 2 s."""
    return JobEnd("completed", {}, {"messages": []}, {}, 1000, 3000, cost=JobCost(charges))


def test_an_engine_whose_term_is_over_says_and_counts_nothing(world: World) -> None:
    live_job = job(state=JobState.RUNNING, accepted=True, account="one")
    world.term.end()
    world.announcer.changed(live_job)
    world.announcer.advanced(live_job, JobState.SUBMITTED, was_shown=False, answers=True)
    world.announcer.ended(live_job, end_of())
    world.announcer.discarded(live_job)
    assert world.received == []
    assert world.counted("jobs_accepted_total", member="anna") is None


def test_what_becomes_of_a_job_is_published_and_counted_once(world: World) -> None:
    live_job = job(accepted=True, account="one")
    world.announcer.advanced(live_job, JobState.SUBMITTED, was_shown=False, answers=True)
    world.announcer.ended(live_job, end_of())
    world.announcer.discarded(job("two", accepted=False))
    assert [type(news) for news in world.received] == [JobChanged, JobAnswered, JobLeft, JobLeft]
    assert world.counted("jobs_accepted_total", member="anna") == 1
    ended = {"member": "anna", "account": "one"}
    assert world.counted("jobs_ended_total", **ended, outcome="completed") == 1
    assert world.counted("jobs_ended_total", **ended, outcome="withdrawn") is None
    assert world.counted("job_wait_seconds_count", **ended) == 1
    assert world.counted("job_running_seconds_sum", **ended) == 2


def test_costs_are_counted_in_credits_by_class_and_source(world: World) -> None:
    gpu, flux = Charge("", "estimated", 270_000), Charge("Flux", "reported", 8_400_000, 1)
    charges = gpu, flux, Charge("Dear", "unknown", 0, 2)
    for _ in range(2):
        world.announcer.ended(job(account="one"), end_of(*charges))
    labels = {"member": "anna", "account": "one"}
    for charge, amount in ((gpu, 0.54), (flux, 16.8)):
        of_class = {"node_class": charge.node_class, "source": charge.source}
        found = world.counted("credits_used_total", **labels, **of_class)
        assert found == pytest.approx(amount)
    assert world.counted("unknown_costs_total", **labels, node_class="Dear") == 4


def answers(world: World) -> list[JobNews]:
    return [news for news in world.received if isinstance(news, JobAnswered)]


def test_a_client_has_one_answer_once_its_job_is_accepted(world: World) -> None:
    live_job = world.add(job(accepted=False, state=JobState.RECEIVED))
    world.table.advance(live_job, JobState.SUBMITTING)
    assert answers(world) == []
    omitted = {"2": {"errors": []}}
    world.table.advance(live_job, JobState.SUBMITTED, JobChanges(accepted=True, omitted=omitted))
    world.table.advance(live_job, JobState.RUNNING, JobChanges(accepted=True))
    assert answers(world) == [JobAnswered(live_job.key, omitted)]


def test_a_refusal_names_its_job(world: World) -> None:
    refusal = LocalError("refused", "No.")
    world.announcer.refuse(job("two").key, refusal)
    assert answers(world) == [JobAnswered(job("two").key, error=refusal)]


def test_how_many_go_before_is_published_when_that_changes(world: World) -> None:
    for count in (0, 1, 1, 0):
        world.announcer.announce_ahead("ben", count, tell=True)
    assert world.received == [JobsAhead("ben", 1, True), JobsAhead("ben", 0, True)]


@pytest.mark.parametrize(
    ("state", "tell"),
    [
        (None, False),
        (JobState.SUBMITTING, False),
        (JobState.UNKNOWN, True),
        (JobState.SUBMITTED, True),
        (JobState.RUNNING, True),
    ],
)
def test_sockets_hear_of_the_queue_when_a_job_goes_on(
    world: World, state: JobState | None, tell: bool
) -> None:
    live_job = job(accepted=True, state=state or JobState.QUEUED)
    world.announcer.advanced(live_job, state, was_shown=True, answers=False)
    assert world.received == [JobChanged(stored_of(live_job), tell=tell)]
