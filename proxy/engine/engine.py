"""The engine runs jobs: it holds the live ones, sends them, follows them and records their ends.

It learns of new jobs and of cancellations on the bus, writes every change of state to the storage
and publishes what clients are to know. `JobLife` is what one job goes through; here its parts are
made and joined. None of them knows the engine.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from proxy.budget import MemoryBudget
from proxy.bus import MISSED, EventBus, Subscription
from proxy.clock import now
from proxy.cloud.event_socket import Timeouts
from proxy.costs.job_cost import Pricing
from proxy.engine.accounts import Account
from proxy.engine.announcer import Announcer
from proxy.engine.bookkeeper import Bookkeeper
from proxy.engine.cancellation import Cancellation
from proxy.engine.dispatcher import Dispatcher
from proxy.engine.follower import Runs
from proxy.engine.forecast import Forecast
from proxy.engine.intake import Intake
from proxy.engine.life import JobLife
from proxy.engine.localiser import Secrets
from proxy.engine.outcomes import Lost
from proxy.engine.overview import Overview
from proxy.engine.policy import Policy
from proxy.engine.queue_news import QueueNews
from proxy.engine.recorder import JobRecorder
from proxy.engine.recovery import Recovery
from proxy.engine.run_times import RunTimes
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import MAX_ENDED, JobTable
from proxy.engine.worker import AccountWorker
from proxy.jobs.messages import (
    CancelRequested,
    JobReceived,
    JobReleased,
    NewsMissed,
    OverviewRequested,
    RunRequested,
    SocketKnown,
    StepsMissed,
    StepsReceived,
)
from proxy.jobs.models import AccountView, Job, JobState
from proxy.metrics import Metrics
from proxy.storage.database import StorageError
from proxy.storage.jobs import JobKey, StoredJob
from proxy.supervisor import Supervisor
from proxy.webhooks.runner import WebhookRunner

if TYPE_CHECKING:
    from proxy.catalog.service import Catalog
    from proxy.files.service import Files
    from proxy.translate.packs import NodePacks

log = structlog.get_logger(__name__)

#: Seconds between two looks for wishes that the bus has not brought, and where another replica may
#: have died before it published them.
_LOOK_INTERVAL, _LOOK_INTERVAL_SHARED = 10.0, 0.5

#: Ms after which a new job that the bus has not brought is taken for lost.
_UNHEARD_AGE = 1000


@dataclass(kw_only=True, eq=False, repr=False)
class Engine:
    """Runs the jobs of every member on all `accounts`, by name, in the order of the `scheduler`.

    That sets `turn` when a waiting job may have got its turn. The bus reports when weight or limits
    of a member change. `metrics` counts what becomes of jobs, `run_times` are those of previous
    runs, `pricing` says what jobs cost, and the `bookkeeper` reads what the cloud has booked for
    them. All tasks are the `supervisor`'s; messages that are kept for repetition take their memory
    from the `budget`.
    """

    scheduler: Scheduler
    turn: asyncio.Event
    recorder: JobRecorder
    bus: EventBus
    accounts: Mapping[str, Account]
    files: Files
    catalog: Catalog
    policy: Policy
    timeouts: Timeouts
    supervisor: Supervisor
    packs: NodePacks
    metrics: Metrics
    run_times: RunTimes
    pricing: Pricing
    bookkeeper: Bookkeeper
    budget: MemoryBudget
    webhooks: WebhookRunner

    def __post_init__(self) -> None:
        for account in self.accounts.values():
            account.forget()
        term, policy = self.recorder.term, self.policy
        self._secrets = Secrets(account.key for account in self.accounts.values())
        forecast = Forecast(self.scheduler)
        announcer = Announcer(self.bus, term, self.metrics)
        self._table = JobTable(self.recorder, announcer)
        self._runs: Runs = defaultdict(dict)
        self._news = QueueNews(self._table, self.scheduler, forecast, announcer)
        self._workers = {
            name: AccountWorker(
                account,
                self.scheduler,
                self._table,
                self.recorder,
                self.files,
                self.catalog,
                self.packs,
                policy,
                self.timeouts,
            )
            for name, account in self.accounts.items()
        }
        self._overview = Overview(
            self._table, self._runs, self.scheduler, forecast, self._workers, announcer
        )
        self._announcer = announcer
        self._recovery = Recovery(self._workers, policy)
        self._life = JobLife(
            self._table,
            self._runs,
            self.scheduler,
            self._workers,
            self._recovery,
            announcer,
            self._news,
            self.recorder,
            self.budget,
            files=self.files,
            catalog=self.catalog,
            packs=self.packs,
            secrets=self._secrets,
            timeouts=self.timeouts,
            policy=policy,
            run_times=self.run_times,
            pricing=self.pricing,
        )
        self._intake = Intake(
            self._table, self.scheduler, self._life, announcer, self.recorder, self.catalog
        )
        self._dispatcher = Dispatcher(
            self._table,
            self.scheduler,
            self.turn,
            forecast,
            self._news,
            self._life,
            supervisor=self.supervisor,
            term=term,
            policy=policy,
        )
        self._cancellation = Cancellation(
            self._table,
            self._runs,
            self.scheduler,
            self._workers,
            self._life,
            announcer,
            supervisor=self.supervisor,
            term=term,
        )
        self._subscriptions: list[Subscription] = []
        self._look_now = asyncio.Event()

    # --- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over: read what was kept, follow again what has not ended, open the sockets.

        Raises `StorageError`.
        """
        await self.run_times.load()
        jobs, shares = await self.recorder.load()
        ended = await self.recorder.jobs.history.newest_cloud_ids(MAX_ENDED)
        self._table.ended_ids.update(dict.fromkeys(reversed(ended)))
        self.scheduler.restore(shares)
        for job in jobs:
            self._resume(job)
        subscribe = self.bus.subscribe
        self._subscriptions = [
            subscribe("engine", self._receive),
            subscribe("sockets", self._receive),
            subscribe("members", lambda _: self.scheduler.changed()),
            self.webhooks.run(
                self.bus, self.supervisor, self.recorder.term.fence, self._overview.accounts
            ),
        ]
        keep = self.supervisor.keep
        keep(self.recorder.run, "write the jobs")
        keep(self._look, "look for wishes")
        keep(self.run_times.unwritten.run, "write run times")
        keep(self._news.run, "tell of the queue")
        keep(self.bookkeeper.run, "read what was booked")
        for name, worker in self._workers.items():
            await worker.feed.start()
            keep(worker.reconciler.run, f"reconcile {name}")
            keep(worker.follow_plan, f"follow the plan of {name}")
        if self.files.output_directory is not None:
            keep(self.files.output_directory.run, "write missing outputs")
        keep(self._dispatcher.run, "dispatch jobs")

    async def close(self, *, write: bool = True) -> None:
        """Stop following; the jobs continue on the cloud. With `write` all that has changed is on
        disk then; without, another engine may run the jobs by now."""
        for subscription in self._subscriptions:
            subscription.close()
        self._dispatcher.close()
        await asyncio.gather(*(worker.feed.close() for worker in self._workers.values()))
        await self.supervisor.close()
        if write:
            await self.recorder.close()
            await self.run_times.unwritten.close()

    def _resume(self, job: Job) -> None:
        """Continue with a job from before the start."""
        self._table.add(job)
        if job.state in (JobState.RECEIVED, JobState.QUEUED):
            self._resume_waiting(job)
            return
        if job.account in self._workers:
            self.scheduler.keep(job)
            self._workers[job.account].reconciler.read_soon()
        outcome = self._recovery.resume(job)
        if isinstance(outcome, Lost) and self.recorder.jobs.database.shared and not job.accepted:
            # Another replica may have told the client that the job is there.
            self._table.advance(job, accepted=True)
        unwanted = job.cancel_requested and job.state is JobState.RUNNING
        if unwanted:  # it is followed until the cloud has ended it
            self._table.note(job, cancel_requested=False)
        self.supervisor.spawn(self._life.run(job, outcome), f"job {job.prompt_id}")
        if unwanted:
            self._cancel(CancelRequested("", (job.key,)))

    def _resume_waiting(self, job: Job) -> None:
        if job.state is JobState.RECEIVED:
            self._table.advance(job, JobState.QUEUED, accepted=True)
        if job.interrupted:
            self.supervisor.spawn(self._life.interrupt(job), f"job {job.prompt_id}")
        else:
            self.scheduler.enqueue(job)

    # --- what is asked of the engine -------------------------------------------------------

    def _receive(self, message: object) -> None:
        match message:
            case JobReceived(key=key):
                self.supervisor.spawn(self._intake.receive(message), f"job {key.prompt_id}")
            case JobReleased(key=key, watched=watched):
                self._release(key, watched=watched)
            case OverviewRequested(request=request, member=member):
                self.bus.publish(f"answers.{request}", self._overview.jobs(member))
            case RunRequested():
                self.bus.publish(f"answers.{message.request}", self._overview.run(message))
            case CancelRequested():
                self._cancel(message)
            case SocketKnown(opens=True):
                self._overview.tell_running(message)
            case NewsMissed():
                self._news.repeat()
            case StepsMissed(received=received):
                self._repeat(received)
            case _ if message is MISSED:
                self._look_now.set()

    def _release(self, key: JobKey, *, watched: bool) -> None:
        """Let the job's messages flow: its client has the answer, and a socket if `watched`."""
        job = self._table.get(key)
        if job is None or job.answered:
            return
        if job.watched != watched:
            self._table.advance(job, watched=watched)
        run = self._runs[job.member].get(job)
        if run is not None:
            run.release()
        else:
            self._table.note(job, answered=True)

    def _repeat(self, received: Iterable[StepsReceived]) -> None:
        """Send a replica the steps of jobs that it has not received."""
        for steps in received:
            job = self._table.get(steps.key)
            run = None if job is None else self._runs[job.member].get(job)
            if run is not None and run.job.order == steps.order:
                run.repeat(steps.epoch, steps.number)

    def _cancel(self, request: CancelRequested) -> None:
        self.supervisor.spawn(self._cancellation.cancel(request), "cancel jobs")

    async def _look(self) -> None:
        """Find in the storage what the bus has not brought: new jobs, and those to be cancelled."""
        shared = self.recorder.jobs.database.shared
        while True:
            self._look_now.clear()
            try:
                for row in await self.recorder.jobs.wanted():
                    self._notice(row)
            except StorageError as error:
                log.warning("jobs_read_failed", error=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_INTERVAL_SHARED if shared else _LOOK_INTERVAL):
                    await self._look_now.wait()

    def _notice(self, row: StoredJob) -> None:
        job = self._table.get(row.key)
        if job is None and row.state == JobState.RECEIVED:
            # The bus may be about to bring it.
            if not self.bus.connected or now() - row.created_at > _UNHEARD_AGE:
                self._receive(JobReceived(row.key, row.order, promised=True))
        elif job is not None and row.cancel_requested and not job.cancel_requested:
            self._cancel(CancelRequested("", (row.key,)))
        elif job is not None and row.interrupted and not job.interrupted:
            self._cancel(CancelRequested("", (row.key,), interrupt=True))

    def account_views(self) -> tuple[AccountView, ...]:
        """Return the accounts as they are now."""
        return self._overview.accounts()

    async def use_key(self, account: str, key: str) -> None:
        """Take another key of an account, show it to nobody, and let jobs go again."""
        self._secrets.add(key)
        await self._workers[account].use_key(key)
        self.scheduler.changed()
