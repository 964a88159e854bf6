"""The queue of an account: first come, first served, as many at once as the plan allows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from proxy.simulator import events
from proxy.simulator.account import SimulatedAccount
from proxy.simulator.jobs import SimulatedJob, now_ms
from proxy.simulator.run import Bench, Run, RunOutcome, platform_error
from proxy.simulator.sockets import EventSockets

log = logging.getLogger(__name__)


class SimulatedQueue:
    """Waiting and running jobs, and their way to a last state."""

    def __init__(
        self, account: SimulatedAccount, event_sockets: EventSockets, bench: Bench
    ) -> None:
        self.waiting: list[SimulatedJob] = []
        self.running: list[SimulatedJob] = []
        self._account = account
        self._event_sockets = event_sockets
        self._bench = bench
        self._work: dict[SimulatedJob, asyncio.Task[RunOutcome]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def remaining(self) -> int:
        """Return the number of waiting and running jobs."""
        return sum(job.counted and not job.cancelling for job in (*self.waiting, *self.running))

    def put(self, job: SimulatedJob) -> None:
        """Take a job in; it starts at once if a slot is free."""
        job.on_change = self._bench.changed
        self._account.jobs[job.id] = job
        self.waiting.append(job)
        self._event_sockets.broadcast(events.status(self.remaining()))
        self._fill()

    def cancel(self, job: SimulatedJob) -> bool:
        """Ask for the end of a job; answers whether this is news for it.

        The job stops a little later. One whose result is being saved is allowed to finish.
        """
        if job.terminal or job.cancelling or not job.counted:
            return False
        job.cancelling = True
        job.move("cancel_requested")
        if job in self.waiting:
            self.waiting.remove(job)
            self._spawn(self._cancel_waiting(job))
        else:
            self._work[job].cancel()
        return True

    async def stop(self) -> None:
        """Drop everything; jobs stay in the state that they have."""
        self.waiting.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def position(self, job: SimulatedJob) -> int | None:
        """Return the place among the waiting jobs, from 1."""
        return self.waiting.index(job) + 1 if job in self.waiting else None

    def refill(self) -> None:
        """Start what a changed plan lets start."""
        self._fill()

    def _fill(self) -> None:
        while self.waiting and len(self.running) < self._account.slots:
            job = self.waiting.pop(0)
            self.running.append(job)
            run = Run(job, self._account, self._event_sockets, self._bench)
            self._work[job] = self._spawn(run.perform())
            self._spawn(self._life(job, run))
        for job in self.waiting:
            if job.state == "submitted":
                job.move("queued_limited")
                job.first_event.set()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _life(self, job: SimulatedJob, run: Run) -> None:
        work = self._work[job]
        await asyncio.wait({work})
        del self._work[job]
        outcome = _outcome(work)
        self.running.remove(job)
        job.counted = False
        job.ended = now_ms()
        try:
            await self._end(job, run, outcome)
        finally:
            self._bench.changed()

    async def _end(self, job: SimulatedJob, run: Run, outcome: RunOutcome) -> None:
        if job.cancelling:
            await self._cancelled(job, run)
        elif outcome.kind == "success":
            await self._succeeded(job, run)
        elif outcome.kind == "lost":
            self._fill()
            await asyncio.sleep(self._bench.switches.settle)
            job.move("lost")
        else:
            await self._failed(job, run, outcome)

    async def _succeeded(self, job: SimulatedJob, run: Run) -> None:
        switches = self._bench.switches
        job.move("executed")
        late = switches.late_detail
        if late and switches.late_detail_form == "in_progress":
            self._tell_end(run, job, lambda: run.tell("execution_success"))
            await asyncio.sleep(late)
            job.move("success")
            return
        job.outputs_hidden = late > 0
        job.move("success")
        self._tell_end(run, job, lambda: run.tell("execution_success"))
        if late:
            await asyncio.sleep(late)
            job.outputs_hidden = False
            job.on_change()

    async def _failed(self, job: SimulatedJob, run: Run, outcome: RunOutcome) -> None:
        switches = self._bench.switches
        error = outcome.error or {}
        last = "error" if outcome.kind == "error" else "non_retryable_error"

        def tell() -> None:
            run.tell("execution_error", **events.error_data(error, job.executed, switches))

        if switches.late_detail:
            self._tell_end(run, job, tell)
            await asyncio.sleep(switches.late_detail)
            job.error = error
            job.move("erroring")
        else:
            job.error = error
            job.move("erroring")
            self._tell_end(run, job, tell)
        await asyncio.sleep(switches.settle)
        job.move(last)

    async def _cancelled(self, job: SimulatedJob, run: Run) -> None:
        switches = self._bench.switches
        prepared = job.reached("executing")
        job.move("cancel_pending" if prepared else "cancelling_preparing")
        state = switches.interrupted_running if prepared else switches.interrupted_pending
        self._tell_end(run, job, (lambda: run.tell("execution_interrupted")) if state else None)
        await asyncio.sleep(switches.settle)
        job.move("cancelled")

    async def _cancel_waiting(self, job: SimulatedJob) -> None:
        job.counted = False
        run = Run(job, self._account, self._event_sockets, self._bench)
        job.move("cancel_pending")
        if self._bench.switches.interrupted_pending:
            run.tell("execution_interrupted")
        self._event_sockets.broadcast(events.status(self.remaining()))
        self._fill()
        await asyncio.sleep(self._bench.switches.settle)
        job.move("cancelled")

    def _tell_end(self, run: Run, job: SimulatedJob, tell: Callable[[], None] | None) -> None:
        """Send the event that ends a job, with what stands around it; then the next job may
        begin."""
        switches = self._bench.switches
        around = {
            "null": (switches.executing_null, events.executing(job.id, None)),
            "status": (switches.final_status, events.status(self.remaining())),
        }
        if tell is None:
            run.emit(around["status"][1])
            self._fill()
            return
        for name in ("status", "null"):
            if around[name][0] == "before":
                run.emit(around[name][1])
        tell()
        for name in ("status", "null"):
            if around[name][0] == "after":
                run.emit(around[name][1])
        self._fill()


def _outcome(work: asyncio.Task[RunOutcome]) -> RunOutcome:
    if work.cancelled():
        return RunOutcome("cancelled")
    error = work.exception()
    if error is not None:
        log.error("simulator_job_failed", exc_info=error)
        return RunOutcome("broken", platform_error(f"{type(error).__name__}: {error}"))
    return work.result()
