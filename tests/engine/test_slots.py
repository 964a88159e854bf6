"""The health of accounts follows what happens to jobs, and the dispatcher is woken."""

from __future__ import annotations

import pytest
from engine.worlds import World
from jobs.samples import job

from proxy.engine.accounts import Account
from proxy.engine.outcomes import Elsewhere, NotNow, Refused, Sent
from proxy.jobs.models import Job, JobState
from proxy.translate.errors import LocalError

WHY = LocalError("refused", "No.")


@pytest.fixture
def world() -> World:
    return World()


def account(world: World) -> Account:
    return world.accounts["one"]


def placed(world: World) -> Job:
    """A job that has the only slot."""
    live_job = job()
    assert world.scheduler.assign_at_once(live_job)
    world.turn.clear()
    return live_job


def test_a_new_job_has_a_slot_only_where_one_is_free(world: World) -> None:
    placed(world)
    assert not world.scheduler.assign_at_once(job("two"))


def waiting(world: World, prompt_id: str = "waiting") -> Job:
    """A job that waits."""
    live_job = job(prompt_id)
    world.scheduler.enqueue(live_job)
    world.turn.clear()
    return live_job


def test_a_slot_is_freed_once_and_wakes_the_dispatcher(world: World) -> None:
    live_job = placed(world)
    waiting(world)
    world.scheduler.free(live_job)
    assert world.turn.is_set()
    world.turn.clear()
    world.scheduler.free(live_job)
    assert not world.turn.is_set()
    assert world.scheduler.used("one") == 0


def test_nobody_is_woken_while_nothing_waits(world: World) -> None:
    live_job = placed(world)
    world.scheduler.free(live_job)
    assert not world.turn.is_set()


def test_the_dispatcher_hears_that_the_last_job_no_longer_waits(world: World) -> None:
    world.scheduler.dequeue(waiting(world))
    assert world.turn.is_set()


def test_a_job_that_has_not_gone_has_neither_slot_nor_account(world: World) -> None:
    live_job = placed(world)
    waiting(world)
    world.scheduler.give_back(live_job)
    assert (live_job.account, live_job.charge, world.scheduler.used("one")) == ("", 0.0, 0)
    assert world.turn.is_set()
    world.scheduler.give_back(live_job)


def test_what_a_client_sent_is_not_in_memory_while_its_job_waits(world: World) -> None:
    live_job = job()
    world.scheduler.enqueue(live_job)
    assert live_job.content is None
    assert live_job in world.scheduler.queue


def test_a_fault_of_the_account_lets_it_rest_and_an_answer_about_the_job_does_not(
    world: World,
) -> None:
    live_job = placed(world)
    world.scheduler.judge(live_job, Elsewhere(WHY, "no_credits"))
    assert account(world).health.reason == "no_credits"
    world.scheduler.judge(live_job, Refused(WHY, by_cloud=False))
    world.scheduler.judge(live_job, NotNow())
    assert account(world).health.reason == "no_credits"
    world.scheduler.judge(live_job, Refused(WHY))
    assert account(world).health.well


def test_a_job_that_was_taken_makes_its_account_well(world: World) -> None:
    live_job = placed(world)
    world.scheduler.judge(live_job, Elsewhere(WHY, "unreachable"))
    world.scheduler.judge(live_job, Sent("c"))
    assert account(world).health.well


def test_a_job_keeps_its_slot_over_a_restart(world: World) -> None:
    live_job = job(state=JobState.RUNNING, account="one")
    world.scheduler.keep(live_job)
    assert world.scheduler.used("one") == 1


def test_a_refused_key_suspends_the_account_and_wakes_the_dispatcher(world: World) -> None:
    placed(world)
    live_job = waiting(world)
    world.scheduler.set_aside("one", "dead_key", WHY)
    assert world.turn.is_set()
    found = world.forecast.unable(live_job)
    assert found is not None
    assert found[1].body() == WHY.body()
    world.scheduler.key_accepted("one")
    assert account(world).health.well
    assert world.forecast.unable(live_job) is None


def test_an_accepted_key_says_nothing_of_other_troubles(world: World) -> None:
    live_job = placed(world)
    world.scheduler.judge(live_job, Elsewhere(WHY, "no_credits"))
    world.scheduler.key_accepted("one")
    assert account(world).health.reason == "no_credits"
