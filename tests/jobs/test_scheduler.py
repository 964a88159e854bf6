"""Which job goes next and to which account, and why the others wait."""

from __future__ import annotations

import pytest
from jobs.samples import job

from proxy.jobs.accounts import Account, Slots
from proxy.jobs.scheduler import WAITS_FOR_CLIENT, Scheduler
from proxy.members.member import Limits, Member
from proxy.storage.jobs import Share, Shares
from proxy.translate.errors import LocalError


def scheduler(*accounts: Account, **members: Member) -> Scheduler:
    one = accounts or (Account("one", None, "", slots=Slots(1)),)  # type: ignore[arg-type]
    return Scheduler(
        {account.name: account for account in one},
        lambda name: members.get(name, Member(name)),
        "jobs",
    )


def test_a_job_has_its_slot_until_it_leaves() -> None:
    jobs = scheduler()
    first, second = job("first", order=1), job("second", order=2)
    for one in (first, second):
        jobs.queue.add(one)
    found = jobs.next()
    assert found is not None
    assert found[0] is first
    jobs.take(*found)
    assert (jobs.next(), jobs.used("one"), jobs.on_cloud("anna")) == (None, 1, 1)
    assert jobs.leave(first)
    assert not jobs.leave(first)
    assert jobs.next() is not None


def test_what_did_not_go_has_neither_slot_nor_turn() -> None:
    jobs = scheduler()
    jobs.queue.add(job("b", "ben", order=2))
    first = job("a", order=1)
    jobs.take(first, jobs.account_for("anna"))  # type: ignore[arg-type]
    jobs.give_back(first)
    jobs.queue.add(first)
    assert jobs.next() == (first, jobs._accounts["one"])


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (Member("anna", limits=Limits(max_running=0)), "limit"),
        (Member("anna", disabled=True), "disabled"),
        (Member("anna"), None),
    ],
)
def test_why_nothing_of_a_member_may_go(member: Member, reason: str | None) -> None:
    assert scheduler(anna=member).blocked("anna") == reason


def test_an_account_that_takes_no_jobs_is_why_they_wait() -> None:
    account = Account("one", None, "", slots=Slots(1))  # type: ignore[arg-type]
    jobs = scheduler(account)
    refusal = LocalError("no_credits", "There are no credits.")
    account.health.failed("no_credits", 100.0, refusal=refusal)
    waiting = job("a")
    jobs.queue.add(waiting)
    assert jobs.why(waiting) == ("no_credits", "There are no credits.")
    assert list(jobs.waiting("anna")) == [(waiting, *jobs.why(waiting))]
    assert jobs.unable("anna") == (100.0, refusal)


def test_a_client_that_follows_one_job_is_why_its_next_one_waits() -> None:
    jobs = scheduler(Account("one", None, "", slots=Slots(2)))  # type: ignore[arg-type]
    first, second = (job(name, one_at_a_time=True, order=1) for name in "ab")
    jobs.take(first, jobs.account_for("anna"))  # type: ignore[arg-type]
    jobs.queue.add(second)
    assert jobs.next() is None
    assert jobs.why(second) == ("client", WAITS_FOR_CLIENT)
    assert [place.reason for place in jobs.forecast()] == ["client"]


def test_the_share_of_a_turn_that_is_not_stored_yet_is_not_kept() -> None:
    jobs = scheduler(Account("one", None, "", slots=Slots(2)))  # type: ignore[arg-type]
    first, second = job("a", order=1), job("b", order=2)
    for one in (first, second):
        jobs.take(one, jobs.account_for("anna"))  # type: ignore[arg-type]
    assert jobs.shares_with(first).members["anna"].start == 1.0
    assert jobs.shares_with(second).members["anna"].start == 2.0


def test_a_restart_goes_on_with_shares_and_learnt_slots() -> None:
    account = Account("one", None, "")  # type: ignore[arg-type]
    jobs = scheduler(account)
    jobs.restore(Shares(5.0, {"anna": Share(7.0, 2.0)}, {"one": 3, "gone": 2}))
    assert account.slots.count == 3
    assert (jobs.shares.now, jobs.shares.state_of("anna")) == (5.0, (7.0, 2.0))
