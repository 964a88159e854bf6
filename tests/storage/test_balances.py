"""What is left by what was entered: less what jobs have cost since."""

from __future__ import annotations

from functools import partial

from proxy.storage.balances import BalanceRepository, EnteredBalance
from proxy.storage.costs import CostRow, add_costs
from proxy.storage.database import Database

HOUR, DAY = 3_600_000, 86_400_000
#: The midnight before 2026-11-25.
START = 1_795_564_800_000


async def charge(database: Database, day: str, amount: int, account: str = "main") -> None:
    row = CostRow(day, "anna", account, "", "estimated", amount)
    await database.write(partial(add_costs, rows=[row]))


async def test_costs_since_then_are_subtracted(database: Database) -> None:
    repository = BalanceRepository(database)
    await charge(database, "2026-11-24", 1000)
    await charge(database, "2026-11-25", 100)
    assert await repository.entered() == {}
    await repository.enter("main", 5000, START + HOUR)
    assert await repository.entered() == {"main": EnteredBalance(5000, START + HOUR)}
    await charge(database, "2026-11-25", 10)
    await charge(database, "2026-11-26", 5)
    await charge(database, "2026-11-26", 7, "other")
    assert (await repository.entered())["main"].left == 4985


async def test_a_new_balance_is_instead_of_the_last(database: Database) -> None:
    repository = BalanceRepository(database)
    await repository.enter("main", 5000, START)
    await charge(database, "2026-11-25", 10)
    await repository.enter("main", 7, START + DAY)
    assert await repository.entered() == {"main": EnteredBalance(7, START + DAY)}
    await repository.enter("main", None, START + DAY)
    assert await repository.entered() == {}
