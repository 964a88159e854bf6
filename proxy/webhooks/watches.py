"""Tells webhooks of accounts that take no jobs, or take them again, and of budgets that are near or
reached.

What was sent is in the storage, so that the next leader, or the next start, does not send it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from proxy.jobs.models import AccountView
from proxy.runtime.waits import until_set
from proxy.storage.budget_notices import BudgetNoticeRepository
from proxy.storage.database import StorageError
from proxy.storage.leases import Fence
from proxy.storage.webhooks import WebhookRepository
from proxy.webhooks.messages import GATEWAY_TYPES, account_message, budget_message
from proxy.webhooks.outbox import Outbox

log = structlog.get_logger(__name__)

#: Seconds between two looks at the accounts.
INTERVAL = 1.0
#: Seconds for which a trouble must last before it is sent, by its reason. Others are of load, and
#: are not sent.
DELAYS = {
    **dict.fromkeys(("dead_key", "no_credits", "stopped", "no_nodes"), 0.0),
    "unreachable": 60.0,
}


def changes(sent: Mapping[str, str], troubles: Mapping[str, str]) -> Iterable[tuple[str, str, str]]:
    """Yield the type of each message that is due, its account and the reason."""
    for account, reason in troubles.items():
        if sent.get(account) != reason:
            yield "account.unavailable", account, reason
    for account, reason in sent.items():
        if account not in troubles:
            yield "account.recovered", account, reason


@dataclass(kw_only=True, eq=False, repr=False)
class AccountWatch:
    """Watches the accounts, which `views` returns as they are now."""

    repository: WebhookRepository
    outbox: Outbox
    fence: Fence
    views: Callable[[], Sequence[AccountView]]
    _since: dict[tuple[str, str], float] = field(init=False, default_factory=dict)

    async def run(self) -> None:
        """Watch, until cancelled."""
        sent: dict[str, str] | None = None
        while True:
            await asyncio.sleep(INTERVAL)
            troubles = self.troubles(asyncio.get_running_loop().time())
            if self.outbox.wanted.isdisjoint(GATEWAY_TYPES):
                sent = None
                continue
            try:
                if sent is None:
                    sent = await self.repository.sent_accounts()
                troubles = {**self.lasting(sent), **troubles}
                messages = [account_message(*change) for change in changes(sent, troubles)]
                if messages:
                    is_told = await self.repository.send_account_messages(
                        sent, troubles, messages, fence=self.fence
                    )
                    sent = troubles if is_told else None
                    self.outbox.news.set()
            except StorageError as error:
                log.warning("webhooks_save_failed", error=str(error))

    def lasting(self, sent: Mapping[str, str]) -> dict[str, str]:
        """Return what was sent of accounts that are not known to do well again: after a change of
        the engine, of those that have not taken a job."""
        well = {view.name for view in self.views() if view.known and view.reason is None}
        return {account: reason for account, reason in sent.items() if account not in well}

    def troubles(self, now: float) -> dict[str, str]:
        """Return the accounts with a trouble that has lasted, each with its reason."""
        seen = [(view.name, view.reason or "") for view in self.views() if view.reason in DELAYS]
        self._since = {trouble: self._since.get(trouble, now) for trouble in seen}
        return {
            name: reason
            for (name, reason), since in self._since.items()
            if now - since >= DELAYS[reason]
        }


#: Seconds after which it looks although it heard of nothing: a notice whose commit had no answer
#: may be stored.
BUDGET_INTERVAL = 30.0
#: Seconds before it looks again when the storage refuses.
_RETRY_DELAY = 1.0


@dataclass(kw_only=True, eq=False, repr=False)
class BudgetWatch:
    """Makes messages of notices, for the engine that has the `fence`."""

    repository: BudgetNoticeRepository
    outbox: Outbox
    fence: Fence

    async def run(self) -> None:
        """Send new notices, until cancelled."""
        while True:
            self.outbox.budgets.clear()
            try:
                if notices := await self.repository.unsent():
                    await self.repository.send(notices, budget_message, fence=self.fence)
                    self.outbox.news.set()
            except StorageError as error:
                log.warning("webhooks_save_failed", error=str(error))
                await asyncio.sleep(_RETRY_DELAY)
                continue
            await until_set(self.outbox.budgets, BUDGET_INTERVAL)
