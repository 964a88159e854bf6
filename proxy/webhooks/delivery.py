"""Delivers what waits for endpoints: the part of the engine that runs under its lease.

Attempts run beside each other. Of one endpoint a few are under way at once, and one while it fails,
so that an endpoint that does not answer holds up no other. Deliveries are claimed with the fence of
the lease; what was under way when a process died is repeated with the same id.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from proxy import clock
from proxy.metrics import Metrics
from proxy.storage.database import FencedError, StorageError
from proxy.storage.encryption import Cipher
from proxy.storage.leases import Fence
from proxy.storage.webhook_deliveries import Attempted, Claimed, WebhookDeliveryRepository
from proxy.storage.webhooks import WebhookRepository
from proxy.webhooks.messages import TEST
from proxy.webhooks.outbox import Outbox
from proxy.webhooks.schedule import RetrySchedule
from proxy.webhooks.sender import EndpointAnswer, WebhookSender

log = structlog.get_logger(__name__)

#: Attempts under way at once; fewer than the connections that a session may have.
MAX_CONCURRENT = 90
#: Seconds between two looks for what nothing has announced, and after a failure of the storage.
INTERVAL, _RETRY_DELAY = 5.0, 1.0
#: Seconds between two clean-ups, and days for which ended deliveries stay in the log.
_CLEANING_INTERVAL, _LOG_DAYS = 3600.0, 7


@dataclass(kw_only=True, eq=False, repr=False)
class WebhookDelivery:
    """Delivers messages while a lease lasts, whose writes carry the `fence`."""

    repository: WebhookRepository
    deliveries: WebhookDeliveryRepository
    outbox: Outbox
    sender: WebhookSender
    cipher: Cipher
    metrics: Metrics
    fence: Fence
    schedule: RetrySchedule = field(default_factory=RetrySchedule)
    _under_way: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        """Deliver, until cancelled."""
        self.outbox.forget()  # what an earlier engine knew may be no longer true
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._clean(), name="clean up webhooks")
            while True:
                self.outbox.news.clear()
                try:
                    wait = await self._begin(tasks)
                except FencedError:
                    await asyncio.Event().wait()  # another engine delivers; this one is stopped
                except StorageError as error:
                    log.warning("webhooks_read_failed", error=str(error))
                    wait = _RETRY_DELAY
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self.outbox.news.wait()

    async def _begin(self, tasks: asyncio.TaskGroup) -> float:
        """Begin the attempts that are due and have room; return the seconds until the next look.
        Raises `StorageError`."""
        outlook = await self.deliveries.outlook()
        if not self.outbox.news.is_set():
            self.outbox.wanted = outlook.types
        room = MAX_CONCURRENT - self._under_way.total()
        if outlook.wait is None or outlook.wait > 0 or room <= 0:
            return min(INTERVAL, outlook.wait or INTERVAL)
        claimed = await self.deliveries.claim(
            room, dict(self._under_way), hold=self.schedule.hold, fence=self.fence
        )
        for delivery in claimed:
            self._under_way[delivery.webhook] += 1
            tasks.create_task(self._attempt(delivery), name=f"webhook {delivery.webhook}")
        return 0.0 if claimed else INTERVAL

    async def _attempt(self, claimed: Claimed) -> None:
        try:
            answer = await self._send(claimed)
            attempted = self._judged(claimed, answer)
            log.info(
                "webhook_attempted",
                webhook=claimed.webhook,
                message=claimed.message,
                type=claimed.type,
                attempt=claimed.attempts,
                status=answer.status,
                outcome=attempted.outcome,
            )
            result = "delivered" if answer.accepted else "failed"
            self.metrics.webhook_attempts.labels(claimed.member, result).inc()
            if await self.deliveries.settle(claimed, attempted):
                log.warning("webhook_disabled", webhook=claimed.webhook, member=claimed.member)
        except StorageError as error:
            # The delivery is attempted again when it is held no longer.
            log.warning("webhook_save_failed", webhook=claimed.webhook, error=str(error))
        finally:
            self._under_way[claimed.webhook] -= 1
            if not self._under_way[claimed.webhook]:
                del self._under_way[claimed.webhook]
            self.outbox.news.set()

    async def _send(self, claimed: Claimed) -> EndpointAnswer:
        """Send a message, and return what became of it. Raises `StorageError`."""
        secret = self.cipher.decrypt(claimed.secret)
        if secret is None:
            return EndpointAnswer(
                note="The secret of this webhook cannot be read, because the secret of the proxy "
                "is another one: make a new secret for it."
            )
        return await self.sender.send(
            claimed.url, secret.decode(), claimed.message, claimed.body, self.schedule.timeout
        )

    def _judged(self, claimed: Claimed, answer: EndpointAnswer) -> Attempted:
        """Return what an answer means for a delivery and its endpoint."""
        if answer.accepted:
            return Attempted("delivered", answer.status)
        if answer.gone:
            disabled = None if claimed.type == TEST else answer.note
            return Attempted("failed", answer.status, answer.note, disabled=disabled)
        age = clock.time() - claimed.created / 1000
        wait = None
        if claimed.type != TEST:
            wait = self.schedule.wait(claimed.attempts, age, answer.retry_after)
        if wait is not None:
            return Attempted("waiting", answer.status, answer.note, wait)
        disabled = None if claimed.type == TEST else f"It failed for long. {answer.note}"
        return Attempted(
            "failed",
            answer.status,
            answer.note,
            disabled=disabled,
            disabled_after=self.schedule.max_age / 2,
        )

    async def _clean(self) -> None:
        """Forget old deliveries, attempt what a wrong clock has put off, and encrypt secrets with
        the newest secret of the proxy."""
        while True:
            try:
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
            except StorageError as error:
                log.warning("webhooks_clean_failed", error=str(error))
            await asyncio.sleep(_CLEANING_INTERVAL)
