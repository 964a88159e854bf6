"""Which account gets a job where several have what it names, and what keeps one from a
deployment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from jobs.samples import job
from stopped_clock import StoppedClock

from proxy.catalog.owners import Needs
from proxy.engine.accounts import PASSING, UNABLE, Account, Eligibility, Slots
from proxy.engine.forecast import Forecast
from proxy.engine.outcomes import Discard, Elsewhere, TryOther, Wait, next_step
from proxy.engine.scheduler import Scheduler
from proxy.engine.submitter import fault_of
from proxy.members.member import Member
from proxy.translate.errors import LocalError, from_cloud
from proxy.translate.v2.submissions import refusal_of

WHY = LocalError("refused", "No.")


def scheduler(clock: StoppedClock, first: str | None = None, **deployment: Any) -> Scheduler:
    """Of an account of the cloud and a deployment."""
    cloud: Any = None
    eligibility = Eligibility(cost=1, validates=False, **deployment)
    accounts = {
        "cloud": Account("cloud", cloud, "", slots=Slots(1)),
        "studio": Account("studio", cloud, "", slots=Slots(1), eligibility=eligibility),
    }
    return Scheduler(
        accounts,
        lambda name: Member(name, account=first),
        "jobs",
        clock=clock.monotonic,
        turn=asyncio.Event(),
    )


def chosen(jobs: Scheduler, needs: Needs | None = None) -> str | None:
    """The account that a new job gets."""
    one = job(account="", needs=needs)
    return one.account if jobs.assign_at_once(one) else None


def test_the_cheaper_one_comes_first_and_is_waited_for() -> None:
    jobs = scheduler(StoppedClock(100.0))
    assert [chosen(jobs), chosen(jobs)] == ["cloud", None]


def test_a_deployment_gets_what_it_alone_has() -> None:
    assert (
        chosen(scheduler(StoppedClock(100.0)), Needs(frozenset({"studio"}), "AddFrame")) == "studio"
    )


def test_a_deployment_gets_jobs_while_the_cheaper_one_takes_none() -> None:
    clock = StoppedClock(100.0)
    jobs = scheduler(clock)
    jobs._accounts["cloud"].health.failed("no_credits", clock.at)
    assert chosen(jobs) == "studio"


def test_a_deployment_for_certain_members_comes_first_for_these() -> None:
    jobs = scheduler(StoppedClock(100.0), members=("anna",))
    assert chosen(jobs) == "studio"


def test_an_account_that_the_members_settings_name_comes_before_all() -> None:
    assert chosen(scheduler(StoppedClock(100.0), first="studio")) == "studio"
    assert chosen(scheduler(StoppedClock(100.0), first="cloud", members=("anna",))) == "cloud"


def test_a_named_account_counts_where_it_has_everything_and_takes_jobs() -> None:
    jobs = scheduler(StoppedClock(100.0), first="studio")
    assert chosen(jobs, Needs(frozenset({"cloud"}), "own.safetensors")) == "cloud"
    clock = StoppedClock(100.0)
    jobs = scheduler(clock, first="studio")
    jobs._accounts["studio"].health.failed("stopped", clock.at)
    assert chosen(jobs) == "cloud"
    assert chosen(scheduler(StoppedClock(100.0), first="no account")) == "cloud"


def test_what_none_has_any_longer_goes_to_who_checks_before_charging() -> None:
    needs = Needs(frozenset({"gone"}), "AddFrame")
    assert [
        account.name for account in scheduler(StoppedClock(100.0)).usable(job(needs=needs))
    ] == ["cloud"]


@pytest.mark.parametrize("fault", sorted(PASSING))
def test_a_new_job_waits_for_what_passes_by_itself(fault: Any) -> None:
    outcome = Elsewhere(WHY, fault)
    assert next_step(job(accepted=False), outcome) == Wait()
    assert next_step(job(accepted=False), outcome, has_other=True) == TryOther()


def test_a_stopped_deployment_refuses_a_new_job() -> None:
    assert next_step(job(accepted=False), Elsewhere(WHY, "stopped")) == Discard(WHY)
    assert "stopped" in UNABLE


def test_a_job_that_waits_for_a_deployment_says_which_and_how_long() -> None:
    clock = StoppedClock(100.0)
    jobs = scheduler(clock)
    jobs._accounts["studio"].health.failed("starting", clock.at, refusal=WHY)
    clock.at += 130.0
    waiting = job(account="", needs=Needs(frozenset({"studio"}), "AddFrame"))
    jobs.enqueue(waiting)
    assert list(Forecast(jobs).waiting("anna", [waiting])) == [
        (waiting, "starting", "studio is starting, 2 min")
    ]


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [
        (401, "unauthorized", "dead_key"),
        (402, "insufficient_credits", "no_credits"),
        (403, "forbidden", "dead_key"),
        (422, "deployment_stopped", "stopped"),
        (429, "deployment_not_ready", "starting"),
        (429, "queue_full", "busy"),
        (422, "invalid_workflow", None),
    ],
)
def test_refusals_set_the_account_aside_and_say_what_to_do(
    status: int, code: str, fault: str | None
) -> None:
    body = refusal_of(status, {"error": {"code": code, "message": "No."}})
    assert fault_of(status, body) == fault
    message = from_cloud(status, body).message
    assert (": " in message) == (fault is not None), message
