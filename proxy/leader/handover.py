"""A leader that cannot reach the cloud gives way to a standby that can.

Both sides meet in the table of leases. The leader takes the lease `OFFERED` for as long as it finds
no way to the cloud. A standby that sees this and reaches the cloud takes the lease `WANTED`, which
one standby at a time can have. The leader stops, and reserves its own lease for that standby. Where
no standby reaches the cloud, nobody takes `WANTED`, and the leader stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress

import structlog
from msgspec import Struct
from yarl import URL

from proxy.cloud.connections import is_reachable
from proxy.cloud.contact import Contact
from proxy.engine.term import Term
from proxy.metrics import Metrics
from proxy.runtime import clock
from proxy.storage.database import StorageError
from proxy.storage.leases import ENGINE, Lease, LeaseRepository

log = structlog.get_logger(__name__)

#: Leases by which a leader asks the standbys to lead, and one of them says that it will.
OFFERED, WANTED = "engine offered", "engine wanted"


class HandoverTimes(Struct, frozen=True):
    """Seconds.

    Something must be unanswered for `silence` before the cloud is asked on a new connection, which
    it must answer within `answer`. After an `outage` the lead is offered, again and again, and the
    leader waits for a `reply` each time. A process that gave or took the lead does neither for a
    `rest`. For the length of `reserved` only the process that is to take the lease may.
    """

    silence: float = 2.0
    answer: float = 2.0
    outage: float = 5.0
    reply: float = 3.0
    rest: float = 30.0
    reserved: float = 5.0
    interval: float = 0.5


class Handover:
    """Decides when another process is to lead. `holder` names this one in leases, `clouds` are the
    addresses of the accounts."""

    def __init__(
        self,
        leases: LeaseRepository,
        clouds: Collection[URL],
        holder: str,
        metrics: Metrics,
        times: HandoverTimes | None = None,
    ) -> None:
        self._leases = leases
        self._clouds = clouds
        self._holder = holder
        self._metrics = metrics
        self._times = times or HandoverTimes()
        self._rests_until = 0.0
        self._expects_until = 0.0
        self._free_since: float | None = None
        self._offer: Lease | None = None

    @property
    def rests(self) -> bool:
        """Whether this process gave or took the lead a short time ago."""
        return clock.monotonic() < self._rests_until

    @property
    def expects(self) -> bool:
        """Whether this process is about to lead."""
        return clock.monotonic() < self._expects_until

    # --- the leader ----------------------------------------------------

    async def look(self, term: Term, contacts: Sequence[Contact]) -> None:
        """End a term once none of the accounts of these `contacts` reaches the cloud and a standby
        does, which is then the successor."""
        term.successor = await self.successor(contacts)
        term.over.set()

    async def successor(self, contacts: Sequence[Contact]) -> str:
        """Wait until the cloud is out of reach here and another process reaches it; return its
        name."""
        try:
            while True:
                await asyncio.sleep(self._times.interval)
                since = self._unanswered_since(contacts)
                if since is None or await self._reached_again(contacts):
                    await self._withdraw()
                elif clock.monotonic() - since >= self._times.outage and not self.rests:
                    name = await self._offered(clock.monotonic() - since)
                    if name is not None:
                        return name
        finally:
            self._metrics.leadership_offered.set(0)

    async def _offered(self, outage: float) -> str | None:
        """Offer the lead after `outage` seconds; return the process that is to have it, if any."""
        with suppress(StorageError):
            await self._publish_offer(outage)
            name = await self._reply()
            # The cloud may have come back for all processes at once.
            if name is not None and not await self._reaches(self._times.answer / 2):
                return name
        return None

    async def give(self, lease: Lease, name: str) -> None:
        """Reserve the lease of a leader that has stopped for another process. Never raises."""
        self._rest()
        self._metrics.leadership_handovers.labels("given").inc()
        rest = round(self._times.rest)
        log.warning("leadership_transferred", epoch=lease.epoch, to=name, rest_seconds=rest)
        try:
            await self._leases.reserve(lease, name, self._times.reserved)
        except StorageError as error:
            log.error("lease_release_failed", error=str(error))
        await self._withdraw()

    def _unanswered_since(self, contacts: Sequence[Contact]) -> float | None:
        """Return since when no account has had an answer that it waits for."""
        now = clock.monotonic()
        times = [contact.unanswered_since for contact in contacts]
        waiting = [since for since in times if since is not None]
        silence = self._times.silence
        if not waiting or any(now - contact.answered_at < silence for contact in contacts):
            return None
        return min(waiting) if now - min(waiting) >= silence else None

    async def _reaches(self, seconds: float | None = None) -> bool:
        """Return whether the cloud of any account answers this process in time."""
        asked = (is_reachable(base_url, seconds or self._times.answer) for base_url in self._clouds)
        return any(await asyncio.gather(*asked))

    async def _reached_again(self, contacts: Sequence[Contact]) -> bool:
        reached = await self._reaches()
        if reached:
            for contact in contacts:
                contact.answered(clock.monotonic())
        return reached

    async def _publish_offer(self, seconds: float) -> None:
        lease = await self._leases.acquire(OFFERED, self._holder, 2 * self._times.outage)
        if self._offer is None:
            log.warning(
                "leadership_offered", reason="Comfy Cloud does not answer", seconds=round(seconds)
            )
        self._offer = lease
        self._metrics.leadership_offered.set(1)

    async def _reply(self) -> str | None:
        """Return the name of the process that wants to lead, if one says so in time."""
        ends = clock.monotonic() + self._times.reply
        while clock.monotonic() < ends:
            wanted = await self._leases.holder(WANTED)
            if wanted is not None and wanted.holder != self._holder:
                return wanted.holder
            await asyncio.sleep(self._times.interval / 2)
        return None

    async def _withdraw(self) -> None:
        offer, self._offer = self._offer, None
        self._metrics.leadership_offered.set(0)
        if offer is not None:
            with suppress(StorageError):  # it runs out by itself
                await self._leases.release(offer)

    # --- a standby -------------------------------------------------------------

    async def accept(self) -> None:
        """Ask for the lead if it is offered and this process reaches the cloud. Raises
        `StorageError`."""
        if self.rests or self.expects:
            return
        offer = await self._leases.holder(OFFERED)
        if offer is None or offer.holder == self._holder or not await self._reaches():
            return
        wanted = await self._leases.acquire(WANTED, self._holder, self._times.reserved)
        if wanted is not None:
            log.info("leadership_requested", holder=offer.holder)
            self._expects_until = clock.monotonic() + self._times.reserved

    async def may_acquire(self) -> bool:
        """Return whether to try for the lease. Raises `StorageError`.

        A process that rests lets others go first: the lease must have been free for a while.
        """
        if not self.rests:
            return True
        now = clock.monotonic()
        if await self._leases.holder(ENGINE) is not None:
            self._free_since = None
        elif self._free_since is None:
            self._free_since = now
        return self._free_since is not None and now - self._free_since >= self._times.reserved

    def acquired(self) -> None:
        """Note that this process leads now."""
        self._free_since = None
        if self.expects:
            self._expects_until = 0.0
            self._rest()
            self._metrics.leadership_handovers.labels("taken").inc()

    def _rest(self) -> None:
        self._rests_until = clock.monotonic() + self._times.rest
