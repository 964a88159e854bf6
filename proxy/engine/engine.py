"""The engine runs jobs: it holds the live ones, sends them, follows them and records their ends.

It learns of new jobs and of cancellations on the bus, writes every change of state to the storage
and publishes what clients are to know. `JobLife` is what one job goes through; here its parts are
made and joined. None of them knows the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass

import structlog

from proxy import clock
from proxy.bus import MISSED, Subscription
from proxy.engine.accounts import Account
from proxy.engine.announcer import Announcer
from proxy.engine.cancellation import Cancellation
from proxy.engine.dispatcher import Dispatcher
from proxy.engine.forecast import Forecast
from proxy.engine.intake import Intake
from proxy.engine.life import JobLife
from proxy.engine.live_job import JobChanges, LiveJob
from proxy.engine.outcomes import Lost, NotThere
from proxy.engine.overview import Overview
from proxy.engine.policy import Policy
from proxy.engine.queue_news import QueueNews
from proxy.engine.recorder import JobRecorder
from proxy.engine.resources import JobResources
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import MAX_ENDED, JobTable
from proxy.engine.workers import Workers
from proxy.jobs.messages import (
    CancelAnswered,
    CancelRequested,
    JobReceived,
    JobReleased,
    NewsMissed,
    OverviewAnswered,
    OverviewRequested,
    RunAnswered,
    RunRequested,
    SocketKnown,
    StepsMissed,
    StepsReceived,
)
from proxy.jobs.models import AccountView, Job, JobState, Wish
from proxy.logging import FailureLines
from proxy.owners import ENGINE, acting_for
from proxy.storage.database import StorageError
from proxy.storage.job_tables import JobKey, StoredJob
from proxy.supervisor import Supervisor
from proxy.waits import until_set
from proxy.webhooks.runner import WebhookRunner

log = structlog.get_logger(__name__)

#: Seconds between two looks for wishes that the bus has not brought, and where another replica may
#: have died before it published them.
_LOOK_INTERVAL, _LOOK_INTERVAL_SHARED = 10.0, 0.5

#: Seconds between two looks whether held jobs were released.
_RELEASE_INTERVAL = 1.0

#: Seconds after which a new job that the bus has not brought is taken for lost. They are those of
#: this replica: the clock of the one that has stored it may be an hour off.
_UNHEARD_AGE = 1.0


@dataclass(frozen=True)
class Background:
    """What an engine does beside running jobs, in tasks of the `supervisor`, which has all tasks of
    the engine: `webhooks` are delivered."""

    supervisor: Supervisor
    webhooks: WebhookRunner


@dataclass(kw_only=True, eq=False, repr=False)
class Engine:
    """Runs the jobs of every member on all `accounts`, by name, in the order of the `scheduler`.

    The `announcer` tells on the bus, and counts, what becomes of jobs. All tasks are those of the
    `background`.
    """

    accounts: Mapping[str, Account]
    scheduler: Scheduler
    recorder: JobRecorder
    announcer: Announcer
    resources: JobResources
    policy: Policy
    background: Background

    def __post_init__(self) -> None:
        self.table = table = JobTable(self.recorder, self.announcer)
        scheduler, resources, policy = self.scheduler, self.resources, self.policy
        supervisor = self.background.supervisor
        forecast = Forecast(scheduler)
        self._publisher = self.announcer.publisher
        self._news = QueueNews(table, scheduler, forecast)
        self._workers = Workers(self.accounts, scheduler, table, resources, policy)
        self._overview = Overview(table, scheduler, forecast, self._workers)
        self._life = JobLife(table, scheduler, self._workers, self._news, resources, policy)
        self._intake = Intake(table, scheduler, self._life, resources)
        self._dispatcher = Dispatcher(
            table, scheduler, forecast, self._news, self._life, supervisor, policy
        )
        self._cancellation = Cancellation(table, scheduler, self._workers, self._life, supervisor)
        self._subscriptions: list[Subscription] = []
        self._look_now = asyncio.Event()
        #: When rows that want something were first seen, by their orders.
        self._seen: dict[int, float] = {}

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
        bus, supervisor = self._publisher.bus, self.background.supervisor
        subscribe, keep = bus.subscribe, supervisor.keep
        fence, accounts = self._publisher.term.fence, self._overview.accounts
        self._subscriptions = [
            subscribe("engine", self._receive),
            subscribe("sockets", self._receive),
            subscribe("members", lambda _: self.scheduler.members_changed()),
            *self.background.webhooks.run(bus, supervisor, fence, accounts),
        ]
        keep(self.recorder.run, "write the jobs")
        keep(self._look, "look for wishes")
        keep(run_times.unwritten.run, "write run times")
        keep(self._news.run, "tell of the queue")
        await self._workers.start(supervisor)
        if output is not None:
            keep(output.run, "write missing outputs")
        keep(self._dispatcher.run, "dispatch jobs")

    async def close(self, *, write: bool = True) -> None:
        """Stop following; the jobs continue on the cloud. With `write` all that has changed is on
        disk then; without, another engine may run the jobs by now."""
        for subscription in self._subscriptions:
            subscription.close()
        self._dispatcher.close()
        await self._workers.close()
        await self.background.supervisor.close()
        if write:
            await self.recorder.close()
            await self.resources.run_times.unwritten.close()

    def _resume(self, job: LiveJob) -> None:
        """Continue with a job from before the start."""
        self.table.add(job)
        self.announcer.hidden(job)
        if job.state in (JobState.RECEIVED, JobState.QUEUED):
            self._resume_waiting(job)
            return
        if job.account in self._workers:
            self.scheduler.keep(job)
            self._workers[job.account].reconciler.read_soon()
        outcome = self._workers.recovery.resume(job)
        if isinstance(outcome, Lost | NotThere) and not job.accepted:
            # Its client, who had no answer, looks into the queue: what is there has an end.
            self.table.advance(job, changes=JobChanges(accepted=True))
        unwanted = job.cancel_requested and job.state is JobState.RUNNING
        if unwanted:  # it is followed until the cloud has ended it
            self.table.change(job, JobChanges(wish=Wish.NONE))
        self._spawn(self._life.run(job, outcome), job.key)
        if unwanted:
            self.cancel(CancelRequested("", (job.key,)))

    def _resume_waiting(self, job: LiveJob) -> None:
        if job.state is JobState.RECEIVED:
            self.table.advance(job, JobState.QUEUED, JobChanges(accepted=True))
        if job.interrupted:
            self._spawn(self._life.interrupt(job), job.key)
        else:
            self.scheduler.enqueue(job)

    def _spawn(self, work: Coroutine[None, None, None], key: JobKey) -> None:
        with acting_for(ENGINE):
            self.background.supervisor.spawn(work, f"job {key.prompt_id}")

    # --- what is asked of the engine -------------------------------------------------------

    def receive(self, job: Job) -> None:
        """Take in a checked job, which is in the storage."""
        self._spawn(self._intake.receive(JobReceived(job.key, job.order), job), job.key)

    def release(self, key: JobKey, *, watched: bool) -> None:
        """Let a job's messages flow: its client has the answer, and a socket if `watched`."""
        job = self.table.get(key)
        if job is None or job.answered:
            return
        if job.watched != watched:
            self.table.advance(job, changes=JobChanges(watched=watched))
        self._life.following.release(job)

    def cancel(self, wanted: CancelRequested) -> asyncio.Future[CancelAnswered]:
        """End jobs, and return where the answer comes; none does from an engine whose term ends."""
        answered: asyncio.Future[CancelAnswered] = asyncio.get_running_loop().create_future()

        async def cancel() -> None:
            answer = await self._cancellation.cancel(wanted)
            if answer is not None and not answered.done():
                answered.set_result(answer)

        with acting_for(ENGINE):
            self.background.supervisor.spawn(cancel(), "cancel jobs")
        return answered

    def overview(self, member: str | None) -> OverviewAnswered:
        """Return all live jobs, or those of one member, and the accounts."""
        return self._overview.jobs(member)

    def run(self, key: JobKey, *, picture: bool) -> RunAnswered:
        """Return how far a job is, with its last preview if a `picture` is wanted."""
        return self._overview.run(key, picture=picture)

    def _receive(self, message: object) -> None:
        bus = self._publisher.bus
        match message:
            case JobReceived(key=key):
                self._spawn(self._intake.receive(message), key)
            case JobReleased(key=key, watched=watched):
                self.release(key, watched=watched)
            case OverviewRequested(request=request, member=member):
                bus.publish(f"answers.{request}", self.overview(member))
            case RunRequested(request=request, key=key, picture=picture):
                bus.publish(f"answers.{request}", self.run(key, picture=picture))
            case CancelRequested(request=request):
                self.cancel(message).add_done_callback(
                    lambda answered: bus.publish(f"answers.{request}", answered.result())
                )
            case SocketKnown(opens=True):
                self._overview.tell_running(message)
            case NewsMissed():
                self._news.repeat()
            case StepsMissed(received=received):
                self._repeat(received)
            case _ if message is MISSED:
                self._look_now.set()

    def _repeat(self, received: Iterable[StepsReceived]) -> None:
        """Send a replica the steps of jobs that it has not received."""
        for steps in received:
            job = self.table.get(steps.key)
            if job is not None and job.publisher is not None and job.order == steps.order:
                job.publisher.repeat(steps.epoch, steps.number)

    async def _look(self) -> None:
        """Find in the storage what the bus has not brought: new jobs, and those to be cancelled."""
        shared = self.recorder.jobs.database.shared
        interval = _LOOK_INTERVAL_SHARED if shared else _LOOK_INTERVAL
        lines = FailureLines()
        while True:
            self._look_now.clear()
            held = self.scheduler.held_order
            try:
                if held:
                    self.scheduler.hold(await self.recorder.jobs.held_order())
                rows = await self.recorder.jobs.wanted()
                at = clock.monotonic()
                seen = self._seen = {row.order: self._seen.get(row.order, at) for row in rows}
                for row in rows:
                    self._notice(row, at - seen[row.order])
                lines.ended("jobs_read_failed")
            except StorageError as error:
                if (more := lines.due("jobs_read_failed")) is not None:
                    log.warning("jobs_read_failed", error=str(error), **more)
            await until_set(self._look_now, min(interval, _RELEASE_INTERVAL) if held else interval)

    def _notice(self, row: StoredJob, age: float) -> None:
        """Do what a row asks for that was first seen `age` seconds ago."""
        job = self.table.get(row.key)
        if job is None and row.state == JobState.RECEIVED:
            # The bus may be about to bring it.
            if not self._publisher.bus.connected or age >= _UNHEARD_AGE:
                self._receive(JobReceived(row.key, row.order, promised=True))
        elif job is not None and row.cancel_requested and not job.cancel_requested:
            self.cancel(CancelRequested("", (row.key,)))
        elif job is not None and row.interrupted and job.wish is Wish.NONE:
            self.cancel(CancelRequested("", (row.key,), interrupt=True))

    def account_views(self) -> tuple[AccountView, ...]:
        """Return the accounts as they are now."""
        return self._overview.accounts()

    async def use_key(self, account: str, key: str) -> None:
        """Take another key of an account, show it to nobody, and let jobs go again."""
        await self._workers.use_key(account, key)
        self.scheduler.changed()
