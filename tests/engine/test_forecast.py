"""When waiting jobs will go, and why they wait."""

from __future__ import annotations

import pytest
from engine.test_scheduler import scheduler
from jobs.samples import job

from proxy.catalog.owners import Needs
from proxy.costs.budgets import Budget, Budgets
from proxy.engine.accounts import Account, Slots
from proxy.engine.forecast import (
    RESTORED,
    WAITS_FOR_CLIENT,
    WAITS_FOR_MODEL,
    Forecast,
)
from proxy.engine.member_spending import MemberSpending
from proxy.members.member import Limits, Member
from proxy.translate.errors import LocalError


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (Member("anna", limits=Limits(max_running=0)), "limit"),
        (Member("anna", disabled=True), "disabled"),
        (Member("anna"), None),
    ],
)
def test_why_nothing_of_a_member_may_go(member: Member, reason: str | None) -> None:
    assert Forecast(scheduler(anna=member)).blocked("anna") == reason


def test_an_account_that_takes_no_jobs_is_why_they_wait() -> None:
    account = Account("one", None, "", slots=Slots(1))  # type: ignore[arg-type]
    jobs = scheduler(account)
    refusal = LocalError("no_credits", "There are no credits.")
    account.health.failed("no_credits", 100.0, refusal=refusal)
    waiting = job("a")
    jobs.queue.add(waiting)
    assert list(Forecast(jobs).waiting("anna", [waiting])) == [
        (waiting, "no_credits", "There are no credits.")
    ]
    until, why = Forecast(jobs).unable(waiting)
    assert (until, why.body()) == (100.0, refusal.body())


def test_a_client_that_follows_one_job_is_why_its_next_one_waits() -> None:
    jobs = scheduler(Account("one", None, "", slots=Slots(2)))  # type: ignore[arg-type]
    first, second = (job(name, one_at_a_time=True, order=1) for name in "ab")
    assert jobs.assign_at_once(first)
    jobs.queue.add(second)
    assert jobs.next() is None
    assert list(Forecast(jobs).waiting("anna", [second])) == [(second, "client", WAITS_FOR_CLIENT)]
    assert [position.reason for position in Forecast(jobs).positions()] == ["client"]


def test_a_job_goes_only_to_accounts_that_have_its_models() -> None:
    one, two = (Account(name, None, "", slots=Slots(1)) for name in ("one", "two"))  # type: ignore[arg-type]
    jobs = scheduler(one, two)
    needs = Needs(frozenset({"two"}), "own.safetensors")
    first, second, third = (
        job("a", order=1, needs=needs),
        job("b", order=2, needs=needs),
        job("c", order=3),
    )
    for waiting in (first, second, third):
        jobs.queue.add(waiting)
    assert (jobs.next(), first.account) == (first, "two")
    assert list(Forecast(jobs).waiting("anna", [second, third])) == [
        (second, "model", WAITS_FOR_MODEL.format("own.safetensors")),
        (third, None, None),
    ]
    assert (jobs.next(), third.account) == (third, "one")
    assert jobs.next() is None
    jobs.free(first)
    assert (jobs.next(), second.account) == (second, "two")


def test_a_forecast_is_new_once_something_has_changed() -> None:
    jobs = scheduler()
    forecast = Forecast(jobs)
    first, second = job("a", order=1), job("b", "ben", order=2)
    jobs.enqueue(first)
    assert [position.job for position in forecast.positions()] == [first]
    jobs.enqueue(second)
    assert (forecast.before("ben"), [position.job for position in forecast.positions()]) == (
        1,
        [first, second],
    )
    assert jobs.next() is first
    assert [position.job for position in forecast.positions()] == [second]


def test_a_backup_is_why_a_job_waits() -> None:
    jobs = scheduler()
    waiting = job("a", order=4)
    jobs.hold(4)
    jobs.queue.add(waiting)
    assert list(Forecast(jobs).waiting("anna", [waiting])) == [(waiting, "restored", RESTORED)]
    assert [position.reason for position in Forecast(jobs).positions()] == ["restored"]


@pytest.mark.parametrize(
    ("limit", "reason", "sentence"),
    [(4, "budget", "expected to cost more than"), (5, "ceiling", "The running jobs")],
)
def test_a_budget_is_why_a_job_waits(limit: int, reason: str, sentence: str) -> None:
    budgets = Budgets((Budget("credits_per_day", "day", limit, hard=True),))
    jobs = scheduler(spending=MemberSpending(lambda _: budgets))
    jobs.claim(job("under way"), 1)
    waiting = job("a", estimate=5)
    jobs.queue.add(waiting)
    ((found, why, message),) = Forecast(jobs).waiting("anna", [waiting])
    assert (found, why) == (waiting, reason)
    assert sentence in str(message)
    assert [position.reason for position in Forecast(jobs).positions()] == [reason]
