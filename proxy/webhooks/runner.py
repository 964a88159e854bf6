"""The engine's half of webhooks, which lasts as long as the process, and its work for one lease."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proxy.bus import EventBus, Subscription
from proxy.jobs.budget_notices import TOPIC as BUDGETS
from proxy.jobs.models import AccountView
from proxy.metrics import Metrics
from proxy.storage.budget_notices import BudgetNoticeRepository
from proxy.storage.encryption import Cipher
from proxy.storage.leases import Fence
from proxy.storage.webhook_deliveries import WebhookDeliveryRepository
from proxy.storage.webhooks import WebhookRepository
from proxy.supervisor import Supervisor
from proxy.webhooks.account_watch import AccountWatch
from proxy.webhooks.budget_watch import BudgetWatch
from proxy.webhooks.delivery import WebhookDelivery
from proxy.webhooks.outbox import TOPIC, Outbox
from proxy.webhooks.schedule import RetrySchedule
from proxy.webhooks.sender import WebhookSender


@dataclass(frozen=True, kw_only=True)
class WebhookRunner:
    """What engines need to tell webhooks what happens."""

    repository: WebhookRepository
    deliveries: WebhookDeliveryRepository
    budgets: BudgetNoticeRepository
    outbox: Outbox
    sender: WebhookSender
    cipher: Cipher
    metrics: Metrics
    schedule: RetrySchedule = field(default_factory=RetrySchedule)

    def run(
        self,
        bus: EventBus,
        supervisor: Supervisor,
        fence: Fence,
        views: Callable[[], Sequence[AccountView]],
    ) -> list[Subscription]:
        """Deliver what waits, and tell of budgets and of the accounts in `views`, as tasks of the
        supervisor of an engine, which closes the subscriptions that this returns."""
        delivery = WebhookDelivery(
            repository=self.repository,
            deliveries=self.deliveries,
            outbox=self.outbox,
            sender=self.sender,
            cipher=self.cipher,
            metrics=self.metrics,
            fence=fence,
            schedule=self.schedule,
        )
        watch = AccountWatch(
            repository=self.repository, outbox=self.outbox, fence=fence, views=views
        )
        budgets = BudgetWatch(repository=self.budgets, outbox=self.outbox, fence=fence)
        supervisor.keep(delivery.run, "deliver to webhooks")
        supervisor.keep(watch.run, "tell webhooks of accounts")
        supervisor.keep(budgets.run, "tell webhooks of budgets")
        return [
            bus.subscribe(TOPIC, self.outbox.receive),
            bus.subscribe(BUDGETS, self.outbox.hear_of_budgets),
        ]
