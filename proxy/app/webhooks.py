"""Webhooks: what their owners do with them, and what the engine tells them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from proxy.app.process import Process
from proxy.app.storage import OpenStorage
from proxy.settings import Settings
from proxy.storage.budget_notices import BudgetNoticeRepository
from proxy.storage.webhook_deliveries import WebhookDeliveryRepository
from proxy.storage.webhooks import WebhookRepository
from proxy.webhooks.addresses import WebhookAddresses
from proxy.webhooks.delivery import WebhookCleanup, WebhookDelivery
from proxy.webhooks.endpoints import Webhooks
from proxy.webhooks.outbox import Outbox
from proxy.webhooks.runner import WebhookRunner
from proxy.webhooks.sender import WebhookSender


@dataclass(frozen=True)
class OpenWebhooks:
    """The api's half and the engine's."""

    endpoints: Webhooks
    runner: WebhookRunner


def addresses_of(settings: Settings) -> WebhookAddresses:
    """Return where webhooks may go."""
    return WebhookAddresses(settings.webhook_networks)


@asynccontextmanager
async def open_webhooks(process: Process, storage: OpenStorage) -> AsyncIterator[OpenWebhooks]:
    """Open both halves of webhooks."""
    addresses = addresses_of(process.settings)
    repository = WebhookRepository(storage.database)
    deliveries, schedule = WebhookDeliveryRepository(storage.database), process.policy.webhooks
    outbox, sender = Outbox(), WebhookSender(addresses.check)
    await sender.start()
    try:
        yield OpenWebhooks(
            Webhooks(
                repository,
                storage.cipher,
                addresses,
                changed=outbox.forget,
            ),
            WebhookRunner(
                repository=repository,
                budgets=BudgetNoticeRepository(storage.database),
                outbox=outbox,
                cleanup=WebhookCleanup(
                    repository,
                    deliveries,
                    outbox=outbox,
                    cipher=storage.cipher,
                    schedule=schedule,
                ),
                deliver=partial(
                    WebhookDelivery,
                    deliveries=deliveries,
                    outbox=outbox,
                    sender=sender,
                    cipher=storage.cipher,
                    metrics=process.metrics,
                    schedule=schedule,
                ),
            ),
        )
    finally:
        await sender.close()
