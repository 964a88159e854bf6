"""Budgets of members in credits, by day and month (UTC). Pure.

A hard budget refuses a job if what is spent, what the jobs under way are estimated to cost and the
estimate of the job itself are more. A soft one refuses nothing. Both are reported once they are
near, and once they are reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from proxy.costs.credits import from_credits

Period: TypeAlias = Literal["day", "month"]

#: The periods of budgets, the one that renews later last.
PERIODS: tuple[Period, ...] = ("day", "month")

#: How much of a budget is spent: so much that people should know it, or all of it.
Stage: TypeAlias = Literal["near", "reached"]

#: The share of a budget from which on it is near.
NEAR = 0.8


class Spent(Protocol):
    """What is spent in a day and a month, and `reserved` for jobs under way, in millionths of a
    credit."""

    @property
    def day(self) -> int: ...
    @property
    def month(self) -> int: ...
    @property
    def reserved(self) -> int: ...


class BudgetAmounts(Protocol):
    """Where the amounts of a member's budgets are written, in credits; `None` is no budget."""

    @property
    def credits_per_day(self) -> float | None: ...
    @property
    def credits_per_month(self) -> float | None: ...
    @property
    def soft_credits_per_day(self) -> float | None: ...
    @property
    def soft_credits_per_month(self) -> float | None: ...
    def __hash__(self) -> int: ...


class Budget(Struct, frozen=True):
    """A budget of `limit` millionths of a credit. `name` is that of the limit and the setting."""

    name: str
    period: Period
    limit: int
    hard: bool

    def left(self, spent: Spent) -> int:
        """Return what jobs may still cost, beside those under way; less than 0 if they are over."""
        return self.limit - self.spent(spent) - spent.reserved

    def is_reached(self, spent: Spent) -> bool:
        """Return whether the jobs that have ended have cost the whole budget."""
        return self.spent(spent) >= self.limit

    def stage(self, spent: Spent) -> Stage | None:
        """Return how much of the budget the jobs that have ended have cost."""
        if self.is_reached(spent):
            return "reached"
        return "near" if self.spent(spent) >= NEAR * self.limit else None

    def began(self, day: str) -> str:
        """Return the first day (`YYYY-MM-DD`) of the period that a day is in."""
        return day if self.period == "day" else f"{day[:8]}01"

    def spent(self, spent: Spent) -> int:
        """Return what is spent in the period of the budget."""
        return spent.day if self.period == "day" else spent.month


class Shortfall(Struct, frozen=True):
    """Why a hard budget does not allow a job that is expected to cost its `estimate`: the jobs that
    have ended have cost what is `spent`, and with those under way so much is `left`."""

    budget: Budget
    estimate: int
    spent: int
    left: int

    @property
    def unspent(self) -> int:
        """What the jobs that have ended leave; less than 0 if they are over."""
        return self.budget.limit - self.spent

    @property
    def reserved(self) -> int:
        """What those under way may cost."""
        return self.unspent - self.left

    @property
    def is_certain(self) -> bool:
        """Whether the job costs too much whatever becomes of what is reserved."""
        return self.unspent < max(1, self.estimate)


class Budgets(Struct, frozen=True):
    """The budgets of a member, hard ones first, the day before the month."""

    all: tuple[Budget, ...] = ()

    @property
    def any_hard(self) -> bool:
        """Whether one of them refuses jobs."""
        return any(budget.hard for budget in self.all)

    def shortfall(self, spent: Spent, estimate: int) -> Shortfall | None:
        """Return why a hard budget does not allow a job; `None` if all do. This decides about a job
        when it is stored, when it is sent, and while it waits.

        `spent` is without the job. Once nothing is left, a job without an estimate is too much. Of
        several budgets it is one for which that is certain, if there is one, and the one that
        renews last.
        """
        exceeded = [
            Shortfall(budget, estimate, budget.spent(spent), budget.left(spent))
            for budget in self.all
            if budget.hard and budget.left(spent) < max(1, estimate)
        ]
        certain = [each for each in exceeded if each.is_certain]
        return next(iter((certain or exceeded)[-1:]), None)

    def stages(self, spent: Spent) -> Iterator[tuple[Budget, Stage]]:
        """Yield the budgets of which much or all is spent."""
        for budget in self.all:
            if (stage := budget.stage(spent)) is not None:
                yield budget, stage


class DefaultBudgets(Struct, frozen=True):
    """The amounts of members that have none of their own, in credits."""

    credits_per_day: float | None = None
    credits_per_month: float | None = None
    soft_credits_per_day: float | None = None
    soft_credits_per_month: float | None = None


#: The default amounts where nobody sets any.
NO_BUDGETS: BudgetAmounts = DefaultBudgets()


@lru_cache(maxsize=1024)
def budgets_of(own: BudgetAmounts, default: BudgetAmounts) -> Budgets:
    """Return the budgets of a member: its own amounts, and the default where it has none."""
    found = []
    for kind in ("", "soft_"):
        for period in PERIODS:
            name = f"{kind}credits_per_{period}"
            amount = getattr(own, name)
            amount = getattr(default, name) if amount is None else amount
            if amount is not None:
                found.append(Budget(name, period, from_credits(amount), not kind))
    return Budgets(tuple(found))


def renewal(period: Period, at: float) -> datetime:
    """Return when a budget of the period renews: the next midnight, or that before the next month.

    `at` is in seconds since 1970.
    """
    midnight = datetime.fromtimestamp((at // 86_400 + 1) * 86_400, UTC)
    if period == "day":
        return midnight
    today = datetime.fromtimestamp(at, UTC)
    year, month = divmod(today.year * 12 + today.month, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC)
