"""Reads once an hour what the cloud has booked for the key of each account.

It stands beside what the proxy says that its jobs have cost, so that people see whether the two
agree. The cloud may refuse its billing routes to keys; nothing else depends on them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress

import structlog

from proxy.backoff import jittered
from proxy.clock import now
from proxy.cloud.billing import PAGE_SIZE, CloudBilling, is_refused
from proxy.cloud.errors import CloudError
from proxy.costs.credits import from_usd, to_credits
from proxy.costs.reconciliation import reconcile
from proxy.engine.accounts import Account
from proxy.engine.term import Term
from proxy.metrics import Metrics
from proxy.storage.billing import BillingRepository, Booking
from proxy.storage.usage import day_of
from proxy.translate.billing import BookedEvent, BookedPage

log = structlog.get_logger(__name__)

_HOUR, _DAY = 3_600_000, 86_400_000

#: Ms before the last reading that are read again, because the cloud may book late.
OVERLAP = 2 * _HOUR
#: Ms: how far back a reading begins at most, the longest time that is read at once, and the
#: shortest to which it is halved while it has too many events.
MAX_BACK, WINDOW, MIN_WINDOW = 31 * _DAY, _DAY, 60_000
#: Events of a window, beyond which it is halved, and requests of one account's reading.
MAX_EVENTS, MAX_REQUESTS = 2_000, 300
#: Keys of an account whose events are its own: events of a key that was replaced come late.
MAX_KEYS = 4
#: Seconds for which the first reading waits for the account's plan.
PLAN_TIMEOUT = 30.0
#: Days whose sums are exported as metrics.
METRIC_DAYS = 30


class _RequestsUsedError(Exception):
    """Raised when a reading has sent all requests that it may; the next one continues."""


class Bookkeeper:
    """Keeps what the cloud has booked, while the `term` of the engine lasts.

    An account is read `delay` seconds after the start of the first engine that has it, and then
    every `interval` seconds, whichever engine runs.
    """

    def __init__(
        self,
        repository: BillingRepository,
        accounts: Mapping[str, Account],
        term: Term,
        metrics: Metrics,
        *,
        delay: float,
        interval: float,
    ) -> None:
        self._repository = repository
        self._accounts = accounts
        self._booking = [account for account in accounts.values() if account.cloud.billing]
        self._fence = term.fence
        self._metrics = metrics
        self._delay, self._interval = delay, interval
        self._keys = {name: deque[str](maxlen=MAX_KEYS) for name in accounts}

    async def run(self) -> None:
        """Read until cancelled."""
        try:
            while True:
                await self._export()
                await asyncio.sleep(await self.due_in())
                await self._plans_read()
                for account in self._booking:
                    await self.read(account)
        finally:
            self._metrics.forget_billing()

    async def _plans_read(self) -> None:
        """Wait up to `PLAN_TIMEOUT` seconds until the accounts have been asked for their plans: a
        balance comes with its account's plan."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PLAN_TIMEOUT):
                for account in self._booking:
                    await account.plan_read.wait()

    async def read(self, account: Account) -> None:
        """Read what was booked for an account since the last reading. Raises `StorageError`."""
        until, name, billing = now(), account.name, account.cloud.billing
        if billing is None:
            return
        known = await self._repository.account(name)
        since = until - until % _DAY
        if known.read_to is not None:
            since = max(known.read_to - OVERLAP, until - MAX_BACK)
        plan = account.plan
        await self._repository.balance(name, plan.balance_cents, plan.currency, fence=self._fence)
        ledger = await self._repository.spent_today(name, until)
        reading = _Reading(name, billing)
        try:
            while since < until:
                begin = since
                since, events = await reading.window(begin, until)
                bookings = self._bookings(account, events)
                await self._repository.book(
                    name,
                    bookings,
                    begin,
                    since,
                    forget=since - OVERLAP,
                    ledger=ledger if since == until else None,
                    fence=self._fence,
                )
        except _RequestsUsedError:
            log.warning("billing_read_interrupted", account=name)
        except CloudError as error:
            access = "refused" if is_refused(error) else known.access
            if access != known.access:
                log.info("billing_refused", account=name)
            elif access != "refused":
                log.warning("billing_read_failed", account=name, error=str(error))
            await self._repository.tried(name, access, until, fence=self._fence)

    async def due_in(self) -> float:
        """Return the seconds until the next reading is due."""
        if not self._booking:
            return self._interval
        names = [account.name for account in self._booking]
        tried = [(await self._repository.account(name)).tried_at for name in names]
        last = min((at for at in tried if at is not None), default=None)
        if last is None or None in tried:
            return jittered(self._delay)
        left = self._interval - (now() - last) / 1000
        return min(max(left, jittered(self._delay)), self._interval)

    def _bookings(self, account: Account, events: list[BookedEvent]) -> list[Booking]:
        """Return what the account's keys have spent."""
        keys = self._keys[account.name]
        if account.key not in keys:
            keys.append(account.key)
        found = []
        for event in events:
            if any(map(event.is_of, keys)):
                try:
                    amount = from_usd(event.usd)
                except ValueError:
                    log.warning("billing_amount_rejected", account=account.name)
                    continue
                found.append(Booking(event.id, event.type, event.at, amount))
        return found

    async def _export(self) -> None:
        """Set the metrics."""
        last = now()
        days = day_of(last / 1000 - 86_400 * (METRIC_DAYS - 1)), day_of(last / 1000)
        record = await self._repository.record(*days)
        self._metrics.forget_billing()
        for found in reconcile(record, self._accounts, *days):
            amounts = {
                "booked": found.booked,
                "difference": found.difference,
                "left": found.balance.amount,
            }
            self._metrics.billed(
                found.account.account,
                found.balance.source,
                {name: to_credits(each) for name, each in amounts.items() if each is not None},
            )


class _Reading:
    """One reading of an account's events, which sends a bounded number of requests."""

    def __init__(self, name: str, billing: CloudBilling) -> None:
        self._billing = billing
        self._name = name
        self._left = MAX_REQUESTS

    async def window(self, since: int, until: int) -> tuple[int, list[BookedEvent]]:
        """Return the events of a time that begins at `since`, and where it ends, `until` at
        most (ms). Raises `CloudError` and `_RequestsUsedError`."""
        until = min(until, since + WINDOW)
        page = await self._page(since, until, 1)
        while page.total > MAX_EVENTS and until - since > MIN_WINDOW:
            until = since + (until - since) // 2
            page = await self._page(since, until, 1)
        found, number = list(page.spending), 1
        # The newest come first: what is older than the window is beyond it.
        while page.count >= PAGE_SIZE and (page.oldest is None or page.oldest >= since):
            if number * PAGE_SIZE >= MAX_EVENTS:
                log.warning("billing_events_truncated", account=self._name)
                break
            number += 1
            page = await self._page(since, until, number)
            found += page.spending
        return until, [event for event in found if since <= event.at <= until]

    async def _page(self, since: int, until: int, number: int) -> BookedPage:
        if not self._left:
            raise _RequestsUsedError
        self._left -= 1
        return await self._billing.events(since, until, number)
