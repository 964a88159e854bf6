"""Usage by day, the audit record, and observations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Column, Connection, Index, delete, func, insert, select

from proxy.storage.costs import CostRow, costs_from
from proxy.storage.database import Repository, UnitRefusedError
from proxy.storage.leases import Batch, is_first
from proxy.storage.statements import CHUNK, Upsert, run, run_many
from proxy.storage.tables import KEY, PlainText, table_of

#: Maximum number of observations of an account, so that a cloud with ever new forms fills no disk.
MAX_OBSERVATIONS = 500

#: The kind of an observation that was measured; every other kind is an anomaly.
FACT = "fact"


def day_of(at: float) -> str:
    """Return the day (UTC) of a time in seconds since 1970, by which usage is counted."""
    return _day(int(at // 86400))


@lru_cache(maxsize=16)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * 86400, UTC).date().isoformat()


class UsageRow(Struct):
    """What a member used on a day (`YYYY-MM-DD`, UTC) with a `token`, which is the id of one, or
    empty.

    `submitted` jobs are booked on the day of their submission, without those that were taken out
    of the queue again (`withdrawn`); everything else on the day on which it was. What jobs cost is
    in millionths of a credit, by its source; `unknown_costs` counts partner nodes without a known
    price. To add is to write a row with what is more; less than 0 takes some back.
    """

    day: PlainText
    member: str
    submitted: int = 0
    withdrawn: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    running_seconds: float = 0.0
    outputs: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    credits_reported: int = 0
    credits_estimated: int = 0
    unknown_costs: int = 0
    token: PlainText = ""

    def plus(self, more: UsageRow) -> UsageRow:
        """Return this row with what another one counts, too."""
        sums = {name: getattr(self, name) + getattr(more, name) for name in COUNTED}
        return UsageRow(self.day, self.member, **sums, token=self.token)

    @property
    def key(self) -> tuple[str, str, str]:
        """What the row is about."""
        return (self.day, self.member, self.token)


usage = table_of(UsageRow, "usage", keys=("day", "member", "token"), rowid=False)
_USAGE = UsageRow.__struct_fields__
#: What is counted of a member, day and token.
COUNTED = _USAGE[2:-1]


class AuditRow(Struct, frozen=True):
    """An entry of the record: `at` in ms since 1970, `entry` the whole of it as JSON."""

    at: int
    action: PlainText
    member: str
    entry: bytes


audit = table_of(
    AuditRow,
    "audit",
    Column("key", KEY, primary_key=True, autoincrement=True),
    Index("ix_audit_at", "at"),
    Index("ix_audit_member", "member"),
    Index("ix_audit_action", "action"),
)


class _NoRoomError(UnitRefusedError):
    """Raised when an addition would exceed the member's limit."""


_ADD = Upsert(usage, how="add")
_AUDIT = [audit.c[name] for name in AuditRow.__struct_fields__]
_NOTE = insert(audit)


class UsageRepository(Repository):
    """Usage by day, member and token, and the audit record."""

    async def add(self, rows: Sequence[UsageRow], batch: Batch | None = None) -> None:
        """Add to what was counted; nothing of it if this fails, or the batch was added before."""

        def work(connection: Connection) -> None:
            if is_first(connection, batch):
                add_usage(connection, rows)

        if rows:
            await self.database.write(work)

    async def upload(self, row: UsageRow, *, limit: int) -> bool:
        """Add a row unless the member would then have sent more than `limit` bytes on the day;
        returns whether it was added."""

        def work(connection: Connection) -> None:
            if add_to_day(connection, row, "bytes_up") > limit:
                raise _NoRoomError("the member may send no more today")

        try:
            await self.database.write(work)
        except _NoRoomError:
            return False
        return True

    async def days(self, first: str, last: str, member: str | None = None) -> list[UsageRow]:
        """Return the usage from day to day, both included, of everybody or one member: by day,
        name and token."""
        query = select(usage).where(usage.c.day >= first, usage.c.day <= last)
        if member is not None:
            query = query.where(usage.c.member == member)
        rows = await self._records(
            UsageRow, query.order_by(usage.c.day, usage.c.member, usage.c.token)
        )
        return [row for row in rows if any(getattr(row, name) for name in COUNTED)]

    async def costs(self, first: str, last: str, member: str | None = None) -> list[CostRow]:
        """Return what jobs have cost from day to day, both included, of everybody or one member."""
        return await self.database.read(
            lambda connection: costs_from(connection, first, last, member)
        )

    async def forget(self, before: int) -> None:
        """Delete entries of the audit record from before a time (ms), in several units."""
        old = select(audit.c.key).where(audit.c.at < before).order_by(audit.c.at).limit(CHUNK)
        some = delete(audit).where(audit.c.key.in_(old))

        def part(connection: Connection, _: int) -> int | None:
            count = connection.execute(some).rowcount
            return count if count == CHUNK else None

        await self.database.write_in_slices(part, 0)

    async def record(
        self, *, limit: int, offset: int = 0, member: str | None = None, action: str | None = None
    ) -> list[AuditRow]:
        """Return entries of the audit record, newest first: `limit` of them after the first
        `offset`, optionally only those of a member or an action."""
        query = select(*_AUDIT)
        if member is not None:
            query = query.where(audit.c.member == member)
        if action is not None:
            query = query.where(audit.c.action == action)
        query = query.order_by(audit.c.at.desc(), audit.c.key.desc()).limit(limit).offset(offset)
        return await self._records(AuditRow, query)


def add_usage(connection: Connection, rows: Sequence[UsageRow]) -> None:
    """Add to what was counted, in the caller's unit."""
    merged: dict[tuple[str, str, str], UsageRow] = {}
    for row in rows:
        merged[row.key] = merged[row.key].plus(row) if row.key in merged else row
    for key in sorted(merged):
        row = merged[key]
        run(connection, _ADD, {name: getattr(row, name) for name in _USAGE})


def add_to_day(connection: Connection, row: UsageRow, column: str) -> int:
    """Add to what was counted, and return the sum of a column over the day of the member, in the
    caller's unit. Of two units that do so at once one waits for the other at the row without a
    token."""
    add_usage(connection, [UsageRow(row.day, row.member), row])
    return _sum(connection, row.day, row.member, column)


def submitted_on(connection: Connection, day: str, member: str) -> int:
    """Return how many jobs the member has submitted on a day, in the caller's unit."""
    return _sum(connection, day, member, "submitted")


def _sum(connection: Connection, day: str, member: str, column: str) -> int:
    query = select(func.sum(usage.c[column])).where(usage.c.day == day, usage.c.member == member)
    return int(connection.execute(query).scalar_one() or 0)


def add_audit(
    connection: Connection, entries: Sequence[AuditRow], batch: Batch | None = None
) -> None:
    """Put entries into the audit record, in the caller's unit, unless their batch is in it."""
    if is_first(connection, batch):
        run_many(connection, _NOTE, [asdict(entry) for entry in entries])


class Observation(Struct, frozen=True):
    """What was seen of an account (`identity`), `count` times from `first_at` to `last_at` (ms).

    `value` is JSON: what a fact is, or an example of an anomaly, taken once.
    """

    identity: str
    kind: PlainText
    name: str
    value: bytes
    count: int
    first_at: int
    last_at: int


observations = table_of(Observation, "observations", keys=("identity", "kind", "name"), rowid=False)
_PUT_FACT = Upsert(observations, "value", "last_at")
_ADD_ANOMALY = Upsert(observations, how="keep")


class ObservationRepository(Repository):
    """The observations of all accounts."""

    async def load(self, identities: Iterable[str] | None = None) -> list[Observation]:
        """Return the observations of these accounts (of all without `identities`), the oldest
        first."""
        o = observations.c
        query = select(observations).order_by(o.first_at, o.identity, o.kind, o.name)
        if identities is not None:
            query = query.where(o.identity.in_(list(identities)))
        return await self._records(Observation, query)

    async def add(self, rows: Sequence[Observation], batch: Batch | None = None) -> None:
        """Replace facts; add to the counts of anomalies, whose first example stays. A batch that
        was added before changes nothing."""

        def work(connection: Connection) -> None:
            if is_first(connection, batch):
                _observe(connection, rows)

        if rows:
            await self.database.write(work)


def _observe(connection: Connection, rows: Sequence[Observation]) -> None:
    o = observations.c
    room: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: (row.identity, row.kind, row.name)):
        if row.kind == FACT:
            connection.execute(_PUT_FACT(connection), asdict(row))
            continue
        counted = (
            observations.update()
            .where(o.identity == row.identity, o.kind == row.kind, o.name == row.name)
            .values(count=o.count + row.count, last_at=row.last_at)
        )
        if connection.execute(counted).rowcount:
            continue
        if row.identity not in room:
            held = select(func.count()).where(o.identity == row.identity)
            room[row.identity] = MAX_OBSERVATIONS - connection.execute(held).scalar_one()
        if room[row.identity] > 0:
            room[row.identity] -= 1
            connection.execute(_ADD_ANOMALY(connection), asdict(row))
