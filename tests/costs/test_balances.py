"""What is left on an account: reported, entered or unknown."""

from __future__ import annotations

import pytest

from proxy.costs.balances import Balance, balance_of
from proxy.storage.balances import EnteredBalance
from proxy.translate.plans import AccountPlan

ENTERED = EnteredBalance(-2, 7)


@pytest.mark.parametrize(
    ("plan", "entered", "balance"),
    [
        (AccountPlan(), None, Balance("unknown")),
        (
            AccountPlan(balance_cents=1234, currency="USD"),
            None,
            Balance("reported", 2_603_740_000, "12.34 USD"),
        ),
        (
            AccountPlan(balance_cents=0, currency="USD"),
            ENTERED,
            Balance("reported", 0, "0.00 USD"),
        ),
        (AccountPlan(balance_cents=-50), None, Balance("reported", -105_500_000, "-0.50")),
        (
            AccountPlan(balance_cents=100, currency="EUR"),
            None,
            Balance("reported", None, "1.00 EUR"),
        ),
        (AccountPlan(tier="PRO"), ENTERED, Balance("entered", -2, at=7)),
    ],
)
def test_what_is_left_is_reported_or_entered_or_unknown(
    plan: AccountPlan, entered: EnteredBalance | None, balance: Balance
) -> None:
    assert balance_of(plan, entered) == balance
