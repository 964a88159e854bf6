"""The engine runs jobs: it holds the live ones, sends them, follows them and records their ends.

It learns of new jobs and of cancellations on the bus, writes every change of state to the storage
and publishes what clients are to know. `Dispatcher` brings jobs to the cloud, `Recovery` continues
with those from before, `Cancellation` ends what clients want no more, `Announcer` tells of it
all. An `AccountWorker` is one account's part of it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from proxy.bus import MISSED, EventBus, Subscription
from proxy.cloud.event_socket import Timeouts
from proxy.engine.accounts import Account
from proxy.engine.announcer import Announcer
from proxy.engine.cancellation import Cancellation
from proxy.engine.dispatcher import Dispatcher
from proxy.engine.follower import Runner
from proxy.engine.recorder import JobRecorder
from proxy.engine.recovery import Recovery
from proxy.engine.scheduler import Scheduler
from proxy.engine.tracker import RecordEnd
from proxy.jobs.models import (
    ENDS,
    CancelRequested,
    HistoryChanged,
    Job,
    JobKey,
    JobReceived,
    JobReleased,
    JobState,
    NewsMissed,
    OverviewRequested,
    SocketKnown,
    now,
)
from proxy.members.member import Member
from proxy.metrics import Metrics
from proxy.storage.database import StorageError
from proxy.storage.jobs import StoredJob
from proxy.supervisor import Supervisor

if TYPE_CHECKING:
    from proxy.catalog.service import Catalog
    from proxy.files.service import Files
    from proxy.translate.packs import NodePacks

from proxy.engine.policy import Policy
from proxy.engine.worker import AccountWorker

log = structlog.get_logger(__name__)

#: Seconds between two looks for wishes that the bus has not brought, and where another replica may
#: have died before it said them.
_LOOK, _LOOK_OFTEN = 10.0, 0.5

#: Ms after which a new job that the bus has not brought is taken for unheard.
_UNHEARD = 1000

#: How long, in seconds, a job waits for the end of another one to be sent.
_TURN_PATIENCE = 2.0


@dataclass(kw_only=True, eq=False, repr=False)
class Engine:
    """Runs the jobs of every member on all `accounts`, by name.

    `member` gives weight and limits of a member; the bus says when they are others.
    `secrets` are the accounts' keys, which no message and no record may show. `metrics` counts what
    becomes of jobs.
    """

    recorder: JobRecorder
    bus: EventBus
    accounts: Mapping[str, Account]
    files: Files
    catalog: Catalog
    policy: Policy
    timeouts: Timeouts
    member: Callable[[str], Member]
    supervisor: Supervisor
    packs: NodePacks
    metrics: Metrics

    def __post_init__(self) -> None:
        for account in self.accounts.values():
            account.forget()
        self.secrets: tuple[str, ...] = tuple(one.key for one in self.accounts.values())
        self.scheduler = Scheduler(self.accounts, self.member, self.policy.fair_by)
        self.jobs: dict[JobKey, Job] = {}
        #: Those that have a runner, as they got it.
        self.followed: dict[JobKey, Job] = {}
        self.workers = {name: AccountWorker(one, self) for name, one in self.accounts.items()}
        self.announcer = Announcer(self)
        self.dispatcher = Dispatcher(self)
        self.cancellation = Cancellation(self)
        self.recovery = Recovery(self)
        self._heard: list[Subscription] = []
        self._look_now = asyncio.Event()

    # --- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over: read what was kept, follow again what has not ended, open the sockets.

        Raises `StorageError`.
        """
        jobs, shares = await self.recorder.load()
        self.scheduler.restore(shares)
        for job in jobs:
            self.recovery.restore(job)
        hear = self.bus.subscribe
        self._heard = [
            hear("engine", self._hear),
            hear("sockets", self._hear),
            hear("members", lambda _: self.dispatcher.pump()),
        ]
        self.supervisor.keep(self.recorder.run, "write the jobs")
        self.supervisor.keep(self._look, "look for wishes")
        for name, worker in self.workers.items():
            await worker.socket.start()
            self.supervisor.keep(worker.reconciler.run, f"reconcile {name}")
            self.supervisor.keep(worker.follow_plan, f"follow the plan of {name}")
        self.dispatcher.pump()

    async def close(self, *, write: bool = True) -> None:
        """Stop following; the jobs continue on the cloud. With `write` all that has changed is on
        disk then; without, another engine may run the jobs by now."""
        for subscription in self._heard:
            subscription.close()
        self.dispatcher.close()
        self.announcer.close()
        await asyncio.gather(*(worker.socket.close() for worker in self.workers.values()))
        await self.supervisor.close()
        if write:
            await self.recorder.close()

    async def _look(self) -> None:
        """Find in the storage what the bus has not brought: new jobs, and those to be cancelled."""
        while True:
            self._look_now.clear()
            try:
                for row in await self.recorder.jobs.wanted():
                    self._notice(row)
            except StorageError as error:
                log.warning("jobs_read_failed", error=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_OFTEN if self.recorder.jobs.shared else _LOOK):
                    await self._look_now.wait()

    def _notice(self, row: StoredJob) -> None:
        key = JobKey(row.member, row.id)
        job = self.jobs.get(key)
        if job is None and row.state == JobState.RECEIVED:
            # The bus may be about to bring it.
            if not self.bus.connected or now() - row.created_at > _UNHEARD:
                self._hear(JobReceived(key, row.key, promised=True))
        elif job is not None and row.cancel_requested and not job.cancel_requested:
            self._hear(CancelRequested("", (key,)))

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run something for a job; it ends with the engine."""
        return self.supervisor.spawn(work, name)

    # --- what the api asks -----------------------------------------------------------------

    def _hear(self, said: object) -> None:
        match said:
            case JobReceived():
                self.spawn(self.dispatcher.receive(said), f"take in {said.key.prompt_id}")
            case JobReleased(key=key, watched=watched):
                self.release(key, watched)
            case OverviewRequested(request=request, member=member):
                self.bus.publish(f"answers.{request}", self.announcer.overview(member))
            case CancelRequested():
                self.spawn(self.cancellation.cancel(said), "cancel jobs")
            case SocketKnown(member=member, client_id=client_id, socket=socket, opens=True):
                self.announcer.tell_running(member, client_id, socket)
            case NewsMissed():
                self.announcer.tell_all()
            case _ if said is MISSED:
                self._look_now.set()

    def release(self, key: JobKey, watched: bool) -> None:
        """The client has its answer: the job's messages may go out."""
        job = self.jobs.get(key)
        if job is None or job.answered:
            return
        job.answered = True
        if job.watched != watched:
            job.watched = watched
            self.recorder.changed(job)
        if job.runner is not None:
            job.runner.release()

    async def use_key(self, account: str, key: str) -> None:
        """Take another key of an account, show it to nobody, and let jobs go again."""
        self.secrets = (key, *self.secrets)
        await self.workers[account].use_key(key)
        self.dispatcher.pump()

    # --- jobs on the cloud -----------------------------------------------------------------

    async def known(self, cloud_ids: Iterable[str]) -> set[str]:
        """Which of these jobs of an account are ours, live or in the history."""
        live = {one for worker in self.workers.values() for one in worker.jobs}
        asked = set(cloud_ids)
        try:
            return asked & live | await self.recorder.jobs.knows(asked - live)
        except StorageError as error:
            log.warning("jobs_read_failed", error=str(error))
            return asked & live

    def taken(self, job: Job, cloud_id: str) -> None:
        """The cloud has the job: follow it, or cancel it if it is no longer wanted."""
        worker = self.workers[job.account]
        job.cloud_id = cloud_id
        worker.health.renewed()
        if job.state is not JobState.RUNNING:
            job.to(JobState.SUBMITTED)
        if job.cancel_requested:
            self.spawn(worker.cancel_on_its_way(job), f"cancel {job.prompt_id}")
            return
        job.accepted = True
        self.follow(job, worker)
        job.loaded.credentials = {}
        self.announcer.dispatched(job)
        self.recorder.changed(job)
        if job.interrupted:
            asked = CancelRequested("", (job.key,), interrupt=True)
            self.spawn(self.cancellation.cancel(asked), f"interrupt {job.prompt_id}")

    def follow(self, job: Job, worker: AccountWorker) -> None:
        """Take what the account tells of a job that is there."""
        self.announcer.changed(job)
        self.run(job, worker)
        worker.follow(job)

    def run(self, job: Job, worker: AccountWorker | None) -> None:
        """Give a job its runner; without a worker it is on no account."""
        job.runner = Runner(job, self, None if worker is None else worker.cloud)
        self.followed[job.key] = job
        if job.answered:
            job.runner.release()

    def abandon(self, job: Job) -> None:
        """The job has failed here: the cloud need not continue with it."""
        worker = self.workers.get(job.account)
        if worker is not None:
            self.spawn(worker.abandon(job.cloud_id), f"cancel {job.prompt_id}")

    def forget(self, job: Job) -> None:
        """A job is the engine's no more: its slot is free."""
        self.jobs.pop(job.key, None)
        self.followed.pop(job.key, None)
        worker = self.workers.get(job.account)
        if worker is not None:
            worker.forget(job)
        self._free(job)

    def _free(self, job: Job) -> None:
        if self.scheduler.leave(job):
            self.dispatcher.health(job).eased(time.monotonic())
            self.dispatcher.pump()

    # --- what the runners report -----------------------------------------------------------

    async def turn(self, job: Job) -> None:
        """Let the ends of the member's other jobs be told first, as on a server with one GPU.

        The cloud begins the next job while the end of the last one still waits for its detail.
        """
        earlier = itertools.takewhile(lambda one: one is not job, list(self.followed.values()))
        ending = [
            one.runner.finished
            for one in earlier
            if one.member == job.member and one.runner is not None and one.runner.ending
        ]
        if ending:
            with suppress(TimeoutError):
                async with asyncio.timeout(_TURN_PATIENCE):
                    for finished in ending:
                        await finished.wait()

    def started(self, job: Job, at: int) -> None:
        """The job runs now (`at` in ms)."""
        if job.started_at is None and job.state is JobState.SUBMITTED:
            job.started_at = at
            job.to(JobState.RUNNING)
            self.recorder.changed(job)
        if self.scheduler.started(job):
            self.dispatcher.pump()
        self.announcer.changed(job)
        self.announcer.tell_status(job.member)

    def over(self, job: Job) -> None:
        """The cloud has reported the end: the slot is free, whatever is still to be read."""
        if not job.over:
            job.over = True
            self._free(job)

    async def record(self, job: Job, end: RecordEnd) -> None:
        """Write the history entry. Raises `StorageError`."""
        forgotten = await self.recorder.end(job, end, self.scheduler.shares_with(job))
        news = HistoryChanged(job.member, (job.prompt_id, *forgotten), tuple(forgotten))
        self.announcer.publish(job.member, news)

    def ended(self, job: Job, end: RecordEnd) -> None:
        """The job leaves the queue for the history."""
        job.to(ENDS[end.outcome])
        seconds = (end.ended_at - end.started_at) / 1000
        self.scheduler.ended(job, seconds)
        self.forget(job)
        log.info(
            "job_ended", cloud_job=job.cloud_id, outcome=end.outcome, seconds=round(seconds, 3)
        )
        self.announcer.ended(job, end.outcome, seconds)
