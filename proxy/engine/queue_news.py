"""Tells members how their waiting jobs move, and why they wait.

Changes are gathered for a moment: one that concerns all members costs as much as the queue is long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from proxy.engine.forecast import Forecast
from proxy.engine.live_job import LiveJob
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import JobTable

#: Seconds in which changes are gathered before they are published.
_GATHER = 0.05


class QueueNews:
    """Tells of the queue as a whole."""

    def __init__(self, table: JobTable, scheduler: Scheduler, forecast: Forecast) -> None:
        self._table = table
        self._scheduler = scheduler
        self._forecast = forecast
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Publish what has changed, until cancelled."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(_GATHER)
            self._wanted.clear()
            self._tell_others()

    def changed(self) -> None:
        """Tell members whose waiting jobs have moved because of somebody else's, in a while."""
        waits = len(self._scheduler.queue) > 0
        if not waits:
            self._forecast.clear()
        if waits or self._table.behind():
            self._wanted.set()

    def explain(self, job: LiveJob) -> None:
        """Tell why a new job waits, and how many of others go before it."""
        self._show_reasons(job.member, [job])
        self.announce_ahead(job.member, tell=False)

    def announce_ahead(self, member: str, *, tell: bool) -> None:
        """Tell how many jobs of others go before the member's last one, if that has changed."""
        self._table.announce_ahead(member, self._forecast.before(member), tell=tell)

    def _show_reasons(self, member: str, jobs: Iterable[LiveJob]) -> None:
        for job, reason, message in self._forecast.waiting(member, jobs):
            self._table.show(job, reason=reason, message=message)

    def _tell_others(self) -> None:
        members = self._scheduler.queue.members()
        for member in members:
            self._show_reasons(member, self._scheduler.queue.of(member))
        if len(members) > 1:
            self._forecast.positions()  # of all members at once
        for member in {*members, *self._table.behind()}:
            self.announce_ahead(member, tell=True)
