"""The billing of all accounts for admins: the ledger beside what was booked, and the balances."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from msgspec import Meta, Struct

from proxy import clock
from proxy.costs.credits import MAX_CREDITS, from_credits
from proxy.costs.reconciliation import Reconciliation, reconcile
from proxy.storage.billing import BillingRepository

#: Days of a usual report, and the most that one may have.
DAYS, MAX_DAYS = 30, 400


class UnknownAccountError(Exception):
    """Raised for a name that no account has."""


class EnteredBalance(Struct, frozen=True, forbid_unknown_fields=True):
    """What an admin says is left on an account, in credits; `null` removes it."""

    credits: Annotated[float, Meta(ge=0, le=MAX_CREDITS)] | None


class Billing:
    """The billing of the `accounts`, by their names."""

    def __init__(self, repository: BillingRepository, accounts: Collection[str]) -> None:
        self._repository = repository
        self._accounts = accounts

    async def report(self, first: str, last: str) -> list[Reconciliation]:
        """Return the accounts from day to day (`YYYY-MM-DD`, UTC), both included. Raises
        `StorageError`."""
        record = await self._repository.record(first, last)
        return reconcile(record, self._accounts, first, last)

    async def enter(self, account: str, balance: EnteredBalance) -> None:
        """Note what is left on an account now. Raises `UnknownAccountError` and `StorageError`."""
        if account not in self._accounts:
            names = ", ".join(self._accounts)
            raise UnknownAccountError(f"There is no account {account}; use one of: {names}.")
        amount = None if balance.credits is None else from_credits(balance.credits)
        await self._repository.enter(account, amount, clock.now())
