"""What admins have entered as left on accounts, and what jobs have cost there since."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Connection, delete, func, select

from proxy.storage.costs import costs
from proxy.storage.database import Repository
from proxy.storage.statements import Upsert, run
from proxy.storage.tables import table_of
from proxy.storage.usage import day_of


class BalanceRow(Struct, frozen=True):
    """So many millionths of a credit (`amount`) were left on an account `at` a time (ms); jobs that
    had ended on that day before had cost `spent_before`."""

    account: str
    amount: int
    at: int
    spent_before: int


class EnteredBalance(Struct, frozen=True):
    """What is `left` on an account, in millionths of a credit, by what was entered `at` a time."""

    left: int
    at: int


balances = table_of(BalanceRow, "balances", keys=("account",), rowid=False)

_PUT = Upsert(balances)


class BalanceRepository(Repository):
    """The balances of accounts."""

    async def enter(self, account: str, amount: int | None, at: int) -> None:
        """Note what an admin says is left on an account, in millionths; `None` removes it."""

        def work(connection: Connection) -> None:
            if amount is None:
                connection.execute(delete(balances).where(balances.c.account == account))
            else:
                row = BalanceRow(account, amount, at, _spent(connection, account, at))
                run(connection, _PUT, asdict(row))

        await self.database.write(work)

    async def entered(self) -> dict[str, EnteredBalance]:
        """Return what is left by account, where a balance was entered."""

        def work(connection: Connection) -> dict[str, EnteredBalance]:
            rows = [BalanceRow(*row) for row in connection.execute(select(balances))]
            return {
                row.account: EnteredBalance(
                    row.amount + row.spent_before - _spent(connection, row.account, row.at), row.at
                )
                for row in rows
            }

        return await self.database.read(work)


def _spent(connection: Connection, account: str, since: int) -> int:
    """Return what jobs have cost from the beginning of the day of a moment (ms)."""
    query = select(func.sum(costs.c.amount)).where(
        costs.c.account == account, costs.c.day >= day_of(since / 1000)
    )
    return int(connection.execute(query).scalar_one() or 0)
