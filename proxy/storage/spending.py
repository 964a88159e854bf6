"""What members have spent in a day and a month, and what their jobs under way are expected to cost.

Amounts are in millionths of a credit.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Protocol

from msgspec import Struct
from sqlalchemy import Connection, bindparam, case, func, select

from proxy.storage.job_tables import job_numbers, jobs
from proxy.storage.statements import Upsert, run
from proxy.storage.usage import usage


class Spending(Struct, frozen=True):
    """What a member has spent.

    `day` and `month` are the costs of the jobs that have ended in them, `reserved` is the sum of
    the estimates of all jobs that have not ended.
    """

    day: int = 0
    month: int = 0
    reserved: int = 0


class Decision(Protocol):
    """Decides in the transaction that inserts a job, or begins to send it, whether its member may
    spend what it is expected to cost, its `estimate`.

    `check` gets what the member has spent on the `day` and in its month, and raises a
    `StorageError`. It has no side effects, because a transaction may be repeated.
    """

    @property
    def day(self) -> str: ...
    @property
    def estimate(self) -> int: ...
    def check(self, spending: Spending) -> None: ...


_CREDITS = usage.c.credits_reported + usage.c.credits_estimated
_SPENT = (
    select(usage.c.day, func.sum(_CREDITS))
    .where(usage.c.member == bindparam("m"))
    .where(usage.c.day.in_(bindparam("days", expanding=True)))
    .group_by(usage.c.day)
)
_RESERVED = select(func.coalesce(func.sum(jobs.c.estimate), 0)).where(
    jobs.c.member == bindparam("m")
)
#: The states of jobs that were not sent yet.
WAITING = ("received", "queued")
_LOCK = Upsert(job_numbers, "next", how="highest")


def days_of_month(day: str) -> list[str]:
    """Return the days (`YYYY-MM-DD`) of the month of a day."""
    first = date.fromisoformat(day).replace(day=1)
    days = (first + timedelta(days=number) for number in range(31))
    return [found.isoformat() for found in days if found.month == first.month]


def lock_spending(connection: Connection, member: str) -> None:
    """Let no other unit insert or end a job of the member before this one ends."""
    run(connection, _LOCK, {"member": member, "next": 0})


def spending_on(connection: Connection, member: str, day: str) -> Spending:
    """Return what a member has spent on a day and in its month, in the caller's unit."""
    reserved = int(connection.execute(_RESERVED, {"m": member}).scalar_one())
    days = {"m": member, "days": days_of_month(day)}
    spent = {found: int(amount) for found, amount in connection.execute(_SPENT, days)}
    return Spending(spent.get(day, 0), sum(spent.values()), reserved)


def spending_by_member(
    connection: Connection, day: str, member: str | None = None
) -> dict[str, Spending]:
    """Return what all members, or one, have spent on a day and in its month."""
    days = days_of_month(day)
    today = func.sum(case((usage.c.day == day, _CREDITS), else_=0))
    spent = select(usage.c.member, today, func.sum(_CREDITS)).where(
        usage.c.day >= days[0], usage.c.day <= days[-1]
    )
    reserved = select(jobs.c.member, func.sum(jobs.c.estimate))
    if member is not None:
        spent = spent.where(usage.c.member == member)
        reserved = reserved.where(jobs.c.member == member)
    held = {name: int(sum_) for name, sum_ in connection.execute(reserved.group_by(jobs.c.member))}
    found = {
        name: Spending(int(of_day), int(of_month), held.pop(name, 0))
        for name, of_day, of_month in connection.execute(spent.group_by(usage.c.member))
    }
    return found | {name: Spending(reserved=amount) for name, amount in held.items()}
