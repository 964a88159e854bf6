"""Delivers what waits for endpoints: the part of the engine that runs under its lease.

Attempts run beside each other. Of one endpoint a few are under way at once, and one while it fails;
the endpoints of one owner have a share of all attempts, and of the bytes of an hour. So endpoints
that do not answer hold up nobody else's, and a deleted one gives its attempts back at once.
Deliveries are claimed with the fence of the lease; what was under way when a process died is
repeated with the same id.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import KW_ONLY, dataclass, field

import structlog
from msgspec import Struct

from proxy.cloud.resilience import MAX_RETRY_AFTER
from proxy.logging import FailureLines
from proxy.members.rates import Buckets
from proxy.metrics import Metrics
from proxy.runtime import clock
from proxy.runtime.backoff import Backoff
from proxy.runtime.waits import until_set
from proxy.sharing.owners import Owner
from proxy.sharing.pool import Pool
from proxy.storage.database import StorageError
from proxy.storage.encryption import Cipher
from proxy.storage.leases import Fence
from proxy.storage.webhook_deliveries import Attempted, Claimed, WebhookDeliveryRepository
from proxy.storage.webhooks import WebhookRepository
from proxy.webhooks.messages import TEST
from proxy.webhooks.outbox import Outbox
from proxy.webhooks.resolver import OWNER
from proxy.webhooks.sender import EndpointAnswer, WebhookSender

#: Seconds for writing the outcome of an attempt.
_MARGIN = 5.0


class RetrySchedule(Struct, frozen=True):
    """The times of attempts, in seconds: each takes at most `timeout`, the waits between them grow
    with the `backoff`, and none begins more than `max_age` after the message."""

    timeout: float = 15.0
    backoff: Backoff = Backoff(10.0, 4 * 3600.0, factor=3.0)
    max_age: float = 86_400.0

    @property
    def hold(self) -> float:
        """How long a delivery is held for an attempt and for writing its outcome."""
        return self.timeout + _MARGIN

    @property
    def longest(self) -> float:
        """The longest time for which a delivery is put off."""
        return max(self.hold, self.backoff.longest, MAX_RETRY_AFTER)

    def wait(self, attempts: int, age: float, asked: float | None = None) -> float | None:
        """Return the wait after this many failed attempts, `None` if there is no further one.

        `age` is that of the message, `asked` the `Retry-After` of the last answer.
        """
        wait = max(self.backoff.after(attempts), asked or 0.0)
        return None if age + wait > self.max_age else wait


log = structlog.get_logger(__name__)

#: Attempts under way at once; fewer than the connections that a session may have.
MAX_CONCURRENT = 90
#: Attempts that any owner may have under way, however many others have.
MIN_ATTEMPTS = 4
#: Bytes of messages that the endpoints of an owner are sent in an hour.
MAX_BYTES_AN_HOUR = 32 * 1024 * 1024
#: Seconds between two looks for what nothing has announced, and after a failure of the storage.
INTERVAL, _RETRY_DELAY = 5.0, 1.0


class AttemptPool:
    """The attempts that may be under way at once, of which the `owners` of those that are have one
    each."""

    def __init__(self, owners: Iterable[str]) -> None:
        self._pool = Pool(MAX_CONCURRENT, MIN_ATTEMPTS)
        for owner in owners:
            self._pool.take(_owner(owner), 1)

    def take(self, owner: str) -> bool:
        """Take an attempt for an owner; return whether there was one."""
        return self._pool.take(_owner(owner), 1)

    def is_full(self, owner: str) -> bool:
        """Return whether an owner gets no further attempt."""
        return not self._pool.fits(_owner(owner), 1)


def _owner(member: str) -> Owner:
    return Owner(member or "the gateway")  # which is no name of a member


@dataclass(eq=False, repr=False)
class WebhookDelivery:
    """Delivers messages while a lease lasts, whose writes carry the `fence`."""

    fence: Fence
    _: KW_ONLY
    deliveries: WebhookDeliveryRepository
    outbox: Outbox
    sender: WebhookSender
    cipher: Cipher
    metrics: Metrics
    schedule: RetrySchedule = field(default_factory=RetrySchedule)
    _under_way: dict[asyncio.Task[None], Claimed] = field(init=False, default_factory=dict)
    #: What owners may send, and until when (loop time) those are excluded that have sent more.
    _bytes: Buckets = field(
        init=False, default_factory=lambda: Buckets(MAX_BYTES_AN_HOUR / 3600, MAX_BYTES_AN_HOUR)
    )
    _excluded: dict[str, float] = field(init=False, default_factory=dict)

    async def run(self) -> None:
        """Deliver, until cancelled."""
        self.outbox.forget()  # what an earlier engine knew may be no longer true
        lines = FailureLines()
        async with asyncio.TaskGroup() as tasks:
            while True:
                self.outbox.news.clear()
                try:
                    wait = await self._begin(tasks)
                    lines.ended("webhooks_read_failed")
                except StorageError as error:
                    if (more := lines.due("webhooks_read_failed")) is not None:
                        log.warning("webhooks_read_failed", error=str(error), **more)
                    wait = _RETRY_DELAY
                await until_set(self.outbox.news, wait)

    async def _begin(self, tasks: asyncio.TaskGroup) -> float:
        """Begin the attempts that are due and have room; return the seconds until the next look.
        Raises `StorageError`."""
        outlook = await self.deliveries.outlook(
            {claimed.webhook for claimed in self._under_way.values()}
        )
        for task, claimed in self._under_way.items():
            if claimed.webhook in outlook.gone:
                task.cancel()
        if not self.outbox.news.is_set():
            self.outbox.wanted = outlook.types
        room = MAX_CONCURRENT - len(self._under_way)
        if outlook.wait is None or outlook.wait > 0 or room <= 0:
            return min(INTERVAL, outlook.wait or INTERVAL)
        owners = [claimed.member for claimed in self._under_way.values()]
        pool = AttemptPool(owners)
        found = await self.deliveries.claim(
            room,
            Counter(claimed.webhook for claimed in self._under_way.values()),
            hold=self.schedule.hold,
            fence=self.fence,
            attempts=lambda: AttemptPool(owners).take,
            excluded=[*self._in_debt(), *filter(pool.is_full, set(owners))],
        )
        for delivery in found:
            name = f"webhook {delivery.webhook}"
            task = tasks.create_task(self._attempt(delivery), name=name)
            self._under_way[task] = delivery
            task.add_done_callback(self._ended)
        return 0.0 if found else INTERVAL

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Give the place of an attempt back, also of one that was cancelled before it began."""
        del self._under_way[task]
        self.outbox.news.set()

    def _in_debt(self) -> Collection[str]:
        """Return the owners that have sent more than they may."""
        now = asyncio.get_running_loop().time()
        self._excluded = {owner: until for owner, until in self._excluded.items() if until > now}
        return self._excluded

    def _charge(self, claimed: Claimed) -> None:
        """Charge an owner for a message that was sent, whether it has arrived or not."""
        now = asyncio.get_running_loop().time()
        wait = self._bytes.charge(claimed.member, now, len(claimed.body))
        if wait:
            if claimed.member not in self._excluded:
                log.warning("webhooks_limited", member=claimed.member, seconds=round(wait))
            self._excluded[claimed.member] = now + wait

    async def _attempt(self, claimed: Claimed) -> None:
        try:
            self._charge(claimed)
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

    async def _send(self, claimed: Claimed) -> EndpointAnswer:
        """Send a message, and return the outcome. Raises `StorageError`."""
        secret = self.cipher.decrypt(claimed.secret)
        if secret is None:
            return EndpointAnswer(
                note="The secret of this webhook cannot be decrypted, because the secret of the "
                "proxy has changed: make a new secret for it."
            )
        OWNER.set(claimed.member)
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
        disabled = None if claimed.type == TEST else f"It failed for too long. {answer.note}"
        return Attempted(
            "failed",
            answer.status,
            answer.note,
            disabled=disabled,
            disabled_after=self.schedule.max_age / 2,
        )


#: Seconds between two clean-ups, and days for which ended deliveries stay in the log.
_CLEANUP_INTERVAL, _LOG_DAYS = 3600.0, 7


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
            await asyncio.sleep(_CLEANUP_INTERVAL)

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
