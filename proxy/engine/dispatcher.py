"""Gives waiting jobs their slots, and ends those that no account can take."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from proxy.engine.forecast import Forecast
from proxy.engine.life import JobLife
from proxy.engine.policy import Policy
from proxy.engine.queue_news import QueueNews
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import JobTable
from proxy.engine.term import Term
from proxy.jobs.models import JobState
from proxy.runtime import clock
from proxy.runtime.clock import now
from proxy.runtime.supervisor import Supervisor
from proxy.translate.errors import LocalError


class Dispatcher:
    """Starts the lives of jobs in their turn."""

    def __init__(
        self,
        term: Term,
        table: JobTable,
        scheduler: Scheduler,
        forecast: Forecast,
        news: QueueNews,
        life: JobLife,
        supervisor: Supervisor,
        policy: Policy,
    ) -> None:
        self._table = table
        self._term = term
        self._scheduler = scheduler
        self._turn = scheduler.turn
        self._forecast = forecast
        self._news = news
        self._life = life
        self._supervisor = supervisor
        self._policy = policy
        self._closed = False

    def close(self) -> None:
        """Stop dispatching."""
        self._closed = True

    async def run(self) -> None:
        """Dispatch whenever a job may go, until cancelled."""
        while True:
            self._turn.clear()
            wait = None
            if not self._closed and self._term.lasts:
                if len(self._scheduler.queue):
                    wait = self._dispatch()
                self._news.changed()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._turn.wait()

    def _dispatch(self) -> float | None:
        """Start all waiting jobs that may go now; return after how many seconds others may, if
        any."""
        begun, scheduler = clock.monotonic(), self._scheduler
        if begun >= scheduler.paused_until:
            while (job := scheduler.next()) is not None:
                self._table.advance(job, JobState.SUBMITTING, reason=None, message=None)
                self._supervisor.spawn(self._life.run(job), f"job {job.prompt_id}")
        due = self._give_up()
        if not len(scheduler.queue):
            return None
        later = [at for at in (scheduler.next_try(begun), due) if at is not None]
        return max(min(later) - clock.monotonic(), 0.001) if later else None

    def _give_up(self) -> float | None:
        """End waiting jobs that no account has been able to take for too long.

        Returns when (`clock.monotonic()`) the next one is due, if one is.
        """
        timeout, scheduler = self._policy.unable_timeout, self._scheduler
        if not timeout:
            return None
        at, wall, due = clock.monotonic(), now(), []
        for member in scheduler.queue.members():
            unable: dict[frozenset[str] | None, tuple[float, LocalError] | None] = {}
            for job in list(scheduler.queue.of(member)):
                if scheduler.is_held(job):
                    continue
                accounts = None if job.needs is None else job.needs.accounts
                if accounts not in unable:
                    unable[accounts] = self._forecast.unable(job)
                if (found := unable[accounts]) is None:
                    continue
                since, refusal = found
                waited = min(at - since, max(0, wall - job.created_at) / 1000)
                if waited < timeout:
                    due.append(at + timeout - waited)
                    continue
                scheduler.dequeue(job)
                self._supervisor.spawn(self._life.fail(job, refusal), f"fail {job.prompt_id}")
        return min(due, default=None)
