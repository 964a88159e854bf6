"""What members used, and the record of who did what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, insert, select

from proxy.storage.database import Database, StorageError
from proxy.storage.statements import Upsert, run, run_many
from proxy.storage.tables import audit, usage


@dataclass(slots=True)
class UsageRow:
    """What a member used on a day (`YYYY-MM-DD`, UTC).

    `submitted` jobs are booked on the day of their submission, without those that were taken out
    of the queue again (`withdrawn`); everything else on the day on which it was. To add is to write
    a row with what is more; less than 0 takes some back.
    """

    day: str
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

    def add(self, more: UsageRow) -> None:
        """Add what another row of the day and member counts."""
        for name in COUNTED:
            setattr(self, name, getattr(self, name) + getattr(more, name))


#: What is counted of a member and day.
COUNTED = tuple(field.name for field in fields(UsageRow))[2:]


@dataclass(frozen=True, slots=True)
class AuditRow:
    """An entry of the record: `at` in ms since 1970, `entry` the whole of it as JSON."""

    at: int
    action: str
    member: str
    entry: bytes


class _NoRoomError(StorageError):
    """What was to be added is more than the member may."""


_ADD = Upsert(usage, ["day", "member"], COUNTED, how="add")
_NOTE = insert(audit)


class UsageRepository:
    """Usage by day and member, and the audit record."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rows: Sequence[UsageRow]) -> None:
        """Add to what was counted. Raises `StorageError`; then nothing was."""
        if rows:
            await self._database.write(lambda connection: add_usage(connection, rows))

    async def upload(self, row: UsageRow, *, most: int) -> bool:
        """Add a row unless the member had sent more than `most` bytes on the day then; whether it
        was added. Raises `StorageError`.
        """

        def work(connection: Connection) -> None:
            add_usage(connection, [row])  # of two at once one waits here for the other
            sent = select(usage.c.bytes_up).where(
                usage.c.day == row.day, usage.c.member == row.member
            )
            if connection.execute(sent).scalar_one() > most:
                raise _NoRoomError("the member may send no more today")

        try:
            await self._database.write(work)
        except _NoRoomError:
            return False
        return True

    async def days(self, first: str, last: str, member: str | None = None) -> list[UsageRow]:
        """The usage from day to day, both included, of everybody or one member.

        By day, then by name. Raises `StorageError`.
        """
        query = select(usage).where(usage.c.day >= first, usage.c.day <= last)
        if member is not None:
            query = query.where(usage.c.member == member)
        query = query.order_by(usage.c.day, usage.c.member)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [UsageRow(**row._mapping) for row in rows]

    async def note(self, entries: Sequence[AuditRow], *, long: bool = False) -> None:
        """Put entries into the record; very many take `long`. Raises `StorageError`; then none
        was."""
        if entries:
            await self._database.write(lambda unit: note_audit(unit, entries), long=long)

    async def record(
        self, *, limit: int, offset: int = 0, member: str | None = None, action: str | None = None
    ) -> list[AuditRow]:
        """Entries of the record, newest first: `limit` of them behind the first `offset`; those of
        a member or an action alone. Raises `StorageError`."""
        query = select(audit.c.at, audit.c.action, audit.c.member, audit.c.entry)
        if member is not None:
            query = query.where(audit.c.member == member)
        if action is not None:
            query = query.where(audit.c.action == action)
        query = query.order_by(audit.c.at.desc(), audit.c.key.desc()).limit(limit).offset(offset)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [AuditRow(*row) for row in rows]

    async def forget_audit(self, before: int) -> int:
        """Remove entries from before a moment (ms); how many there were. Raises `StorageError`."""
        gone = delete(audit).where(audit.c.at < before)
        return await self._database.write(lambda connection: connection.execute(gone).rowcount)


def add_usage(connection: Connection, rows: Sequence[UsageRow]) -> None:
    """Add to what was counted, in the caller's unit."""
    merged: dict[tuple[str, str], UsageRow] = {}
    for row in rows:
        known = merged.setdefault((row.day, row.member), UsageRow(row.day, row.member))
        known.add(row)
    for key in sorted(merged):
        row = merged[key]
        run(connection, _ADD, {name: getattr(row, name) for name in ("day", "member", *COUNTED)})


def submitted_on(connection: Connection, day: str, member: str) -> int:
    """How many jobs the member has submitted on a day, in the caller's unit."""
    query = select(usage.c.submitted).where(usage.c.day == day, usage.c.member == member)
    return int(connection.execute(query).scalar_one_or_none() or 0)


def note_audit(connection: Connection, entries: Sequence[AuditRow]) -> None:
    """Put entries into the record, in the caller's unit."""
    run_many(connection, _NOTE, [asdict(entry) for entry in entries])


def day_of(at: float) -> str:
    """The day (UTC) of a time in seconds since 1970."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()
