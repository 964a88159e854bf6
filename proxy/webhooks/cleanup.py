"""Periodic work on webhooks: old deliveries, secrets, and clocks that were wrong."""

from __future__ import annotations

import asyncio
from dataclasses import KW_ONLY, dataclass

import structlog

from proxy.runtime import clock
from proxy.storage.database import StorageError
from proxy.storage.encryption import Cipher
from proxy.storage.webhook_deliveries import WebhookDeliveryRepository
from proxy.storage.webhooks import WebhookRepository
from proxy.webhooks.outbox import Outbox
from proxy.webhooks.schedule import RetrySchedule

log = structlog.get_logger(__name__)

#: Seconds between two clean-ups, and days for which ended deliveries stay in the log.
_INTERVAL, _LOG_DAYS = 3600.0, 7


@dataclass(eq=False, repr=False)
class WebhookCleanup:
    """Forgets old deliveries, attempts what a wrong clock has put off, and encrypts secrets with
    the newest secret of the proxy."""

    repository: WebhookRepository
    deliveries: WebhookDeliveryRepository
    _: KW_ONLY
    outbox: Outbox
    cipher: Cipher
    schedule: RetrySchedule

    async def run(self) -> None:
        """Clean up each hour, until cancelled."""
        while True:
            try:
                await self._clean()
            except StorageError as error:
                log.warning("webhooks_clean_failed", error=str(error))
            await asyncio.sleep(_INTERVAL)

    async def _clean(self) -> None:
        await self.deliveries.bring_forward(self.schedule.longest)
        self.outbox.news.set()
        await self.deliveries.forget(int((clock.time() - _LOG_DAYS * 86_400) * 1000))
        renewed = {
            webhook.id: (webhook.secret, secret)
            for webhook in await self.repository.endpoints()
            if (secret := self.cipher.renewed(webhook.secret)) is not None
        }
        if renewed:
            await self.repository.replace_secrets(renewed)
