"""The proxy's own ledger beside what the cloud has booked, by account and day. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal, TypeAlias

from msgspec import Struct

from proxy.costs.credits import CREDITS_PER_USD, MILLIONTHS
from proxy.storage.billing import AccountBilling, BillingRecord
from proxy.storage.usage import day_of
from proxy.translate.plans import AccountPlan

#: Where a balance comes from: the cloud reports it, an admin has entered it, or nobody knows it.
BalanceSource: TypeAlias = Literal["reported", "entered", "unknown"]


class Balance(Struct, frozen=True):
    """What is left on an account: an `amount` in millionths of a credit, which may be negative, and
    is `None` in a currency that buys no credits here. `text` is what the cloud reports, in its
    currency; `at` is when an admin has entered a balance (ms)."""

    source: BalanceSource
    amount: int | None = None
    text: str = ""
    at: int | None = None


class ReconciledDay(Struct, frozen=True):
    """A day (UTC): what jobs have cost by the ledger, and what the cloud has booked, in millionths
    of a credit; `None` where that has not been read. Of the day of the last reading both are what
    was known at that reading."""

    day: str
    ledger: int
    booked: int | None


class Reconciliation(Struct, frozen=True):
    """An account's ledger beside what the cloud has booked for its key.

    `ledger` and `booked` are the sums of those `days` of which both are known, the `difference` is
    what was booked beyond the ledger; all three are `None` without such a day.
    """

    account: AccountBilling
    balance: Balance
    days: tuple[ReconciledDay, ...]
    ledger: int | None = None
    booked: int | None = None

    @property
    def difference(self) -> int | None:
        """What was booked beyond the ledger, in millionths of a credit."""
        if self.booked is None or self.ledger is None:
            return None
        return self.booked - self.ledger


def reconcile(
    record: BillingRecord, names: Iterable[str], first: str, last: str
) -> list[Reconciliation]:
    """Return each account's reconciliation from day to day; days without any amount are left
    out."""
    found = []
    for name in names:
        account = record.accounts.get(name, AccountBilling(name))
        days = [_day(record, account, day) for day in _days(first, last)]
        known = [day for day in days if day.booked is not None]
        found.append(
            Reconciliation(
                account,
                balance_of(account, record.spent.get(name, 0)),
                tuple(day for day in days if day.ledger or day.booked),
                sum(day.ledger for day in known) if known else None,
                sum(day.booked or 0 for day in known) if known else None,
            )
        )
    return found


def balance_of(account: AccountBilling, spent: int) -> Balance:
    """Return what is left on an account: as the cloud reports it, else as an admin has entered it,
    less what jobs have `spent` since (millionths of a credit)."""
    cents = account.balance_cents
    if cents is not None:
        text = AccountPlan(balance_cents=cents, currency=account.currency).balance
        if account.currency not in ("", "USD"):
            return Balance("reported", None, text)
        amount = Decimal(cents) * CREDITS_PER_USD * MILLIONTHS / 100
        return Balance("reported", int(amount.to_integral_value(ROUND_HALF_EVEN)), text)
    if account.entered is not None:
        return Balance("entered", account.entered - spent, at=account.entered_at)
    return Balance("unknown")


def _day(record: BillingRecord, account: AccountBilling, day: str) -> ReconciledDay:
    key = (day, account.account)
    begin, end = account.read_from, account.read_to
    is_read = (
        begin is not None
        and end is not None
        and (day_of(begin / 1000) <= day <= day_of(end / 1000))
    )
    ledger = record.ledger.get(key, 0)
    if account.ledger_read is not None and end is not None and day == day_of(end / 1000):
        ledger = account.ledger_read
    return ReconciledDay(day, ledger, record.booked.get(key, 0) if is_read else None)


def _days(first: str, last: str) -> Iterable[str]:
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    return (str(begin + timedelta(days=count)) for count in range((end - begin).days + 1))
