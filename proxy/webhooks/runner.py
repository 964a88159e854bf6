"""The engine's half of webhooks, which lasts as long as the process, and its work for one lease."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proxy.bus import EventBus, Subscription
from proxy.jobs.models import AccountView
from proxy.metrics import Metrics
from proxy.storage.encryption import Cipher
from proxy.storage.leases import Fence
from proxy.storage.webhook_deliveries import WebhookDeliveryRepository
from proxy.storage.webhooks import WebhookRepository
from proxy.supervisor import Supervisor
from proxy.webhooks.account_watch import AccountWatch
from proxy.webhooks.delivery import WebhookDelivery
from proxy.webhooks.outbox import TOPIC, Outbox
from proxy.webhooks.schedule import RetrySchedule
from proxy.webhooks.sender import WebhookSender


@dataclass(frozen=True, kw_only=True)
class WebhookRunner:
    """What engines need to tell webhooks what happens."""

    repository: WebhookRepository
    deliveries: WebhookDeliveryRepository
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
    ) -> Subscription:
        """Deliver what waits, and tell of the accounts in `views`, as tasks of the supervisor of an
        engine, which closes the subscription that this returns."""
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
        supervisor.keep(delivery.run, "deliver to webhooks")
        supervisor.keep(watch.run, "tell webhooks of accounts")
        return bus.subscribe(TOPIC, self.outbox.receive)
