"""Which accounts to ask for something that each of them could give, the best first."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.accounts.account import Account


def best_first(accounts: Iterable[Account], member: str | None = None) -> list[Account]:
    """The accounts, those of which nothing bad is known before the rest.

    With a `member` only those that the member may use.
    """
    usable = [account for account in accounts if member is None or account.allows(member)]
    return sorted(usable, key=lambda account: not account.health.well)
