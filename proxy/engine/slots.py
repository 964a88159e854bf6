"""Who has a slot, for the parts of an engine.

The `Scheduler` decides without a clock; here it gets one, the health of the accounts follows what
happens to jobs, and the dispatcher is woken when something may go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import structlog

from proxy.engine.accounts import Account, Reason
from proxy.engine.outcomes import Elsewhere, Outcome, Refused, Sent
from proxy.engine.scheduler import Scheduler
from proxy.jobs.models import Job
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: Seconds until jobs are tried again after a failure of the proxy itself (a full disk).
_OWN_FAULT_PAUSE = 2.0


class SlotAllocator:
    """The slots of all accounts. `changed` is set when a waiting job may have got its turn."""

    def __init__(self, scheduler: Scheduler, accounts: Mapping[str, Account]) -> None:
        self.scheduler = scheduler
        self.changed = asyncio.Event()
        self.paused_until = 0.0
        self._accounts = accounts

    def enqueue(self, job: Job) -> None:
        """Let a job wait for its turn. What its client sent is in the storage alone meanwhile."""
        job.content = None
        self.scheduler.queue.add(job)
        self._wake()

    def dequeue(self, job: Job) -> None:
        """Take a waiting job out of the queue."""
        self.scheduler.queue.remove(job)
        self._wake()

    def take_at_once(self, job: Job) -> bool:
        """Give a new job a slot if one is free for it now; return whether it has one.

        An account that rests is tried where no other one is well, so that a refusal is the answer
        to the client.
        """
        account = self.scheduler.account_for(job, time.monotonic(), probing=True)
        if account is None or not self.scheduler.may_go_at_once(job, account):
            return False
        self.scheduler.take(job, account)
        return True

    def give_back(self, job: Job) -> None:
        """Take the slot from a job that has not gone: it has not used its turn."""
        if job.account in self._accounts:
            self._accounts[job.account].health.unsettled()
            self.scheduler.give_back(job)
            self._wake()

    def free(self, job: Job) -> None:
        """Free the slot of a job that no longer runs; does nothing if repeated."""
        if self.scheduler.leave(job):
            self._accounts[job.account].health.eased(time.monotonic())
            self._wake()

    def started(self, job: Job) -> None:
        """Note that a job runs: the account may have more slots than was known."""
        if self.scheduler.started(job):
            self._wake()

    def pause(self) -> None:
        """Let no job go for a moment."""
        self.paused_until = time.monotonic() + _OWN_FAULT_PAUSE
        self._wake()

    def note(self, job: Job, outcome: Outcome) -> None:
        """Note what a submission shows of the health of the account."""
        match outcome:
            case Sent() | Refused(by_cloud=True):
                self._accounts[job.account].health.renewed()
            case Elsewhere(refusal=refusal, fault=fault, retry_after=retry_after):
                self._suspend(job.account, fault, refusal, retry_after)

    def key_refused(self, account: str, refusal: LocalError) -> None:
        """Note that an account refuses its key where its jobs are read: it takes none either."""
        self._suspend(account, "dead_key", refusal)
        self._wake()

    def key_accepted(self, account: str) -> None:
        """Note that an account accepts its key again."""
        health = self._accounts[account].health
        if health.reason == "dead_key":
            health.renewed()
            self._wake()

    def _suspend(
        self, account: str, fault: Reason, refusal: LocalError, retry_after: float | None = None
    ) -> None:
        health = self._accounts[account].health
        was_well = health.well
        health.failed(fault, time.monotonic(), retry_after, refusal)
        if was_well:
            log.warning("account_suspended", account=account, reason=fault)

    def _wake(self) -> None:
        self.scheduler.changed()
        self.changed.set()
