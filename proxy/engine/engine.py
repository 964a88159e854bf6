"""The engine runs jobs: it holds the live ones, sends them, follows them and records their ends.

It writes every change of state to the storage, then tells what clients are to know. `JobLife` is
what one job goes through; here its parts are made and joined. None of them knows the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass

import structlog

from proxy.engine.accounts import Account
from proxy.engine.cancellation import Cancellation
from proxy.engine.dispatcher import Dispatcher
from proxy.engine.forecast import Forecast
from proxy.engine.intake import Intake
from proxy.engine.life import JobLife
from proxy.engine.live_job import LiveJob
from proxy.engine.outcomes import Lost, NotThere
from proxy.engine.overview import Overview
from proxy.engine.policy import Policy
from proxy.engine.queue_news import QueueNews
from proxy.engine.recorder import JobRecorder
from proxy.engine.resources import JobResources
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import MAX_ENDED, JobTable
from proxy.engine.workers import Workers
from proxy.jobs.engine_calls import OverviewAnswered, RunAnswered, Submitted
from proxy.jobs.models import AccountView, JobState
from proxy.logging import FailureLines
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.owners import ENGINE, acting_for
from proxy.storage.database import StorageError
from proxy.storage.job_tables import JobKey
from proxy.translate.errors import LocalError, kept
from proxy.webhooks.runner import WebhookRunner

log = structlog.get_logger(__name__)

#: Seconds between two looks for new jobs whose commit had no answer.
_LOOK_INTERVAL = 10.0
#: Seconds between two looks whether held jobs were released.
_RELEASE_INTERVAL = 1.0


@dataclass(frozen=True)
class Background:
    """What the engine does beside running jobs: delivering `webhooks`. All its tasks are those of
    the `supervisor`."""

    supervisor: Supervisor
    webhooks: WebhookRunner


@dataclass(kw_only=True, eq=False, repr=False)
class Engine:
    """Runs the jobs of every member on all `accounts`, by name, in the order of the `scheduler`.

    Its `table` has the jobs. All tasks are those of the `background`.
    """

    accounts: Mapping[str, Account]
    scheduler: Scheduler
    recorder: JobRecorder
    table: JobTable
    resources: JobResources
    policy: Policy
    background: Background

    def __post_init__(self) -> None:
        recorder, table, scheduler = self.recorder, self.table, self.scheduler
        resources, policy, supervisor = self.resources, self.policy, self.background.supervisor
        forecast = Forecast(scheduler)
        self._news = QueueNews(table, scheduler, forecast)
        self._workers = Workers(self.accounts, scheduler, table, recorder, resources, policy)
        self._overview = Overview(table, scheduler, forecast, self._workers)
        self._life = JobLife(
            table, recorder, scheduler, self._workers, self._news, resources, policy
        )
        self._intake = Intake(table, scheduler, self._life, resources)
        self._dispatcher = Dispatcher(
            recorder.term, table, scheduler, forecast, self._news, self._life, supervisor, policy
        )
        #: The orders of new jobs that nobody has had taken in at the last look.
        self._unanswered: set[int] = set()
        self._cancellation = Cancellation(
            table, recorder, scheduler, self._workers, self._life, supervisor
        )

    # --- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over: read what was kept, follow again what has not ended, open the sockets.

        Raises `StorageError`.
        """
        run_times, output = self.resources.run_times, self.resources.files.output_directory
        await run_times.load()
        jobs, shares = await self.recorder.load()
        ended = await self.recorder.jobs.history.newest_cloud_ids(MAX_ENDED)
        self.table.ended_ids.update(dict.fromkeys(reversed(ended)))
        self.scheduler.restore(shares)
        self.scheduler.hold(await self.recorder.jobs.held_order())
        for job in jobs:
            self._resume(job)
        supervisor, keep = self.background.supervisor, self.background.supervisor.keep
        self.background.webhooks.run(supervisor, self.recorder.term.fence, self._overview.accounts)
        keep(self.recorder.run, "write the jobs")
        keep(self._look, "look for released and unanswered jobs")
        keep(run_times.unwritten.run, "write run times")
        keep(self._news.run, "tell of the queue")
        await self._workers.start(supervisor)
        if output is not None:
            keep(output.run, "write missing outputs")
        keep(self._dispatcher.run, "dispatch jobs")

    async def stop(self) -> None:
        """Change no job any more; the jobs continue on the cloud. Each end that is stored has been
        told."""
        self._dispatcher.close()
        await self._workers.close()
        await self.background.supervisor.close()

    async def close(self, *, write: bool = True) -> None:
        """Stop. With `write` all that has changed is on disk then; without, another process may
        lead by now."""
        await self.stop()
        for job in self.table:
            job.release_memory()
        if write:
            await self.recorder.close()
            await self.resources.run_times.unwritten.close()

    def _resume(self, job: LiveJob) -> None:
        """Continue with a job from before the start."""
        self.table.add(job)
        if job.state in (JobState.RECEIVED, JobState.QUEUED):
            self._resume_waiting(job)
            return
        self.scheduler.claim(job, job.ceiling)
        if job.account in self._workers:
            self.scheduler.keep(job)
            self._workers[job.account].reconciler.read_soon()
        outcome = self._workers.recovery.resume(job)
        if isinstance(outcome, Lost | NotThere) and not job.accepted:
            # Its client, who had no answer, looks into the queue: what is there has an end.
            self.table.advance(job, accepted=True)
        self._spawn(self._life.run(job, outcome), job.key)

    def _resume_waiting(self, job: LiveJob) -> None:
        if job.state is JobState.RECEIVED:
            self.table.advance(job, JobState.QUEUED, accepted=True)
        if job.interrupted:
            self._spawn(self._life.interrupt(job), job.key)
        else:
            self.scheduler.enqueue(job)

    def _spawn(self, work: Coroutine[None, None, None], key: JobKey) -> None:
        with acting_for(ENGINE):
            self.background.supervisor.spawn(work, f"job {key.prompt_id}")

    # --- what is asked of the engine -------------------------------------------------------

    def submit(self, job: LiveJob) -> asyncio.Future[Submitted]:
        """Take in a checked job, which is in the storage; the result is what its client is told."""
        answer = job.awaited_answer()
        self._spawn(self._intake.receive(job), job.key)
        return answer

    def release(self, key: JobKey, *, watched: bool) -> None:
        """Let a job's messages flow: its client has the answer, and a socket if `watched`."""
        job = self.table.get(key)
        if job is None or job.answered:
            return
        if job.watched != watched:
            self.table.advance(job, watched=watched)
        self._life.following.release(job)

    def cancel(
        self, keys: Iterable[JobKey], *, interrupt: bool = False, cleared: bool = False
    ) -> asyncio.Task[bool | LocalError | StorageError]:
        """End jobs (see `Cancellation.cancel`), also if nobody waits for that any more; the result
        is whether any was by this, or why not."""

        async def cancel() -> bool | LocalError | StorageError:
            try:
                return await self._cancellation.cancel(keys, interrupt=interrupt, cleared=cleared)
            except (LocalError, StorageError) as error:
                return kept(error)

        with acting_for(ENGINE):
            return self.background.supervisor.spawn(cancel(), "cancel jobs")

    def overview(self, member: str | None) -> OverviewAnswered:
        """Return all live jobs, or those of one member, and the accounts."""
        return self._overview.jobs(member)

    def run(self, key: JobKey, *, with_preview: bool) -> RunAnswered:
        """Return how far a job is, `with_preview` with its last preview."""
        return self._overview.run(key, with_preview=with_preview)

    def running_node(self, member: str, client_id: str) -> str | None:
        """Return the node of a client that runs, if one does."""
        return self._overview.running_node(member, client_id)

    def account_views(self) -> tuple[AccountView, ...]:
        """Return the accounts as they are now."""
        return self._overview.accounts()

    async def use_key(self, account: str, key: str) -> None:
        """Take another key of an account, show it to nobody, and let jobs go again."""
        await self._workers.use_key(account, key)
        self.scheduler.changed()

    async def _look(self) -> None:
        """Find in the storage what no call reports: that a command has released the jobs of a
        restored backup, and new jobs whose commit had no answer."""
        lines = FailureLines()
        while True:
            held = self.scheduler.held_order
            await asyncio.sleep(_RELEASE_INTERVAL if held else _LOOK_INTERVAL)
            try:
                if held:
                    self.scheduler.hold(await self.recorder.jobs.held_order())
                await self._take_in_unanswered()
                lines.ended("jobs_read_failed")
            except StorageError as error:
                if (more := lines.due("jobs_read_failed")) is not None:
                    log.warning("jobs_read_failed", error=str(error), **more)

    async def _take_in_unanswered(self) -> None:
        """Take in new jobs that have been in the storage for a whole interval. Raises
        `StorageError`."""
        rows = [
            row for row in await self.recorder.jobs.received() if self.table.get(row.key) is None
        ]
        for row in rows:
            if row.order in self._unanswered and not self.table.has_left(row.order):
                job = await self.recorder.read(row)
                if job is not None and self.table.get(row.key) is None:
                    self.table.add(job)
                    self._resume_waiting(job)
        self._unanswered = {row.order for row in rows}
