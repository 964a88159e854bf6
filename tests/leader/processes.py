"""Processes as far as they want the lease: each leads until its term is over, or it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from proxy.engine.term import Term
from proxy.leader.handover import Handover
from proxy.leader.leadership import Leadership
from proxy.runtime.supervisor import Supervisor
from proxy.runtime.waits import stop
from proxy.storage.database import Database
from proxy.storage.leases import LeaseRepository

TIMEOUT = 30.0


@dataclass
class Candidate:
    """A process that stands for the lease."""

    leadership: Leadership
    terms: asyncio.Queue[Term] = field(default_factory=asyncio.Queue)
    running: asyncio.Task[None] | None = None
    #: Set to have the process leave.
    leaves: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Lead whenever it is elected."""
        leadership = self.leadership
        while not self.leaves.is_set():
            term = await leadership.elected()
            async with leadership.leading(term):
                self.terms.put_nowait(term)
                over, left = (
                    asyncio.ensure_future(each.wait()) for each in (term.over, self.leaves)
                )
                await asyncio.wait({over, left}, return_when=asyncio.FIRST_COMPLETED)
                await stop(over, left)

    async def leads(self) -> Term:
        """The next term that begins here."""
        async with asyncio.timeout(TIMEOUT):
            return await self.terms.get()

    async def leave(self) -> None:
        """Stop, and leave the lease to others."""
        self.leaves.set()
        if self.running is not None and self.leadership.term is None:
            await stop(self.running)
        elif self.running is not None:
            await self.running

    @property
    def is_leader(self) -> bool:
        return self.leadership.term is not None


def candidate(
    database: Database,
    supervisor: Supervisor,
    name: str,
    length: float,
    handover: Handover | None = None,
) -> Candidate:
    """A process that has not begun to stand."""
    leases = LeaseRepository(database)
    return Candidate(
        Leadership(
            leases,
            supervisor,
            name,
            length,
            handover,
            lambda: f"at {name}",
        )
    )


@asynccontextmanager
async def standing(supervisor: Supervisor, *candidates: Candidate) -> AsyncIterator[None]:
    """Let processes stand in the block, the first one a little before the others."""
    for each in candidates:
        if each.leadership.handover is not None:
            supervisor.keep(each.leadership.follow, "follow the leader")
        each.running = asyncio.ensure_future(each.run())
        if each is candidates[0]:
            each.terms.put_nowait(await each.leads())
    try:
        yield
    finally:
        for each in candidates:
            await each.leave()
