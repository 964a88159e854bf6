"""Jobs and accounts in each interval of the last day, and the times that this is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, select

from proxy.storage.database import Database
from proxy.storage.statements import Upsert
from proxy.storage.tables import account_activity, activity, history, jobs

#: Jobs that are looked at for the intervals since a moment; of more the newest count.
MOST_JOBS = 10_000
#: Rows of an answer: a day of five minutes each, for many accounts.
MOST_ROWS = 50_000

_ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class JobTimes:
    """When a job was taken in, began to run and ended (ms); `None` for what has not been."""

    member: str
    state: str
    created_at: int
    started_at: int | None
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class ActivityRow:
    """A member's jobs in the interval that began at `at` (ms); everybody's if `member` is empty.

    `running` and `waiting` are the most at once, `completed` and `failed` ended in the interval,
    `busy` is the sum of the seconds that jobs ran in it.
    """

    at: int
    member: str
    running: int = 0
    waiting: int = 0
    completed: int = 0
    failed: int = 0
    busy: float = 0.0


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account in the interval that began at `at` (ms): its slots, the most in use, and why it
    took no jobs (empty if it took them)."""

    at: int
    account: str
    slots: int
    used: int
    reason: str = ""


_PUT = Upsert(
    activity,
    ["at", "member"],
    ["running", "waiting", "completed", "failed", "busy"],
    how="highest",
)
_PUT_ACCOUNT = Upsert(
    account_activity, ["at", "account"], ["slots", "used", "reason"], how="highest"
)


class ActivityRepository:
    """Activity by interval. Everything raises `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def times(self, since: int) -> list[JobTimes]:
        """The jobs that live, and those that have ended since a moment (ms)."""
        ended = (
            select(
                history.c.member,
                history.c.state,
                history.c.created_at,
                history.c.started_at,
                history.c.ended_at,
            )
            .where(history.c.state.in_(_ENDED), history.c.ended_at >= since)
            .order_by(history.c.ended_at.desc())
            .limit(MOST_JOBS)
        )
        live = (
            select(jobs.c.member, jobs.c.state, jobs.c.created_at, jobs.c.started_at)
            .where(jobs.c.accepted, ~jobs.c.cancel_requested)
            .order_by(jobs.c.key.desc())
            .limit(MOST_JOBS)
        )

        def work(connection: Connection) -> list[JobTimes]:
            found = [JobTimes(*row) for row in connection.execute(ended)]
            return found + [JobTimes(*row, None) for row in connection.execute(live)]

        return await self._database.read(work)

    async def last(self) -> int | None:
        """The beginning (ms) of the last interval in which an account was looked at."""
        query = select(func.max(account_activity.c.at))
        return await self._database.read(lambda connection: connection.execute(query).scalar_one())

    async def put(
        self, rows: Sequence[ActivityRow], accounts: Sequence[AccountRow], *, forget: int
    ) -> None:
        """Raise what is known of intervals to this where it is less, and forget those from before
        `forget` (ms). Once more changes nothing."""

        def work(connection: Connection) -> None:
            for statement, some in ((_PUT, rows), (_PUT_ACCOUNT, accounts)):
                if some:
                    connection.execute(statement(connection), [asdict(row) for row in some])
            for table in (activity, account_activity):
                connection.execute(delete(table).where(table.c.at < forget))

        await self._database.write(work)

    async def rows(self, since: int, member: str = "") -> list[ActivityRow]:
        """A member's intervals since a moment (ms), in order; everybody's without a member."""
        query = (
            select(activity)
            .where(activity.c.at >= since, activity.c.member == member)
            .order_by(activity.c.at)
            .limit(MOST_ROWS)
        )
        return [ActivityRow(**row) for row in await self._read(query)]

    async def accounts(self, since: int) -> list[AccountRow]:
        """The intervals of all accounts since a moment (ms), in order."""
        query = (
            select(account_activity)
            .where(account_activity.c.at >= since)
            .order_by(account_activity.c.at, account_activity.c.account)
            .limit(MOST_ROWS)
        )
        return [AccountRow(**row) for row in await self._read(query)]

    async def _read(self, query: Any) -> Sequence[Any]:
        return await self._database.read(
            lambda connection: connection.execute(query).mappings().all()
        )
