"""What is left on accounts: as the cloud reports it, else as an admin has entered it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from proxy.costs.credits import CREDITS_PER_USD, MAX_CREDITS, MILLIONTHS, from_credits
from proxy.runtime import clock
from proxy.storage.balances import BalanceRepository, EnteredBalance
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


class UnknownAccountError(Exception):
    """Raised for a name that no account has."""


class GivenBalance(Struct, frozen=True, forbid_unknown_fields=True):
    """What an admin says is left on an account, in credits; `null` removes it."""

    credits: Annotated[float, Meta(ge=0, le=MAX_CREDITS)] | None


class Balances:
    """The balances of the `accounts`, by their names."""

    def __init__(self, repository: BalanceRepository, accounts: Collection[str]) -> None:
        self._repository = repository
        self._accounts = accounts

    async def read(self, plans: Mapping[str, AccountPlan]) -> dict[str, Balance]:
        """Return the balances, with what the `plans` of accounts report. Raises `StorageError`."""
        entered = await self._repository.entered()
        return {
            name: balance_of(plans.get(name, AccountPlan()), entered.get(name))
            for name in self._accounts
        }

    async def enter(self, account: str, balance: GivenBalance) -> None:
        """Note what is left on an account now. Raises `UnknownAccountError` and `StorageError`."""
        if account not in self._accounts:
            names = ", ".join(self._accounts)
            raise UnknownAccountError(f"There is no account {account}; use one of: {names}.")
        amount = None if balance.credits is None else from_credits(balance.credits)
        await self._repository.enter(account, amount, clock.now())


def balance_of(plan: AccountPlan, entered: EnteredBalance | None) -> Balance:
    """Return what is left on an account."""
    cents = plan.balance_cents
    if cents is not None:
        if plan.currency not in ("", "USD"):
            return Balance("reported", None, plan.balance)
        amount = Decimal(cents) * CREDITS_PER_USD * MILLIONTHS / 100
        return Balance("reported", int(amount.to_integral_value(ROUND_HALF_EVEN)), plan.balance)
    if entered is not None:
        return Balance("entered", entered.left, at=entered.at)
    return Balance("unknown")
