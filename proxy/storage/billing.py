"""What the cloud has booked for the keys of accounts, and what is left on these accounts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Connection, Table, delete, func, insert, select

from proxy.storage.costs import costs
from proxy.storage.database import Repository
from proxy.storage.leases import Fence, check_fence
from proxy.storage.statements import Upsert, chunks, run, run_many
from proxy.storage.tables import PlainText, table_of
from proxy.storage.usage import day_of


class AccountBilling(Struct, frozen=True):
    """What is known of an account's billing. Times are in ms since 1970, `None` is unknown.

    `access` says whether the cloud lets the key read what it books: `allowed`, `refused` or
    `unknown`. What it booked is read from `read_from` to `read_to`, last tried at `tried_at`; jobs
    that had ended by `read_to` on its day had cost `ledger_read` (`None`: not noted).
    `balance_cents` in `currency` is what the cloud says is left. An admin has `entered` that so
    many millionths of a credit were left at `entered_at`, and jobs that had ended on that day
    before had cost `spent_before`.
    """

    account: str
    access: PlainText = "unknown"
    read_from: int | None = None
    read_to: int | None = None
    tried_at: int | None = None
    balance_cents: int | None = None
    currency: PlainText = ""
    entered: int | None = None
    entered_at: int | None = None
    spent_before: int | None = None
    ledger_read: int | None = None


class BookedRow(Struct, frozen=True):
    """What the cloud has booked for an account's key on a day (UTC): the `amount` of so many
    `events` of a type, in millionths of a credit."""

    day: PlainText
    account: str
    event_type: PlainText
    amount: int
    events: int


class BookedEventRow(Struct, frozen=True):
    """An event that is counted in a `BookedRow`, so that it is not counted again."""

    account: str
    event_id: str
    at: int


class Booking(Struct, frozen=True):
    """An event to count: its id, its type, when it was (ms), and its amount in millionths."""

    id: str
    type: str
    at: int
    amount: int


class BillingRecord(Struct, frozen=True):
    """All that is recorded of some days: accounts by name, amounts by day and account, and what was
    spent on each account since its balance was entered."""

    accounts: Mapping[str, AccountBilling]
    booked: Mapping[tuple[str, str], int]
    ledger: Mapping[tuple[str, str], int]
    spent: Mapping[str, int]


billing = table_of(AccountBilling, "billing", keys=("account",), rowid=False)
booked = table_of(BookedRow, "booked", keys=("day", "account", "event_type"), rowid=False)
booked_events = table_of(BookedEventRow, "booked_events", keys=("account", "event_id"), rowid=False)

_ADD = Upsert(booked, how="add")
_READ = Upsert(billing, "access", "read_from", "read_to", "ledger_read", "tried_at")
_TRIED = Upsert(billing, "access", "tried_at")
_BALANCE = Upsert(billing, "balance_cents", "currency")
_ENTERED = Upsert(billing, "entered", "entered_at", "spent_before")


class BillingRepository(Repository):
    """What the cloud has booked, beside what the proxy says that its jobs have cost."""

    async def account(self, name: str) -> AccountBilling:
        """Return what is known of an account."""
        return await self.database.read(lambda connection: _account(connection, name))

    async def book(
        self,
        account: str,
        bookings: Sequence[Booking],
        since: int,
        until: int,
        *,
        forget: int,
        ledger: int | None = None,
        fence: Fence | None = None,
    ) -> None:
        """Count the bookings between two times (ms) that are not counted yet. The ids of those
        before `forget` are deleted: they must not be read again. By `until` the jobs of its day had
        cost `ledger`."""

        def work(connection: Connection) -> None:
            check_fence(connection, fence)
            known = _known(connection, account, [booking.id for booking in bookings])
            new = {booking.id: booking for booking in bookings if booking.id not in known}
            run_many(
                connection,
                insert(booked_events),
                [asdict(BookedEventRow(account, each.id, each.at)) for each in new.values()],
            )
            for row in _rows(account, new.values()):
                run(connection, _ADD, asdict(row))
            b = booked_events.c
            connection.execute(delete(booked_events).where(b.account == account, b.at < forget))
            begun = _account(connection, account).read_from
            read = {
                "access": "allowed",
                "read_from": since if begun is None else begun,
                "read_to": until,
                "ledger_read": ledger,
                "tried_at": until,
            }
            _put(connection, _READ, account, read)

        await self.database.write(work)

    async def spent_today(self, account: str, at: int) -> int:
        """Return what jobs have cost on the day of a moment (ms)."""
        return await self.database.read(lambda connection: _spent(connection, account, at))

    async def tried(
        self, account: str, access: str, at: int, *, fence: Fence | None = None
    ) -> None:
        """Note that the cloud did not say what it has booked."""
        values = {"access": access, "tried_at": at}
        await self.database.write(
            lambda connection: _put_fenced(connection, _TRIED, account, values, fence)
        )

    async def balance(
        self, account: str, cents: int | None, currency: str, *, fence: Fence | None = None
    ) -> None:
        """Note what the cloud says is left on an account."""
        values = {"balance_cents": cents, "currency": currency}
        await self.database.write(
            lambda connection: _put_fenced(connection, _BALANCE, account, values, fence)
        )

    async def enter(self, account: str, amount: int | None, at: int) -> None:
        """Note what an admin says is left on an account, in millionths; `None` removes it."""

        def work(connection: Connection) -> None:
            spent = _spent(connection, account, at)
            values = {"entered": amount, "entered_at": at, "spent_before": spent}
            if amount is None:
                values = dict.fromkeys(values)
            _put(connection, _ENTERED, account, values)

        await self.database.write(work)

    async def record(self, first: str, last: str) -> BillingRecord:
        """Return what is recorded from day to day, both included."""

        def work(connection: Connection) -> BillingRecord:
            rows = connection.execute(select(billing))
            accounts = {row.account: AccountBilling(**row._mapping) for row in rows}
            spent = {
                name: _spent(connection, name, account.entered_at) - account.spent_before
                for name, account in accounts.items()
                if account.entered_at is not None and account.spent_before is not None
            }
            return BillingRecord(
                accounts,
                _by_day(connection, booked, first, last),
                _by_day(connection, costs, first, last),
                spent,
            )

        return await self.database.read(work)


def _by_day(
    connection: Connection, table: Table, first: str, last: str
) -> dict[tuple[str, str], int]:
    """Return the sum of a table's amounts by day and account."""
    t = table.c
    query = (
        select(t.day, t.account, func.sum(t.amount))
        .where(t.day >= first, t.day <= last)
        .group_by(t.day, t.account)
    )
    return {(day, account): int(amount) for day, account, amount in connection.execute(query)}


def _account(connection: Connection, name: str) -> AccountBilling:
    row = connection.execute(select(billing).where(billing.c.account == name)).one_or_none()
    return AccountBilling(name) if row is None else AccountBilling(**row._mapping)


def _known(connection: Connection, account: str, ids: Sequence[str]) -> Collection[str]:
    """Return the ids that are counted."""
    b, found = booked_events.c, set[str]()
    for some in chunks(ids):
        query = select(b.event_id).where(b.account == account, b.event_id.in_(some))
        found.update(connection.execute(query).scalars())
    return found


def _rows(account: str, bookings: Collection[Booking]) -> list[BookedRow]:
    """Return what to add to each day."""
    sums: dict[tuple[str, str], list[int]] = {}
    for each in bookings:
        sums.setdefault((day_of(each.at / 1000), each.type), []).append(each.amount)
    return [
        BookedRow(day, account, type_, sum(amounts), len(amounts))
        for (day, type_), amounts in sorted(sums.items())
    ]


def _spent(connection: Connection, account: str, since: int) -> int:
    """Return what jobs have cost from the beginning of the day of a moment (ms)."""
    query = select(func.sum(costs.c.amount)).where(
        costs.c.account == account, costs.c.day >= day_of(since / 1000)
    )
    return int(connection.execute(query).scalar_one() or 0)


def _put_fenced(
    connection: Connection,
    statement: Upsert,
    account: str,
    values: Mapping[str, object],
    fence: Fence | None,
) -> None:
    check_fence(connection, fence)
    _put(connection, statement, account, values)


def _put(
    connection: Connection, statement: Upsert, account: str, values: Mapping[str, object]
) -> None:
    run(connection, statement, {**asdict(AccountBilling(account)), **values})
