"""Which replica's engine runs the jobs, and for how long.

A term begins with the lease. It is over when its own clock says that the lease may have run out,
when a write was refused because another replica has the lease, when a replica takes over that
reaches the cloud while this one does not, or when the process stops. A new term begins with a new
engine, which knows what the storage knows.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from proxy import clock
from proxy.engine.accounts import Account
from proxy.engine.handover import Handover
from proxy.engine.term import Term
from proxy.jobs.engine_client import EngineClient, RunningEngine
from proxy.jobs.messages import EngineOffered, JobsMissed, LeaseReleased
from proxy.jobs.models import AccountView
from proxy.logging import FailureLines
from proxy.storage.database import StorageError
from proxy.storage.leases import ENGINE, Lease, LeaseRepository
from proxy.supervisor import Supervisor
from proxy.waits import stop, until_set

log = structlog.get_logger(__name__)

#: The part of the lease's length after which it is renewed, or tried for, and the part at its end
#: in which nothing is done under it: clocks run differently, and calls take time.
_RENEWAL, _MARGIN = 1 / 3, 0.1
#: Seconds between two tries for a lease that is about to come.
_EXPECTING_INTERVAL = 0.25


class TermEngine(RunningEngine, Protocol):
    """An engine as the election starts and stops it."""

    async def start(self) -> None:
        """Take over the jobs. Raises `StorageError`."""

    async def close(self, *, write: bool = True) -> None:
        """Stop. With `write` all changes are on disk afterwards."""

    def account_views(self) -> Sequence[AccountView]:
        """Return the accounts as they are now."""

    async def use_key(self, account: str, key: str) -> None:
        """Take another key of an account."""


@dataclass(eq=False, repr=False)
class Election:
    """Takes the lease when it is free, and runs an engine while it lasts.

    `make` makes the engine of a term, which the `client` asks. The lease is taken for `length`
    seconds. Without a `handover` no other process can want it: it is taken at once and does not run
    out.
    """

    leases: LeaseRepository
    client: EngineClient
    make: Callable[[Term], TermEngine]
    by_name: Mapping[str, Account]
    holder: str
    length: float
    handover: Handover | None
    engine: TermEngine | None = field(init=False, default=None)
    _term: Term | None = field(init=False, default=None)
    _news: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _lines: FailureLines = field(init=False, default_factory=FailureLines)
    _giving: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _task: asyncio.Task[None] | None = field(init=False, default=None)
    #: Renews the lease of the term, from the moment on at which it was taken.
    _renewing: asyncio.Task[None] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.bus = self.client.bus
        self._subscription = self.bus.subscribe("terms", self._receive)

    def is_active(self) -> bool:
        """Return whether the engine of this process runs the jobs."""
        return self.engine is not None

    def accounts(self) -> Sequence[AccountView]:
        """Return the accounts that the engine of this process runs; none while it is a standby."""
        return () if self.engine is None else self.engine.account_views()

    async def use_key(self, account: str, key: str) -> None:
        """Take another key of an account."""
        if self.engine is not None:
            await self.engine.use_key(account, key)
        else:
            self.by_name[account].use_key(key)

    async def start(self, supervisor: Supervisor) -> None:
        """Try for the lease once, then continue until `leave`. Raises `StorageError`."""
        await self._begin()
        self._task = supervisor.keep(self._run, "election")

    async def leave(self) -> None:
        """Let another replica take over at once; does nothing if repeated. The jobs continue."""
        self._subscription.close()
        if self._task is not None:
            async with self._giving:
                self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        term = self._term
        lasted = term is not None and term.lasts
        await self._end()
        if term is not None and lasted:
            await self._release(term.lease)
            self.bus.publish("terms", LeaseReleased())
            await self.bus.flush()

    # --- terms -----------------------------------------------------------------------------

    def _receive(self, message: object) -> None:
        if isinstance(message, LeaseReleased | EngineOffered):
            self._news.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._try()
                self._lines.ended("lease_failed")
            except StorageError as error:
                if (more := self._lines.due("lease_failed")) is not None:
                    log.warning("lease_failed", error=str(error), **more)
            expects = self.handover is not None and self.handover.expects
            wait = _EXPECTING_INTERVAL if expects else self.length * _RENEWAL
            await until_set(self._news, wait)
            self._news.clear()

    async def _try(self) -> None:
        """Take the lease and hold it, if that can be, or ask for an engine that is offered. Raises
        `StorageError`."""
        handover = self.handover
        if self._term is None and (handover is None or await handover.may_acquire()):
            await self._begin()
        if self._term is not None:
            await self._hold(self._term)
        elif handover is not None and not handover.expects:
            await handover.accept()

    async def _begin(self) -> None:
        """Take the lease if it is free, and start an engine. Raises `StorageError`."""
        began = clock.monotonic()
        lease = await self.leases.acquire(ENGINE, self.holder, self.length, alone=self._alone)
        if lease is None:
            return
        term = self._term = Term(lease, self._until(began))
        self._renewing = asyncio.create_task(self._keep_lease(term), name="renew the lease")
        engine = self.make(term)
        log.info("engine_started", epoch=lease.epoch)
        try:
            await engine.start()
        except BaseException:
            self._term = None
            await stop(self._renewing)
            await engine.close(write=False)
            await self._release(lease)
            raise
        if self.handover is not None:
            self.handover.acquired()
        self.engine = engine
        self.client.lead(engine)
        self.bus.publish("jobs", JobsMissed())

    async def _release(self, lease: Lease) -> None:
        """Leave the lease to others at once; if the storage refuses, once it runs out."""
        try:
            await self.leases.release(lease)
        except StorageError as error:
            log.error("lease_release_failed", error=str(error))

    async def _hold(self, term: Term) -> None:
        """Run the engine until the term is over; then nothing of it is left."""
        try:
            async with asyncio.TaskGroup() as tasks:
                looking = tasks.create_task(self._look(term), name="look for a successor")
                if self._renewing is not None:
                    await self._renewing
                looking.cancel()
        finally:
            if term.lasts and term.successor is not None:
                await self._give(term, term.successor)
            elif not term.lasts:
                log.warning("engine_stopped", epoch=term.lease.epoch)
                async with self._giving:  # it is not stopped in the middle
                    await self._end()

    async def _keep_lease(self, term: Term) -> None:
        """Renew the lease until the term is over, or another replica is to run the engine."""
        while term.lasts and term.successor is None:
            await until_set(term.over, self._renewal_due(term))
            if not self._alone:
                await self._renew(term)

    async def _look(self, term: Term) -> None:
        """Find the replica that is to run the engine instead, if this one is cut off."""
        if self.handover is not None:
            term.successor = await self.handover.successor()
            term.over.set()

    async def _give(self, term: Term, successor: str) -> None:
        """Stop the engine, and leave the lease to a replica. The jobs continue there."""
        async with self._giving:
            await self._end()
            if self.handover is not None:
                await self.handover.give(term.lease, successor)
            self.bus.publish("terms", LeaseReleased())
            await self.bus.flush()

    def _renewal_due(self, term: Term) -> float | None:
        """Return in how many seconds the lease is to be renewed, if ever."""
        if self._alone:
            return None
        return min(self.length * _RENEWAL, term.until - clock.monotonic())

    async def _renew(self, term: Term) -> None:
        if not term.lasts:
            return
        began = clock.monotonic()
        try:
            async with asyncio.timeout(term.until - began):
                if not await self.leases.renew(term.lease, self.length):
                    term.end()
                elif not term.over.is_set():
                    term.until = self._until(began)
            self._lines.ended("lease_renewal_failed")
        except (StorageError, TimeoutError) as error:
            if (more := self._lines.due("lease_renewal_failed")) is not None:
                log.warning("lease_renewal_failed", error=str(error), **more)

    async def _end(self) -> None:
        """Stop the engine; what it has not written is written if its term lasts."""
        engine, term = self.engine, self._term
        self.engine = self._term = None
        self.client.lead(None)
        await stop(self._renewing)
        if engine is not None and term is not None:
            await engine.close(write=term.lasts)
            term.end()

    @property
    def _alone(self) -> bool:
        return self.handover is None

    def _until(self, began: float) -> float:
        return math.inf if self._alone else began + self.length * (1 - _MARGIN)
