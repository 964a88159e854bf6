"""The budgets of members, as the dashboard shows them."""

from __future__ import annotations

from aiohttp import web

from proxy.admin.schema.state import BudgetShown
from proxy.api.keys import ACCOUNTING, JOBS, MEMBERS, Services
from proxy.costs.budgets import Budget, renewal
from proxy.costs.credits import to_credits
from proxy.runtime import clock
from proxy.storage.spending import Spending
from proxy.storage.usage import day_of

#: Maximum number of budgets that are shown, those of which most is spent.
MAX_SHOWN = 100


async def shown_budgets(app: web.Application, member: str | None) -> list[BudgetShown]:
    """Return the budgets of a member, or of all members (`None`), the most spent first.

    Raises `StorageError`.
    """
    limiter = app[ACCOUNTING].limiter
    names = app[MEMBERS].names() if member is None else [member]
    budgets = [(name, budget) for name in names for budget in limiter.budgets(name).all]
    if not budgets:
        return []
    now = clock.time()
    spending = await app[JOBS].spending(day_of(now), names[0] if len(names) == 1 else None)
    found = [
        _budget_shown(name, budget, spending.get(name, Spending()), now) for name, budget in budgets
    ]
    return sorted(found, key=_share, reverse=True)[:MAX_SHOWN]


async def budget_amounts(services: Services) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the limit of each budget and what is left of it, in credits, by member and name.
    Raises `StorageError`."""
    limiter = services[ACCOUNTING].limiter
    budgets = [
        (name, budget) for name in services[MEMBERS].names() for budget in limiter.budgets(name).all
    ]
    if not budgets:
        return {}
    spending = await services[JOBS].spending(day_of(clock.time()), None)
    return {
        (name, budget.name): (
            to_credits(budget.limit),
            to_credits(budget.left(spending.get(name, Spending()))),
        )
        for name, budget in budgets
    }


def _budget_shown(member: str, budget: Budget, spending: Spending, now: float) -> BudgetShown:
    return {
        "member": member,
        "name": budget.name,
        "period": budget.period,
        "hard": budget.hard,
        "limit": to_credits(budget.limit),
        "spent": to_credits(budget.spent(spending)),
        "reserved": to_credits(spending.reserved),
        "near": budget.stage(spending) is not None,
        "reached": budget.is_reached(spending),
        "renews": int(renewal(budget.period, now).timestamp() * 1000),
    }


def _share(budget: BudgetShown) -> float:
    """Return how much of a budget is spent and reserved."""
    return (budget["spent"] + budget["reserved"]) / max(budget["limit"], 1e-6)
