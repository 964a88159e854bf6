"""Decides which of several processes leads, and for how long.

The leader has a lease, whose row in the database says where it is reached. A term begins with the
lease. It is over when its own clock says that the lease may have run out, when a write was refused
because another process has the lease, when a standby is to lead that reaches the cloud while this
process does not, or when the process stops.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import structlog

from proxy.engine.term import Term
from proxy.leader.handover import Handover
from proxy.logging import FailureLines
from proxy.runtime import clock
from proxy.runtime.supervisor import Supervisor
from proxy.runtime.waits import stop, until_set
from proxy.storage.database import StorageError
from proxy.storage.leases import ENGINE, Lease, LeaseRepository

log = structlog.get_logger(__name__)

#: Seconds after which a standby leads if the leader does not renew its lease: more than most pauses
#: of a database or a machine, and less than a client waits for an answer.
LENGTH = 6.0
#: Seconds between two looks of a standby at the lease.
INTERVAL = 0.25
#: The part of the lease's length after which it is renewed, and the part at its end in which
#: nothing is done under it: clocks run differently, and calls take time.
_RENEWAL, _MARGIN = 1 / 6, 0.1


@dataclass(eq=False, repr=False)
class Leadership:
    """Takes the lease when it is free, and knows who has it.

    The lease is taken for `length` seconds by `holder`, a name that no other process has or had.
    Without a `handover` no other process can want it: it is taken at once and does not run out.
    """

    leases: LeaseRepository
    supervisor: Supervisor
    holder: str
    length: float
    handover: Handover | None = None
    #: Returns where this process is reached, for its row.
    address: Callable[[], str] = str
    #: Who leads, as far as is known.
    leader: Lease | None = field(init=False, default=None)
    term: Term | None = field(init=False, default=None)
    #: Whether the row of the lease could not be read when it was looked at last.
    is_unreadable: bool = field(init=False, default=False)
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _lines: FailureLines = field(init=False, default_factory=FailureLines)

    # --- who leads -------------------------------------------------------------------------

    async def known(
        self, seconds: float, *, after: int = 0, despite_outage: bool = False
    ) -> Lease | None:
        """Wait up to so many seconds for a leader whose epoch is later than `after`, and return its
        lease, or `None`; at once if the database cannot tell, unless it waits `despite_outage`."""
        ends = clock.monotonic() + seconds
        # One without an address is reserved for who is to lead.
        while self.leader is None or not self.leader.address or self.leader.epoch <= after:
            if self.is_unreadable and not despite_outage:
                return None
            if not await until_set(self._changed, ends - clock.monotonic()):
                return None
        return self.leader

    async def superseded(self, epoch: int) -> None:
        """Wait for a leader of a later epoch."""
        while self.leader is None or self.leader.epoch <= epoch:
            await self._changed.wait()

    def _note(self, leader: Lease | None) -> None:
        if leader != self.leader:
            self.leader = leader
            self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self) -> None:
        """Look again and again who leads, until cancelled. What cannot be read stays as it was: the
        leader may well go on."""
        while True:
            unreadable = True
            with self._noted_failure():
                self._note(await self.leases.holder(ENGINE))
                unreadable = False
            if unreadable != self.is_unreadable:
                self.is_unreadable = unreadable
                self._wake()
            await asyncio.sleep(INTERVAL)

    @contextmanager
    def _noted_failure(self) -> Iterator[None]:
        """Log that the lease cannot be read."""
        try:
            yield
        except StorageError as error:
            if self.handover is None:
                raise
            if (more := self._lines.due("lease_failed")) is not None:
                log.warning("lease_failed", error=str(error), **more)
        else:
            self._lines.ended("lease_failed")

    # --- this process ----------------------------------------------------------------------

    async def elected(self) -> Term:
        """Wait until this process has the lease, and return its term; `follow` is to run beside it.
        Raises `StorageError` if it is alone and the database fails."""
        while True:
            with self._noted_failure():
                if (term := await self._try()) is not None:
                    return term
            await asyncio.sleep(INTERVAL)

    async def _try(self) -> Term | None:
        """Take the lease if it is free, or ask for it where it is offered. Raises
        `StorageError`."""
        handover = self.handover
        if handover is not None:
            if self.leader is not None and self.leader.holder != self.holder:
                await handover.accept()
                return None
            if not await handover.may_acquire():
                return None
        began = clock.monotonic()
        lease = await self.leases.acquire(
            ENGINE, self.holder, self.length, alone=handover is None, address=self.address()
        )
        if lease is None:
            return None
        log.info("leadership_started", epoch=lease.epoch)
        if handover is not None:
            handover.acquired()
        return Term(lease, self._until(began))

    @asynccontextmanager
    async def leading(self, term: Term) -> AsyncIterator[None]:
        """Hold the lease in the block, which must end when the term is `over`; then release it at
        once."""
        self.term = term
        self._note(term.lease)
        beside = []
        if self.handover is not None:
            beside = [self.supervisor.spawn(self._keep(term), "renew the lease")]
        try:
            yield
        finally:
            self.term = None
            await stop(*beside)
            self._note(None)
            if term.lasts:
                term.end()
                await self._leave(term)
            else:
                log.warning("leadership_lost", epoch=term.lease.epoch)

    async def _leave(self, term: Term) -> None:
        """Release the lease for the successor or for anyone. If the storage refuses, it runs
        out."""
        if self.handover is not None and term.successor is not None:
            await self.handover.give(term.lease, term.successor)
            return
        try:
            await self.leases.release(term.lease)
        except StorageError as error:
            log.error("lease_release_failed", error=str(error))

    async def _keep(self, term: Term) -> None:
        """Renew the lease until the term is over."""
        try:
            while term.lasts:
                await asyncio.sleep(min(self.length * _RENEWAL, term.until - clock.monotonic()))
                await self._renew(term)
        finally:
            term.over.set()

    async def _renew(self, term: Term) -> None:
        began = clock.monotonic()
        try:
            async with asyncio.timeout(term.until - began):
                if not await self.leases.renew(term.lease, self.length, address=self.address()):
                    term.end()
                elif term.lasts:
                    term.until = self._until(began)
            self._lines.ended("lease_renewal_failed")
        except (StorageError, TimeoutError) as error:
            if (more := self._lines.due("lease_renewal_failed")) is not None:
                log.warning("lease_renewal_failed", error=str(error), **more)

    def _until(self, began: float) -> float:
        return math.inf if self.handover is None else began + self.length * (1 - _MARGIN)
