"""Notices that much or all of a budget is spent, once in each day or month."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import structlog
from cachetools import LRUCache

from proxy.costs.budgets import Budget, Budgets, Shortfall, Stage
from proxy.costs.credits import to_credits
from proxy.runtime import clock
from proxy.storage.budget_notices import BudgetNotice, BudgetNoticeRepository
from proxy.storage.database import StorageError
from proxy.storage.spending import Spending
from proxy.storage.usage import day_of

log = structlog.get_logger(__name__)

#: Maximum number of refusals that are remembered, so that they are not written again.
MAX_REMEMBERED = 1000


def notices_of(budgets: Budgets, member: str, at: int, spent: Spending) -> list[BudgetNotice]:
    """Return the notices about the budgets of which a member has spent much or all at a time
    (ms)."""
    return [
        _notice(member, budget, stage, budget.spent(spent), at)
        for budget, stage in budgets.stages(spent)
    ]


def _notice(
    member: str, budget: Budget, stage: Stage, spent: int, at: int, *, refused: bool = False
) -> BudgetNotice:
    return BudgetNotice(
        member=member,
        budget=budget.name,
        amount=budget.limit,
        stage=stage,
        began=budget.began(day_of(at / 1000)),
        spent=spent,
        refused=refused,
        at=at,
    )


def log_notice(notice: BudgetNotice) -> None:
    """Log a notice that is new."""
    about = {
        "member": notice.member,
        "budget": notice.budget,
        "limit": to_credits(notice.amount),
        "spent": to_credits(notice.spent),
    }
    if notice.stage == "reached":
        log.warning("budget_reached", refused=notice.refused, **about)
    else:
        log.warning("budget_nearly_reached", **about)


@dataclass(eq=False, repr=False)
class BudgetRefusals:
    """Adds a notice of the first job that each budget refuses in its day or month. `added` is set
    when there is a new one."""

    repository: BudgetNoticeRepository
    added: asyncio.Event
    _known: LRUCache[tuple[object, ...], bool] = field(
        default_factory=lambda: LRUCache(MAX_REMEMBERED)
    )

    async def add(self, member: str, shortfall: Shortfall) -> None:
        """Add a notice that a budget has refused a job. Never raises: the job is refused either
        way."""
        budget, spent = shortfall.budget, shortfall.spent
        notice = _notice(member, budget, "reached", spent, clock.now(), refused=True)
        if notice.key in self._known:
            return
        try:
            is_new = await self.repository.add(notice)
        except StorageError as error:
            log.warning("budget_notice_lost", member=member, error=str(error))
            return
        self._known[notice.key] = True
        if is_new:
            log_notice(notice)
            self.added.set()
