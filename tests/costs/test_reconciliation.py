"""The ledger beside what was booked, and what is left on an account."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.costs.reconciliation import Balance, ReconciledDay, balance_of, reconcile
from proxy.storage.billing import AccountBilling, BillingRecord

#: The midnight before 2026-11-25, and a day.
START, DAY = 1_795_564_800_000, 86_400_000


def record(account: AccountBilling | None = None, **parts: object) -> BillingRecord:
    accounts = {} if account is None else {account.account: account}
    empty = {"booked": {}, "ledger": {}, "spent": {}}
    return BillingRecord(accounts, **{**empty, **parts})  # type: ignore[arg-type]


def test_days_that_were_read_are_compared() -> None:
    known = record(
        AccountBilling("main", "allowed", START, START + DAY),
        booked={("2026-11-25", "main"): 50, ("2026-11-25", "other"): 1000},
        ledger={
            ("2026-11-24", "main"): 7,
            ("2026-11-25", "main"): 40,
            ("2026-11-26", "main"): 5,
            ("2026-11-27", "main"): 3,
        },
    )
    (found,) = reconcile(known, ["main"], "2026-11-23", "2026-11-27")
    assert found.days == (
        ReconciledDay("2026-11-24", 7, None),
        ReconciledDay("2026-11-25", 40, 50),
        ReconciledDay("2026-11-26", 5, 0),
        ReconciledDay("2026-11-27", 3, None),
    )
    assert (found.ledger, found.booked, found.difference) == (45, 50, 5)


def test_the_day_of_the_last_reading_is_compared_until_that_reading() -> None:
    known = record(
        AccountBilling("main", "allowed", START, START + DAY + 1, ledger_read=30),
        booked={("2026-11-25", "main"): 50, ("2026-11-26", "main"): 30},
        ledger={("2026-11-25", "main"): 50, ("2026-11-26", "main"): 90},
    )
    (found,) = reconcile(known, ["main"], "2026-11-25", "2026-11-27")
    assert found.days[-1] == ReconciledDay("2026-11-26", 30, 30)
    assert found.difference == 0


def test_nothing_is_compared_where_nothing_was_read() -> None:
    known = record(ledger={("2026-11-25", "main"): 40})
    first, second = reconcile(known, ["main", "new"], "2026-11-25", "2026-11-25")
    assert first.days == (ReconciledDay("2026-11-25", 40, None),)
    assert (first.ledger, first.booked, first.difference) == (None, None, None)
    assert (second.account, second.days) == (AccountBilling("new"), ())


def test_a_day_without_any_amount_agrees() -> None:
    known = record(AccountBilling("main", "allowed", START, START + 1))
    (found,) = reconcile(known, ["main"], "2026-11-25", "2026-11-25")
    assert (found.days, found.ledger, found.booked, found.difference) == ((), 0, 0, 0)


AMOUNTS = st.dictionaries(
    st.tuples(st.integers(20, 29).map("2026-11-{}".format), st.sampled_from(["main", "other"])),
    st.integers(0, 10**12),
)


@given(AMOUNTS, AMOUNTS, st.integers(-6, 6), st.integers(0, 8))
def test_the_sums_are_those_of_the_days_that_were_read(
    booked: dict[tuple[str, str], int],
    ledger: dict[tuple[str, str], int],
    begin: int,
    length: int,
) -> None:
    read_from = START + begin * DAY
    account = AccountBilling("main", "allowed", read_from, read_from + length * DAY)
    known = record(account, booked=booked, ledger=ledger)
    (found,) = reconcile(known, ["main"], "2026-11-20", "2026-11-29")
    read = [day for day in found.days if day.booked is not None]
    assert found.ledger in (None, sum(day.ledger for day in read))
    assert found.booked in (None, sum(day.booked or 0 for day in read))
    assert (found.ledger is None) == (found.booked is None) == (found.difference is None)
    assert sum(day.ledger for day in found.days) == sum(
        amount for (_, name), amount in ledger.items() if name == "main"
    )


@pytest.mark.parametrize(
    ("account", "spent", "balance"),
    [
        (AccountBilling("a"), 0, Balance("unknown")),
        (
            AccountBilling("a", balance_cents=1234, currency="USD"),
            0,
            Balance("reported", 2_603_740_000, "12.34 USD"),
        ),
        (
            AccountBilling("a", balance_cents=0, currency="USD", entered=5),
            0,
            Balance("reported", 0, "0.00 USD"),
        ),
        (
            AccountBilling("a", balance_cents=-50, currency=""),
            0,
            Balance("reported", -105_500_000, "-0.50"),
        ),
        (
            AccountBilling("a", balance_cents=100, currency="EUR"),
            0,
            Balance("reported", None, "1.00 EUR"),
        ),
        (
            AccountBilling("a", entered=500_000_000, entered_at=START, spent_before=0),
            120_000_000,
            Balance("entered", 380_000_000, at=START),
        ),
        (
            AccountBilling("a", entered=1, entered_at=START, spent_before=0),
            3,
            Balance("entered", -2, at=START),
        ),
    ],
)
def test_what_is_left_is_reported_or_entered_or_unknown(
    account: AccountBilling, spent: int, balance: Balance
) -> None:
    assert balance_of(account, spent) == balance
