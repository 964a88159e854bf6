"""Live jobs.

Changes that belong together are one unit: a new job with its payload, its end with its history
entry, its usage and the fair shares.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    bindparam,
    delete,
    insert,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.exc import IntegrityError

from proxy.storage.budget_notices import BudgetNotice, add_notices
from proxy.storage.conditions import UNCONDITIONAL, Conditions, count_waiting
from proxy.storage.costs import CostRow, add_costs
from proxy.storage.database import Database, Repository, UnitRefusedError
from proxy.storage.encryption import Cipher
from proxy.storage.held import held_order, release_held
from proxy.storage.history import HistoryRepository, Recorded, add_history, forget_beyond
from proxy.storage.job_tables import HistoryEntry, StoredJob, history, jobs
from proxy.storage.leases import Fence, check_fence
from proxy.storage.payloads import (
    Payload,
    PayloadRepository,
    add_payload,
    delete_payloads,
    forget_credentials,
)
from proxy.storage.shares import Shares, put_shares, read_shares
from proxy.storage.spending import (
    WAITING,
    Decision,
    Spending,
    lock_spending,
    spending_by_member,
    spending_on,
)
from proxy.storage.statements import chunks, run
from proxy.storage.usage import UsageRow, add_usage, day_of, submitted_on
from proxy.storage.webhooks import WebhookMessage, add_messages

T = TypeVar("T")


class EngineWrite(Struct, frozen=True):
    """What the engine writes in the same unit as its jobs, and only while it has the lease of the
    `fence`, if there is one: the unit raises `FencedError` when another process has it.

    What was used and what it has cost are added; the `messages` are delivered to webhooks.
    """

    fence: Fence | None = None
    usage: Sequence[UsageRow] = ()
    costs: Sequence[CostRow] = ()
    shares: Shares | None = None
    messages: Sequence[WebhookMessage] = ()

    def check(self, connection: Connection) -> None:
        """Check at the begin of the unit that it is the engine's. Raises `FencedError`."""
        check_fence(connection, self.fence)

    def add(self, connection: Connection) -> None:
        """Write what comes with the jobs, after them."""
        add_usage(connection, self.usage)
        add_costs(connection, self.costs)
        put_shares(connection, self.shares)
        add_messages(connection, self.messages)


#: A write of jobs alone, whoever has the lease.
_ALONE = EngineWrite()
_NO_USAGE: Mapping[int, UsageRow] = {}


class JobLivesError(UnitRefusedError):
    """Raised when the member has a live job with this id."""


class _JobGoneError(UnitRefusedError):
    """Raised when a job that is to end is not live."""


_ADD_JOB = insert(jobs).returning(jobs.c.order)
_ORDER = bindparam("job_order", type_=BigInteger)
_UPDATE = update(jobs).where(jobs.c.order == _ORDER)
#: A wish that is stored stays: an update only sets these columns.
_WISH = {name: f"wish_{name}" for name in ("cancel_requested", "interrupted")}
_UPDATE_WISHES = _UPDATE.values(
    {name: or_(jobs.c[name], bindparam(wish, type_=Boolean)) for name, wish in _WISH.items()}
)
_DROP = delete(jobs).where(jobs.c.order == _ORDER)
_LIVE = select(jobs).order_by(jobs.c.order)
_LIVE_OF = _LIVE.where(jobs.c.member == bindparam("m"))
_JOB = select(jobs).where(jobs.c.member == bindparam("m"), jobs.c.prompt_id == bindparam("i"))
_LIVING = select(jobs.c.order).where(jobs.c.order.in_(bindparam("orders", expanding=True)))
_KNOWN = union_all(
    *(
        select(column).where(column.in_(bindparam("ids", expanding=True)))
        for column in (jobs.c.cloud_id, history.c.cloud_id)
    )
)
_RECEIVED = _DROP.where(jobs.c.state == "received")
_NEW = _LIVE.where(jobs.c.state == "received")
_CLAIM = _UPDATE.values(
    state=bindparam("next"),
    estimate=bindparam("expected", type_=BigInteger),
    ceiling=bindparam("most", type_=BigInteger),
)
_REESTIMATE = (
    update(jobs)
    .where(jobs.c.member == bindparam("m"), jobs.c.shape == bindparam("s"))
    .where(jobs.c.state.in_(WAITING))
    .values(estimate=jobs.c.partner_nodes + bindparam("time", type_=BigInteger))
)


class JobRepository(Repository):
    """The jobs of all members that have not ended, their `payloads` and their `history`."""

    def __init__(self, database: Database, cipher: Cipher | None = None) -> None:
        super().__init__(database)
        self.history = HistoryRepository(database)
        self.payloads = PayloadRepository(database, cipher or Cipher())

    # --- live jobs -------------------------------------------------------------------------

    async def insert(
        self,
        job: StoredJob,
        payload: Payload,
        conditions: Conditions = UNCONDITIONAL,
        fence: Fence | None = None,
    ) -> StoredJob:
        """Return the job as it was inserted: with its order, and with the number and the estimate
        of the `conditions`, whose errors are raised. Raises `JobLivesError`, and `FencedError` if
        another process leads."""
        kept = self.payloads.encrypted(payload)

        def work(connection: Connection) -> StoredJob:
            check_fence(connection, fence)
            number = conditions.number(connection, job.member, job.number)
            estimate = conditions.estimate(connection, job.member)
            row = {**asdict(job), "number": number, "estimate": estimate}
            del row["order"]
            try:
                order = int(run(connection, _ADD_JOB, row).scalar_one())
            except (IntegrityError, sqlite3.IntegrityError) as error:
                raise JobLivesError(f"the job {job.prompt_id} has not ended") from error
            add_payload(connection, job.member, order, kept)
            conditions.count(connection, job.member)
            return StoredJob(**row, order=order)

        return await self.database.write(work)

    async def used(self, member: str, day: str) -> tuple[int, int]:
        """Return how many jobs of a member wait, and how many it has submitted on a day."""
        return await self.database.read(
            lambda connection: (
                count_waiting(connection, member),
                submitted_on(connection, day, member),
            )
        )

    async def spending(self, day: str, member: str | None = None) -> dict[str, Spending]:
        """Return what all members, or one, have spent on a day and in its month."""
        return await self.database.read(
            lambda connection: spending_by_member(connection, day, member)
        )

    async def check(self, member: str, decision: Decision) -> None:
        """Check whether a member may spend what a job is expected to cost, as far as is known
        before it is stored. The errors of the `decision` are raised."""
        spending = await self.database.read(
            lambda connection: spending_on(connection, member, decision.day)
        )
        decision.check(spending)

    async def withdraw(self, order: int, *, usage: Sequence[UsageRow] = ()) -> bool:
        """Remove a job that the engine has not started; returns false if it has, or the job is
        gone."""

        def work(connection: Connection) -> bool:
            if not connection.execute(_RECEIVED, {"job_order": order}).rowcount:
                return False
            delete_payloads(connection, [order])
            add_usage(connection, usage)
            return True

        return await self.database.write(work)

    async def received(self) -> list[StoredJob]:
        """Return the jobs that no engine has begun with, in the order of their arrival."""
        return await self._records(StoredJob, _NEW)

    async def update(
        self, changes: Iterable[tuple[int, Mapping[str, Any]]], also: EngineWrite = _ALONE
    ) -> set[int]:
        """Write fields of jobs, by order, under the names of `StoredJob`, the same of each; returns
        the orders of jobs that no longer exist. A stored wish to end a job stays.

        The credentials of jobs with a `cloud_id` are deleted: the cloud has them. Messages are
        delivered also about jobs that have ended in the meantime.
        """
        # In the same order everywhere, so that no two units wait for each other's rows.
        written = sorted(changes, key=itemgetter(0))

        def work(connection: Connection) -> set[int]:
            also.check(connection)
            gone = _update(connection, written)
            sent = [order for order, fields in written if fields.get("cloud_id")]
            forget_credentials(connection, sent)
            also.add(connection)
            return gone

        return await self.database.write(work)

    async def claim(
        self,
        member: str,
        order: int,
        state: str,
        decision: Decision,
        ceiling: int,
        also: EngineWrite = _ALONE,
    ) -> Spending:
        """Let a job take the `state` in which it is sent, and hold what it may cost at most, if the
        `decision` allows it, whose errors are raised; return what its member has spent."""
        values = {"job_order": order, "next": state, "expected": decision.estimate, "most": ceiling}

        def work(connection: Connection) -> Spending:
            also.check(connection)
            lock_spending(connection, member)
            spending = spending_on(connection, member, decision.day)
            decision.check(spending)
            run(connection, _CLAIM, values)
            return spending

        return await self.database.write(work)

    async def reestimate(self, member: str, shape: str, time: int) -> None:
        """Let the running time of the member's waiting jobs of a shape be expected to cost
        `time`."""
        values = {"m": member, "s": shape, "time": time}
        await self.database.write(lambda connection: run(connection, _REESTIMATE, values))

    async def discard(
        self,
        orders: Collection[int],
        also: EngineWrite = _ALONE,
        *,
        usage: Mapping[int, UsageRow] = _NO_USAGE,
    ) -> None:
        """Delete jobs without a history entry. The `usage` of each, by order, is counted if the job
        was there."""

        def work(connection: Connection) -> None:
            also.check(connection)
            counted = [
                usage[order]
                for order in sorted(orders)
                if run(connection, _DROP, {"job_order": order}).rowcount and order in usage
            ]
            delete_payloads(connection, sorted(orders))
            add_usage(connection, counted)
            also.add(connection)

        await self.database.write(work)

    async def finish(
        self,
        entry: HistoryEntry,
        also: EngineWrite = _ALONE,
        *,
        keep: int,
        budgets: Callable[[Spending], Sequence[BudgetNotice]] | None = None,
    ) -> Recorded:
        """Move a job into the history, of which the newest `keep` entries of its member stay.

        `budgets` returns which budgets are near or reached, of what the member has spent with this
        job. An id that is used again keeps its place in the history, with the new entry.
        """

        def work(connection: Connection) -> Recorded:
            also.check(connection)
            # First the place, then the job, as in `insert`: so neither waits for the other.
            ended = add_history(connection, entry)
            if not run(connection, _DROP, {"job_order": entry.order}).rowcount:
                raise _JobGoneError(f"the job {entry.prompt_id} is not live")
            forget_credentials(connection, [entry.order])
            # There are no more entries than jobs that have ended.
            forgotten = forget_beyond(connection, entry.member, keep) if ended > keep else []
            also.add(connection)
            if budgets is None:
                return Recorded(tuple(forgotten))
            spent = spending_on(connection, entry.member, day_of(entry.ended_at / 1000))
            return Recorded(tuple(forgotten), add_notices(connection, budgets(spent)))

        try:
            return await self.database.write(work)
        except _JobGoneError:
            return Recorded()

    async def live(self, member: str | None = None) -> list[StoredJob]:
        """Return the live jobs of everybody or one member, in the order of their arrival."""
        if member is None:
            return await self._records(StoredJob, _LIVE)
        return await self._records(StoredJob, _LIVE_OF, {"m": member})

    async def get(self, member: str, prompt_id: str) -> StoredJob | None:
        """Return a live job."""
        return await self._record(StoredJob, _JOB, {"m": member, "i": prompt_id})

    async def held_order(self) -> int:
        """Return the order up to which jobs are held, 0 if none are."""
        return await self.database.read(held_order)

    async def release_held(self) -> int:
        """Let the held jobs be sent; return how many there were."""
        return await self.database.write(release_held)

    async def load_shares(self) -> Shares:
        """Return the state of the fair shares as it was last written."""
        return await self.database.read(read_shares)

    async def knows(self, cloud_ids: Collection[str]) -> set[str]:
        """Return which of these ids of an account's jobs belong to our jobs, live or in the
        history."""
        asked = list(cloud_ids)

        def work(connection: Connection) -> set[str]:
            parts = ({"ids": part} for part in chunks(asked))
            return {id_ for part in parts for id_ in connection.execute(_KNOWN, part).scalars()}

        return await self.database.read(work) if asked else set()


def _update(connection: Connection, written: Sequence[tuple[int, Mapping[str, Any]]]) -> set[int]:
    """Write fields of jobs; returns the orders of jobs that no longer exist."""
    if not written:
        return set()
    rows = [
        {"job_order": order, **{_WISH.get(name, name): value for name, value in values.items()}}
        for order, values in written
    ]
    statement = _UPDATE_WISHES if _WISH["interrupted"] in rows[0] else _UPDATE
    if connection.execute(statement, rows).rowcount == len(rows):
        return set()
    gone = {order for order, _ in written}
    for part in chunks(sorted(gone)):
        gone.difference_update(connection.execute(_LIVING, {"orders": part}).scalars())
    return gone
