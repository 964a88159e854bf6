"""Refusals of a budget are noted once, whatever the storage does."""

from __future__ import annotations

import asyncio
from pathlib import Path

from backend import open_database

from proxy.costs.budgets import Budget, Budgets, Shortfall
from proxy.jobs.budget_notices import BudgetRefusals, notices_of
from proxy.storage.budget_notices import BudgetNotice, BudgetNoticeRepository
from proxy.storage.database import StorageError
from proxy.storage.spending import Spending

DAY = Budget("credits_per_day", "day", 100, hard=True)
MONTH = Budget("credits_per_month", "month", 1000, hard=True)
#: 2026-11-28 12:00 UTC, in ms.
NOON = 1_795_867_200_000


def test_a_notice_names_the_first_day_of_its_period() -> None:
    day, month = notices_of(Budgets((DAY, MONTH)), "anna", NOON, Spending(day=80, month=1000))
    assert (day.stage, day.began, day.spent) == ("near", "2026-11-28", 80)
    assert (month.stage, month.began, month.spent) == ("reached", "2026-11-01", 1000)


async def test_the_first_refusal_is_noted_and_others_are_not(tmp_path: Path) -> None:
    database = await open_database(tmp_path)
    notices, added = BudgetNoticeRepository(database), asyncio.Event()
    for _ in range(2):  # as after a restart
        refusals = BudgetRefusals(notices, added)
        for _ in range(3):
            await refusals.add("anna", Shortfall(DAY, 0, 10, 0))
    (noted,) = await notices.unsent()
    assert (noted.stage, noted.refused, noted.spent) == ("reached", True, 10)
    assert added.is_set()
    await database.close()


class FullRepository(BudgetNoticeRepository):
    """A storage that takes nothing at first."""

    refusals = 1

    async def add(self, notice: BudgetNotice) -> bool:
        if self.refusals:
            self.refusals -= 1
            raise StorageError("the disk is full")
        return await super().add(notice)


async def test_a_refusal_that_was_not_written_is_written_with_the_next(tmp_path: Path) -> None:
    database = await open_database(tmp_path)
    notices = FullRepository(database)
    refusals = BudgetRefusals(notices, asyncio.Event())
    for count in (0, 1):
        await refusals.add("anna", Shortfall(DAY, 0, 0, 0))
        assert len(await notices.unsent()) == count
    await database.close()
