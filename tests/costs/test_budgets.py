"""Budgets: which job is too much, when one is reached, and when it renews."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from proxy.costs.budgets import NO_BUDGETS, Budget, Budgets, Shortfall, budgets_of, renewal
from proxy.members.member import Limits
from proxy.storage.spending import Spending

DAY = Budget("credits_per_day", "day", 100, hard=True)
MONTH = Budget("credits_per_month", "month", 1000, hard=True)
SOFT = Budget("soft_credits_per_day", "day", 50, hard=False)
ALL = Budgets((DAY, MONTH, SOFT))


@pytest.mark.parametrize(
    ("spent", "estimate", "exceeded"),
    [
        (Spending(), 100, None),
        (Spending(), 101, DAY),
        (Spending(day=60, month=60), 40, None),
        (Spending(day=60, month=60, reserved=30), 11, DAY),
        (Spending(day=100, month=100), 0, DAY),
        (Spending(day=99, month=99), 0, None),
        (Spending(day=0, month=990), 11, MONTH),
        (Spending(day=100, month=1000), 1, MONTH),
        (Spending(day=500, month=500), 0, DAY),
    ],
)
def test_a_job_is_refused_by_the_budget_that_it_would_exceed(
    spent: Spending, estimate: int, exceeded: Budget | None
) -> None:
    shortfall = ALL.shortfall(spent, estimate)
    assert (None if shortfall is None else shortfall.budget) == exceeded


@pytest.mark.parametrize(
    ("spent", "estimate", "found"),
    [
        (Spending(40, 40), 61, Shortfall(DAY, 61, 40, 60)),
        (Spending(120, 120), 0, Shortfall(DAY, 0, 120, -20)),
        (Spending(40, 40, reserved=50), 10, None),
        (Spending(40, 40, reserved=51), 10, Shortfall(DAY, 10, 40, 9)),
        (Spending(95, 95, reserved=900), 6, Shortfall(DAY, 6, 95, -895)),
        (Spending(40, 40, reserved=960), 10, Shortfall(MONTH, 10, 40, 0)),
    ],
)
def test_a_job_fits_alone_and_beside_others(
    spent: Spending, estimate: int, found: Shortfall | None
) -> None:
    assert ALL.shortfall(spent, estimate) == found


def test_what_is_certain_does_not_depend_on_others() -> None:
    assert Shortfall(DAY, 61, 40, 60).is_certain
    beside = Shortfall(DAY, 60, 40, 9)
    assert (beside.is_certain, beside.unspent, beside.reserved) == (False, 60, 51)
    assert Shortfall(DAY, 0, 100, 0).is_certain


def test_a_soft_budget_refuses_nothing() -> None:
    assert Budgets((SOFT,)).shortfall(Spending(day=10**9, month=10**9), 10**9) is None


@pytest.mark.parametrize(
    ("spent", "stages"),
    [
        (Spending(39, 39), []),
        (Spending(40, 40), [(SOFT, "near")]),
        (Spending(49, 49), [(SOFT, "near")]),
        (Spending(50, 50), [(SOFT, "reached")]),
        (Spending(80, 800), [(DAY, "near"), (MONTH, "near"), (SOFT, "reached")]),
        (Spending(0, 1000), [(MONTH, "reached")]),
        (Spending(1, 1, reserved=500), []),
    ],
)
def test_a_budget_is_near_from_80_percent_on_and_reached_when_it_is_spent(
    spent: Spending, stages: list[tuple[Budget, str]]
) -> None:
    assert list(ALL.stages(spent)) == stages


def test_a_budget_begins_with_its_day_or_month() -> None:
    assert DAY.began("2026-11-28") == "2026-11-28"
    assert MONTH.began("2026-11-28") == "2026-11-01"


def test_members_have_their_own_budgets_or_those_of_the_settings() -> None:
    default = Limits(credits_per_day=5, soft_credits_per_month=7)
    found = budgets_of(Limits(credits_per_day=0.5, credits_per_month=20), default)
    assert found.all == (
        Budget("credits_per_day", "day", 500_000, hard=True),
        Budget("credits_per_month", "month", 20_000_000, hard=True),
        Budget("soft_credits_per_month", "month", 7_000_000, hard=False),
    )
    assert budgets_of(Limits(), NO_BUDGETS).all == ()
    assert budgets_of(Limits(credits_per_day=0), default).all[0].limit == 0


@pytest.mark.parametrize(
    ("now", "day", "month"),
    [
        ("2026-11-28T18:00", "2026-11-29", "2026-12-01"),
        ("2026-12-31T23:59", "2027-01-01", "2027-01-01"),
        ("2028-02-28T00:00", "2028-02-29", "2028-03-01"),
        ("2026-01-01T00:00", "2026-01-02", "2026-02-01"),
    ],
)
def test_a_budget_renews_at_midnight_or_with_the_month(now: str, day: str, month: str) -> None:
    at = datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp()
    assert renewal("day", at) == datetime.fromisoformat(day).replace(tzinfo=UTC)
    assert renewal("month", at) == datetime.fromisoformat(month).replace(tzinfo=UTC)
