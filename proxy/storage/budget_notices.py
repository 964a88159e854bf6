"""Budgets of members that are near or reached: each has one notice in its day or month.

A notice is written with the end of the job that has brought it, or after the first refusal. What
webhooks get of it is written later, in another transaction, so a notice also waits for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Connection, delete, select, update

from proxy.storage.database import Repository
from proxy.storage.leases import Fence, check_fence
from proxy.storage.statements import Upsert, run
from proxy.storage.tables import PlainText, table_of
from proxy.storage.webhooks import WebhookMessage, add_messages


class BudgetNotice(Struct, frozen=True):
    """A member has spent much or all of a budget, or was `refused` a job for it.

    `budget` is the name of the limit, `amount` the limit and `spent` what the jobs that ended had
    cost, in millionths of a credit; `stage` is `near` or `reached`. `began` is the first day of the
    period, `at` the time (ms). Until webhooks were told it is not `told`.
    """

    member: str
    budget: PlainText
    amount: int
    stage: PlainText
    began: PlainText
    spent: int
    refused: bool
    at: int
    told: bool = False

    @property
    def key(self) -> tuple[str, str, int, str, str]:
        """What it is about: there is one notice of each."""
        return (self.member, self.budget, self.amount, self.stage, self.began)


budget_notices = table_of(
    BudgetNotice,
    "budget_notices",
    keys=("member", "budget", "amount", "stage", "began"),
    rowid=False,
)
_N = budget_notices.c
_ADD = Upsert(budget_notices, how="keep")


def add_notices(
    connection: Connection, notices: Sequence[BudgetNotice]
) -> tuple[BudgetNotice, ...]:
    """Write notices in the caller's unit, and return those that are new. Those of earlier periods
    are deleted."""
    new = []
    for notice in notices:
        if run(connection, _ADD, asdict(notice)).rowcount:
            new.append(notice)
            old = (_N.member == notice.member, _N.budget == notice.budget, _N.began < notice.began)
            connection.execute(delete(budget_notices).where(*old, _N.told))
    return tuple(new)


class BudgetNoticeRepository(Repository):
    """The notices of all members."""

    async def add(self, notice: BudgetNotice) -> bool:
        """Write a notice; return whether it is new."""
        return bool(await self.database.write(lambda connection: add_notices(connection, [notice])))

    async def unsent(self) -> list[BudgetNotice]:
        """Return the notices that were not sent to webhooks, the oldest first."""
        query = select(budget_notices).where(~_N.told).order_by(_N.at)
        return await self._records(BudgetNotice, query)

    async def send(
        self,
        notices: Sequence[BudgetNotice],
        message: Callable[[BudgetNotice], WebhookMessage],
        *,
        fence: Fence | None = None,
    ) -> None:
        """Write what webhooks get of notices, once."""

        def work(connection: Connection) -> None:
            check_fence(connection, fence)
            for notice in notices:
                mine = (
                    _N.member == notice.member,
                    _N.budget == notice.budget,
                    _N.amount == notice.amount,
                    _N.stage == notice.stage,
                    _N.began == notice.began,
                )
                told = update(budget_notices).where(*mine, ~_N.told).values(told=True)
                if connection.execute(told).rowcount:
                    add_messages(connection, [message(notice)])

        await self.database.write(work)
