"""Whose jobs a hard budget holds back, and until when."""

from __future__ import annotations

import pytest
from jobs.samples import job
from stopped_clock import StoppedClock

from proxy.engine.budget_holds import BudgetHolds
from proxy.engine.live_job import LiveJob
from proxy.engine.outcomes import OverBudget

#: Refusals that concern jobs which cost more than 500, and all jobs.
DEAR, BESIDE = OverBudget(501, 500, 60.0), OverBudget(501, None, 2.0)


def refuse(holds: BudgetHolds, refused: LiveJob, refusal: OverBudget) -> None:
    """Let a budget refuse a job, which goes back into the queue."""
    holds.refused(refused, refusal)
    holds.gave_back(refused)


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(100.0)


@pytest.fixture
def holds(clock: StoppedClock) -> BudgetHolds:
    return BudgetHolds(clock.monotonic)


def costs(estimate: int, member: str = "anna", order: int = 1) -> LiveJob:
    return job(f"{member}{order}", member=member, order=order, estimate=estimate)


def test_only_jobs_that_cost_more_than_is_left_are_held(holds: BudgetHolds) -> None:
    refuse(holds, costs(501), DEAR)
    assert not holds.holds_all("anna")
    assert [holds.holding(costs(estimate)) for estimate in (500, 501)] == [None, DEAR]
    assert holds.holding(costs(501, "ben")) is None


def test_a_job_without_an_estimate_costs_something(holds: BudgetHolds) -> None:
    refuse(holds, costs(0), OverBudget(0, 0, 60.0))
    assert holds.holding(costs(0)) is not None


def test_all_jobs_are_held_until_what_one_has_cost_is_known(holds: BudgetHolds) -> None:
    refuse(holds, costs(501), BESIDE)
    assert holds.holds_all("anna")
    assert (holds.cost_known("anna"), holds.cost_known("anna")) == (True, False)
    assert not holds.holds_all("anna")


def test_a_hold_for_dear_jobs_goes_on_when_a_job_has_ended(holds: BudgetHolds) -> None:
    refuse(holds, costs(501), DEAR)
    assert not holds.cost_known("anna")
    assert holds.holding(costs(501)) == DEAR


def test_a_hold_ends_at_its_time(holds: BudgetHolds, clock: StoppedClock) -> None:
    refuse(holds, costs(501), DEAR)
    assert list(holds.ends()) == [160.0]
    clock.at = 160.0
    assert holds.holding(costs(501)) is None


@pytest.mark.parametrize("refusal", [DEAR, BESIDE])
def test_after_a_hold_one_job_asks_and_the_others_stay(
    holds: BudgetHolds, clock: StoppedClock, refusal: OverBudget
) -> None:
    first, second = costs(501, order=1), costs(501, order=2)
    refuse(holds, first, refusal)
    clock.at += refusal.wait
    holds.asks(first)
    assert holds.holding(second) == refusal
    assert holds.admitted(first)
    assert holds.holding(second) is None


def test_a_job_that_asks_again_and_again_does_so_more_seldom(
    holds: BudgetHolds, clock: StoppedClock
) -> None:
    asking, waits = costs(501), []
    refuse(holds, asking, BESIDE)
    for _ in range(7):
        (until,) = holds.ends()
        waits.append(until - clock.at)
        clock.at = until
        holds.asks(asking)
        refuse(holds, asking, BESIDE)
    assert waits == [2, 4, 8, 16, 32, 60, 60]
    holds.cost_known("anna")
    assert not holds.holds_all("anna")


def test_others_may_ask_when_a_job_that_was_admitted_is_not_sent(holds: BudgetHolds) -> None:
    refuse(holds, costs(501, order=2), BESIDE)
    holds.gave_back(costs(501, order=1))
    assert not holds.holds_all("anna")


def test_no_hold_is_left_where_budgets_may_be_others(holds: BudgetHolds) -> None:
    refuse(holds, costs(501), BESIDE)
    holds.clear()
    assert not holds.holds_all("anna")
