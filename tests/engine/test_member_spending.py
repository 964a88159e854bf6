"""Which jobs wait for a hard budget, as far as is known."""

from __future__ import annotations

import pytest
from jobs.samples import job
from stopped_clock import StoppedClock

from proxy.costs.budgets import Budget, Budgets
from proxy.engine.live_job import LiveJob
from proxy.engine.member_spending import UNBOUNDED, MemberSpending
from proxy.storage.spending import Spending

DAY = Budget("credits_per_day", "day", 500, hard=True)
NOON = 1_795_867_200.0


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(100.0)


@pytest.fixture
def spending(clock: StoppedClock) -> MemberSpending:
    return MemberSpending(lambda _: Budgets((DAY,)), clock.monotonic)


def costs(estimate: int, member: str = "anna", order: int = 1) -> LiveJob:
    return job(f"{member}{order}", member=member, order=order, estimate=estimate)


def test_only_jobs_that_cost_more_than_is_left_wait(spending: MemberSpending) -> None:
    spending.learned("anna", Spending(100, 100), NOON)
    assert spending.shortfall(costs(400)) is None
    found = spending.shortfall(costs(401))
    assert found is not None
    assert found.is_certain
    assert spending.shortfall(costs(401, "ben")) is None


def test_a_job_without_an_estimate_costs_something(spending: MemberSpending) -> None:
    spending.learned("anna", Spending(500, 500), NOON)
    assert spending.shortfall(costs(0)) is not None


def test_jobs_wait_for_what_others_may_cost_at_most_until_that_is_known(
    spending: MemberSpending,
) -> None:
    first, second = costs(1, order=1), costs(1, order=2)
    assert spending.claim(first, 500) == 0
    found = spending.shortfall(second)
    assert found is not None
    assert (found.is_certain, found.reserved) == (False, 500)
    assert spending.claim(second, 7) == 500
    assert spending.claim(second, 8) == 500
    assert spending.release(first)
    assert not spending.release(first)
    assert spending.shortfall(costs(1, order=3)) is None


def test_what_was_spent_is_read_again_after_a_while(
    spending: MemberSpending, clock: StoppedClock
) -> None:
    spending.learned("anna", Spending(500, 500), NOON)
    assert spending.ends() == [160.0]
    clock.at = 160.0
    assert spending.shortfall(costs(1)) is None


def test_what_was_spent_on_a_day_is_nothing_on_the_next(
    spending: MemberSpending, clock: StoppedClock
) -> None:
    spending.learned("anna", Spending(500, 500), NOON + 12 * 3600 - 5)
    assert spending.ends() == [105.0]


def test_one_job_asks_and_the_others_stay_until_its_claim(spending: MemberSpending) -> None:
    first = costs(1)
    spending.asks(first)
    assert (spending.is_asking("anna"), spending.is_asking("ben")) == (True, False)
    spending.claim(first, 5)
    assert not spending.is_asking("anna")
    spending.asks(first)
    assert spending.release(first)
    assert not spending.is_asking("anna")


def test_jobs_of_members_without_a_hard_budget_wait_for_nothing(clock: StoppedClock) -> None:
    spending = MemberSpending(monotonic=clock.monotonic)
    spending.asks(costs(1))
    spending.claim(costs(1), UNBOUNDED)
    assert not spending.is_asking("anna")
    assert spending.shortfall(costs(10**9, order=2)) is None


@pytest.mark.parametrize(
    ("spent", "ceiling", "sentence"),
    [
        (Spending(500, 500), 0, "expected to cost more than the 0 credits that are left of the"),
        (Spending(), UNBOUNDED, "runs a partner node without a known price"),
        (Spending(), 500, "cost at most 0.0005 credits, if they run as long as the plan"),
    ],
)
def test_a_client_is_told_what_its_job_waits_for(
    spending: MemberSpending, spent: Spending, ceiling: int, sentence: str
) -> None:
    spending.learned("anna", spent, NOON)
    spending.claim(costs(1), ceiling)
    assert sentence in str(spending.explained(costs(1, order=2)))
