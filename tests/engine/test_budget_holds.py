"""Whose jobs a hard budget holds back, and until when."""

from __future__ import annotations

import pytest
from stopped_clock import StoppedClock

from proxy.engine.budget_holds import BudgetHolds


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(100.0)


@pytest.fixture
def holds(clock: StoppedClock) -> BudgetHolds:
    return BudgetHolds(clock.monotonic)


def test_only_jobs_that_cost_more_than_is_left_are_held(holds: BudgetHolds) -> None:
    holds.hold("anna", 60.0, left=500)
    assert not holds.holds_all("anna")
    assert [holds.exceeds("anna", estimate) for estimate in (500, 501)] == [False, True]
    assert not holds.exceeds("ben", 501)


def test_a_job_without_an_estimate_costs_something(holds: BudgetHolds) -> None:
    holds.hold("anna", 60.0, left=0)
    assert holds.exceeds("anna", 0)


def test_all_jobs_are_held_until_what_one_has_cost_is_known(holds: BudgetHolds) -> None:
    holds.hold("anna", 60.0, left=None)
    assert holds.holds_all("anna")
    assert (holds.cost_known("anna"), holds.cost_known("anna")) == (True, False)
    assert not holds.holds_all("anna")


def test_a_hold_for_dear_jobs_goes_on_when_a_job_has_ended(holds: BudgetHolds) -> None:
    holds.hold("anna", 60.0, left=500)
    assert not holds.cost_known("anna")
    assert holds.exceeds("anna", 501)


def test_a_hold_ends_at_its_time(holds: BudgetHolds, clock: StoppedClock) -> None:
    holds.hold("anna", 60.0, left=None)
    assert list(holds.ends()) == [160.0]
    clock.at = 160.0
    assert not holds.holds_all("anna")


def test_no_hold_is_left_where_budgets_may_be_others(holds: BudgetHolds) -> None:
    holds.hold("anna", 60.0, left=None)
    holds.clear()
    assert not holds.holds_all("anna")
