"""What the engine does for webhooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy.jobs.models import AccountView
from proxy.runtime.supervisor import Supervisor
from proxy.storage.budget_notices import BudgetNoticeRepository
from proxy.storage.leases import Fence
from proxy.storage.webhooks import WebhookRepository
from proxy.webhooks.delivery import WebhookCleanup, WebhookDelivery
from proxy.webhooks.outbox import Outbox
from proxy.webhooks.watches import AccountWatch, BudgetWatch


@dataclass(frozen=True, kw_only=True)
class WebhookRunner:
    """What the engine needs to tell webhooks what happens; `deliver` returns the delivery of a
    lease, by its fence."""

    repository: WebhookRepository
    budgets: BudgetNoticeRepository
    outbox: Outbox
    cleanup: WebhookCleanup
    deliver: Callable[[Fence], WebhookDelivery]

    def run(
        self,
        supervisor: Supervisor,
        fence: Fence,
        views: Callable[[], Sequence[AccountView]],
    ) -> None:
        """Deliver messages, and report budgets and the accounts in `views`, as tasks of the
        supervisor of an engine."""
        watch = AccountWatch(
            repository=self.repository, outbox=self.outbox, fence=fence, views=views
        )
        budgets = BudgetWatch(repository=self.budgets, outbox=self.outbox, fence=fence)
        supervisor.keep(self.deliver(fence).run, "deliver to webhooks")
        supervisor.keep(self.cleanup.run, "clean up webhooks")
        supervisor.keep(watch.run, "tell webhooks of accounts")
        supervisor.keep(budgets.run, "tell webhooks of budgets")
