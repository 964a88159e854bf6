"""The engine runs jobs: it holds the live ones, sends them, follows them and records their ends.

It hears of new jobs and of cancellations on the bus, writes every change of state to the storage
and publishes what clients are to know.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import structlog

from proxy.bus.base import MISSED, BusMessage, EventBus, Subscription
from proxy.cloud.errors import CloudError, CloudRefused
from proxy.cloud.resilience import Backoff
from proxy.helpers.service import Helpers
from proxy.jobs.accounts import Account, AccountHealth
from proxy.jobs.models import ENDS, AccountView, Job, JobKey, JobState, JobView, Policy, now
from proxy.jobs.protocol import (
    CancelAnswered,
    CancelRequested,
    HistoryChanged,
    JobAccepted,
    JobAnswered,
    JobChanged,
    JobDispatched,
    JobLeft,
    JobReceived,
    JobReleased,
    JobsAhead,
    NewsMissed,
    NodeRuns,
    OverviewAnswered,
    OverviewRequested,
    SocketOpened,
    topic_of,
)
from proxy.jobs.recorder import JobRecorder
from proxy.jobs.rows import live_of, view_of
from proxy.jobs.runner import OutputNames, Runner
from proxy.jobs.scheduler import Scheduler
from proxy.jobs.submitter import SubmissionError, UnansweredError
from proxy.jobs.tracker import RecordEnd, SnapshotReceived
from proxy.jobs.worker import AccountWorker, WithdrawnError
from proxy.members.member import Member
from proxy.storage.database import StorageError
from proxy.storage.jobs import Shares, StoredJob
from proxy.supervisor import Supervisor
from proxy.timeouts import Timeouts
from proxy.translate.errors import LocalError, fill_node_errors, from_cloud
from proxy.translate.snapshot import Snapshot

log = structlog.get_logger(__name__)

#: Seconds in which changes for others' queues are gathered before they are told.
_TELLING = 0.05

#: Seconds until jobs are tried again after a failure that is nobody's but ours (a full disk).
_OWN_FAULT = 2.0

#: How long, in seconds, a "not now" is waited out before a waiting job goes back into the queue.
_BRIEFLY = 2.0

#: Seconds between two looks for wishes that the bus has not brought, and where another replica may
#: have died before it said them.
_LOOK, _LOOK_OFTEN = 10.0, 0.5

#: Ms after which a new job that the bus has not brought is taken for unheard.
_UNHEARD = 1000

#: Seconds after which a job's messages flow although nobody has said that the client has its
#: answer, and where another replica may have died that was to give it.
_RELEASE, _RELEASE_SOON = 5.0, 2.0

#: Between two searches for a job whose account is in the settings no more.
_SEARCH = Backoff(first=0.5, longest=30.0)

#: How long, in seconds, a job waits for the end of another one to be told.
_TURN_PATIENCE = 2.0


class Files(OutputNames, Protocol):
    """What the engine needs of the files."""

    async def ensure_sent(
        self, member: str, graph: Mapping[str, Any], *, choices: KnownClass, account: str
    ) -> None:
        """Send the uploads that a graph names, where the account has not had them."""

    async def substitute(
        self, member: str, graph: dict[str, Any], *, choices: KnownClass, account: str
    ) -> dict[str, Any]:
        """The graph with the cloud's names on the account in place of the member's."""


class Catalog(Protocol):
    """What the engine needs of the catalog."""

    def known(self, name: str) -> Mapping[str, Any] | None:
        """A node class, `None` if there is none."""

    async def wait_loaded(self, timeout: float) -> bool:  # noqa: ASYNC109
        """Wait until the node classes are there, at most `timeout` seconds."""


#: The catalog's word on a node class, or `None` while it has none.
KnownClass = Callable[[str], Mapping[str, Any] | None]


class _ElsewhereError(Exception):
    """The account cannot take the job, but another one that is well may."""


class Engine:
    """Runs the jobs of every member on all `accounts`.

    `member` gives weight and limits of a member; call `pump` when they are others.
    `secrets` are the accounts' keys, which no message and no record may show. `observe` gets what
    becomes of jobs before the bus brings it to all replicas: to count it once.
    """

    def __init__(
        self,
        *,
        recorder: JobRecorder,
        bus: EventBus,
        accounts: Iterable[Account],
        files: Files,
        catalog: Catalog,
        policy: Policy,
        timeouts: Timeouts,
        member: Callable[[str], Member] = Member,
        supervisor: Supervisor | None = None,
        helpers: Helpers | None = None,
        observe: Callable[[BusMessage], None] = lambda _: None,
    ) -> None:
        self.recorder = recorder
        self.files = files
        self.catalog = catalog
        self.helpers = helpers
        self.policy = policy
        self.timeouts = timeouts
        self.accounts = {account.name: account for account in accounts}
        self.secrets: tuple[str, ...] = tuple(one.key for one in self.accounts.values())
        self.scheduler = Scheduler(self.accounts, member, policy.fair_by)
        self.jobs: dict[JobKey, Job] = {}
        self._followed: dict[JobKey, Job] = {}
        self.workers = {name: AccountWorker(one, self) for name, one in self.accounts.items()}
        self.bus = bus
        self._observe = observe
        self._supervisor = supervisor or Supervisor()
        self._ahead: dict[str, int] = {}
        self._ends: dict[JobKey, tuple[RecordEnd, int]] = {}
        self._paused_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.TimerHandle | None = None
        self._telling_all: asyncio.TimerHandle | None = None
        self._closed = False
        self._heard: list[Subscription] = []
        self._look_now = asyncio.Event()
        for account in self.accounts.values():
            account.forget()

    # --- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over: read what was kept, follow again what has not ended, open the sockets.

        Raises `StorageError`.
        """
        jobs, shares = await self.recorder.load()
        self.scheduler.restore(shares)
        for job in jobs:
            self._restore(job)
        hear = self.bus.subscribe
        self._heard = [
            hear("engine", self._hear),
            hear("sockets", self._hear),
            hear("members", lambda _: self.pump()),
        ]
        self._supervisor.keep(self.recorder.run, "write the jobs")
        self._supervisor.keep(self._look, "look for wishes")
        for worker in self.workers.values():
            await worker.socket.start()
            self._supervisor.keep(worker.reconciler.run, f"reconcile {worker.name}")
        self.pump()

    async def close(self, *, write: bool = True) -> None:
        """Stop following; the jobs go on on the cloud. With `write` all that has changed is on
        disk then; without, another engine may run the jobs by now."""
        self._closed = True
        for subscription in self._heard:
            subscription.close()
        for timer in (self._timer, self._telling, self._telling_all):
            if timer is not None:
                timer.cancel()
        await asyncio.gather(*(worker.socket.close() for worker in self.workers.values()))
        await self._supervisor.close()
        if write:
            await self.recorder.close()

    async def _look(self) -> None:
        """Find in the storage what the bus has not brought: new jobs, and those to be cancelled."""
        while True:
            self._look_now.clear()
            try:
                for row in await self.recorder.wanted():
                    self._notice(row)
            except StorageError as error:
                log.warning("jobs_read_failed", error=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_OFTEN if self.recorder.shared else _LOOK):
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
        return self._supervisor.spawn(work, name)

    def _restore(self, job: Job) -> None:
        """Go on with a job from before the start."""
        self.jobs[job.key] = job
        if job.state in (JobState.RECEIVED, JobState.QUEUED):
            new = job.state is JobState.RECEIVED
            if new:
                job.to(JobState.QUEUED)
            job.accepted = True
            self._publish(job.member, JobChanged(live_of(job)))
            if not self._fails(job):
                self.scheduler.queue.add(job)
            if new:
                self.recorder.changed(job)
                self._publish(job.member, JobAccepted(live_of(job)))
                self._answer(job.key)
            return
        worker = self.workers.get(job.account)
        if worker is None:
            self.spawn(self._find_home(job), f"find the account of {job.prompt_id}")
            self._publish(job.member, JobChanged(live_of(job)))
            return
        self.scheduler.keep(job)
        if job.cancel_requested and job.started_at is not None:
            job.cancel_requested = False
            self._follow(job, worker)
            self.spawn(self._cancel(CancelRequested("", (job.key,))), f"cancel {job.prompt_id}")
        elif job.cloud_id and job.cancel_requested:
            self.spawn(worker.cancel_on_its_way(job), f"cancel {job.prompt_id}")
        elif job.cloud_id:
            self._follow(job, worker)
            worker.reconciler.read_soon()
        else:
            if job.state is JobState.SUBMITTING:
                job.to(JobState.UNKNOWN)
            # Another replica may have told the client that the job is there.
            if self.recorder.shared and not job.accepted:
                job.accepted = True
                self.recorder.changed(job)
            self._seek(job)

    async def _find_home(self, job: Job) -> None:
        """Find the account of a job whose own is in the settings no more, by asking all.

        The job is shown with the reason, and ends as lost after `lost_timeout`.
        """
        since = time.monotonic()
        self.explain(job, "no_account")
        for failures in itertools.count(1):
            for worker in self.workers.values():
                with suppress(CloudError):
                    if job.cloud_id:
                        there = await worker.cloud.job(job.cloud_id) is not None
                    else:
                        found = await worker.submitter.find(job)
                        there, job.cloud_id = found is not None, found or ""
                    if there:
                        job.reason, job.account = None, worker.name
                        self.scheduler.keep(job)
                        self._taken(job, job.cloud_id)
                        return
            lost = self.policy.lost_timeout
            if lost and time.monotonic() - since >= lost:
                self.refuse(job, _lost_account(job.account))
                return
            await asyncio.sleep(_SEARCH.after(failures))

    # --- what the api asks -----------------------------------------------------------------

    def _hear(self, said: object) -> None:
        match said:
            case JobReceived():
                self.spawn(self._receive(said), f"take in {said.key.prompt_id}")
            case JobReleased(key=key, watched=watched):
                self._release(key, watched)
            case OverviewRequested(request=request, member=member):
                self.bus.publish(f"answers.{request}", self.overview(member))
            case CancelRequested():
                self.spawn(self._cancel(said), "cancel jobs")
            case SocketOpened(member=member, client_id=client_id, socket=socket):
                self._tell_running(member, client_id, socket)
            case NewsMissed() if self._telling_all is None:
                loop = asyncio.get_running_loop()
                self._telling_all = loop.call_later(_TELLING, self._tell_all)
            case _ if said is MISSED:
                self._look_now.set()

    async def _receive(self, said: JobReceived) -> None:
        key = said.key
        structlog.contextvars.bind_contextvars(job=key.prompt_id, member=key.member)
        error: LocalError | None = None
        node_errors: dict[str, Any] | None = None
        try:
            job = said.job or await self.recorder.read(key, said.order)
            if job is None or key in self.jobs:
                return
            job.answered = False
            self.jobs[key] = job
            node_errors = await self._place(job, said.found, promised=said.promised)
        except LocalError as refusal:
            error = refusal
        except WithdrawnError:
            error = _withdrawn()
        except StorageError as failure:  # it is stored, and found when that can be read
            log.error("job_read_failed", error=str(failure))
            node_errors = said.found
        except Exception:
            log.exception("job_take_failed")
            error = _failed()
        else:
            self._publish(job.member, JobAccepted(live_of(job)))
        self._answer(key, node_errors, error)

    def _answer(
        self,
        key: JobKey,
        node_errors: Mapping[str, Any] | None = None,
        error: LocalError | None = None,
    ) -> None:
        """Tell the api that a job was taken in or refused."""
        if not self.recorder.term.lasts:
            return
        answer = JobAnswered(key, node_errors, error)
        self.bus.publish(f"answers.{key.member}.{key.prompt_id}", answer)
        if error is None:
            loop = asyncio.get_running_loop()
            wait = _RELEASE_SOON if self.recorder.shared else _RELEASE
            loop.call_later(wait, self._release, key, True)

    async def _place(
        self, job: Job, found: dict[str, Any] | None, *, promised: bool
    ) -> dict[str, Any]:
        """Send a new job at once if there is a slot for it, or let it wait; its node errors.

        What waits could not use the slot. A job that is `promised` is not refused any more.
        """
        if not self.scheduler.has_account(job.member):
            await self._drop(job)
            raise LocalError(
                "no_account",
                "No Comfy Cloud account accepts jobs of this member; ask an admin to add the "
                "member to an account.",
                kind="forbidden",
            )
        if job.rewriting is not None and job.rewriting.failure is not None:
            self._keep(job, found)
            self._fails(job)
            return found or {}
        while (
            not promised
            and (account := self.scheduler.account_for(job.member, probing=True)) is not None
            and self.scheduler.may_go_at_once(job, account)
        ):
            self.scheduler.take(job, account)
            try:
                return await self._send_new(job, self.workers[account.name], found)
            except _ElsewhereError:
                self.scheduler.give_back(job)
            except StorageError as error:  # it is stored, and may wait
                log.error("send_save_failed", error=str(error))
                self.scheduler.give_back(job)
                self._paused_until = time.monotonic() + _OWN_FAULT
                break
        self._keep(job, found)
        self.scheduler.queue.add(job)
        self.pump()
        if job in self.scheduler.queue:
            self.explain(job, *self.scheduler.why(job))
        self._note_ahead(job.member, tell=False)
        return found or {}

    def _keep(self, job: Job, found: dict[str, Any] | None) -> None:
        """A new job is taken in that is not sent now."""
        job.accepted = True
        job.outputs_to_execute = output_nodes(job, found or {}, self.catalog.known)
        job.to(JobState.QUEUED)
        self.recorder.changed(job)
        self._publish(job.member, JobChanged(live_of(job)))

    def _fails(self, job: Job) -> bool:
        """Whether a helper node of the job has failed already: then the job ends with it."""
        failure = None if job.rewriting is None else job.rewriting.failure
        if failure is None:
            return False
        log.info("helper_node_failed", job=job.prompt_id, error=failure.message[:200])
        self._run(job, None)
        job.runner.fail(failure)  # type: ignore[union-attr]
        return True

    def abandon(self, job: Job) -> None:
        """The job has failed here: the cloud need not go on with it."""
        worker = self.workers.get(job.account)
        if worker is not None:
            self.spawn(_cancelled(worker, job.cloud_id), f"cancel {job.prompt_id}")

    async def _send_new(
        self, job: Job, worker: AccountWorker, found: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Send a new job within its request, so that a refusal is the answer.

        Raises `_ElsewhereError` if the account cannot take it and another one may.
        """
        elsewhere = self.scheduler.has_other(job)
        if job.state is not JobState.SUBMITTING:
            job.to(JobState.SUBMITTING)
        job.outputs_to_execute = output_nodes(job, found or {}, self.catalog.known)
        try:
            submitted = await worker.send(job, patience=0.0 if elsewhere else None)
        except UnansweredError:
            self._lose_answer(job)
            raise
        except SubmissionError as error:
            self._note_refusal(job, error)
            if elsewhere and error.fault is not None:
                raise _ElsewhereError from error
            await self._drop(job)
            refusal = error.refusal
            refusal.node_errors = await self.files.reveal(job.member, refusal.node_errors)
            refusal.details = await self.files.reveal(job.member, refusal.details)
            raise refusal from error
        except LocalError as error:
            if elsewhere and error.is_passing:
                self._note_refusal(job, SubmissionError(error, "unreachable"))
                raise _ElsewhereError from error
            await self._drop(job)
            raise
        except StorageError:
            raise
        except Exception:
            await self._drop(job)
            raise
        node_errors = {**(found or {}), **fill_node_errors(submitted.node_errors)}
        told: dict[str, Any] = await self.files.reveal(job.member, node_errors)
        job.outputs_to_execute = output_nodes(job, told, self.catalog.known)
        self._taken(job, submitted.cloud_id)
        return told

    def _release(self, key: JobKey, watched: bool) -> None:
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

    # --- the queue -------------------------------------------------------------------------

    def pump(self) -> None:
        """Let go whatever may go now, and look again when a resting account has rested."""
        if self._closed or not self.recorder.term.lasts:
            return
        at = time.monotonic()
        if at >= self._paused_until:
            while (found := self.scheduler.next()) is not None:
                job, account = found
                self.scheduler.take(job, account)
                job.to(JobState.SUBMITTING)
                job.reason = job.message = None
                self._publish(job.member, JobChanged(live_of(job)))
                self.spawn(self._send(job, self.workers[account.name]), f"send {job.prompt_id}")
        due = self._give_up(at)
        self._tell_ahead()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wakes = [self.scheduler.wake(), self._paused_until, due]
        later = [one for one in wakes if one is not None and one > at]
        if later and len(self.scheduler.queue):
            wait = max(min(later) - time.monotonic(), 0.001)
            self._timer = asyncio.get_running_loop().call_later(wait, self.pump)

    async def use_key(self, account: str, key: str) -> None:
        """Take another key of an account, show it to nobody, and let jobs go again."""
        self.secrets = (key, *self.secrets)
        await self.workers[account].use_key(key)
        self.pump()

    def _give_up(self, at: float) -> float | None:
        """End waiting jobs that no account has been able to take for too long.

        Returns when (`time.monotonic()`) the next one is due, if one is.
        """
        if not self.policy.unable_timeout:
            return None
        wall, due = now(), []
        for member in self.scheduler.queue.members():
            found = self.scheduler.unable(member)
            if found is None:
                continue
            since, refusal = found
            for job in self.scheduler.queue.of(member):
                waited = min(at - since, max(0, wall - job.create_time) / 1000)
                if waited < self.policy.unable_timeout:
                    due.append(at + self.policy.unable_timeout - waited)
                    continue
                self.scheduler.queue.remove(job)
                self.refuse(job, refusal)
        return min(due, default=None)

    def _note_blocked(self) -> None:
        """Note on waiting jobs why their accounts take none."""
        for member in self.scheduler.queue.members():
            for job, reason, message in self.scheduler.waiting(member):
                self.explain(job, reason, message)

    def explain(self, job: Job, reason: str | None, message: str | None = None) -> None:
        """Show why a job does not go on, in a word and in a sentence."""
        if (job.reason, job.message) != (reason, message):
            job.reason, job.message = reason, message
            self._publish(job.member, JobChanged(live_of(job)))

    async def _send(self, job: Job, worker: AccountWorker) -> None:
        """Send a job from the queue."""
        structlog.contextvars.bind_contextvars(job=job.prompt_id, member=job.member)
        try:
            submitted = await worker.send(job, patience=_BRIEFLY)
        except WithdrawnError:
            await self._drop(job)
        except UnansweredError:
            self._lose_answer(job)
        except SubmissionError as error:
            self._note_refusal(job, error)
            await self._not_taken(job, None if error.fault else error.refusal)
        except LocalError as error:
            if error.is_passing:
                self._note_refusal(job, SubmissionError(error, "unreachable"))
            await self._not_taken(job, None if error.is_passing else error)
        except Exception as error:
            if isinstance(error, StorageError):
                log.error("send_save_failed", error=str(error))
            else:
                log.exception("send_failed")
            self._paused_until = time.monotonic() + _OWN_FAULT
            await self._not_taken(job, None)
        else:
            if submitted.node_errors:
                log.warning("nodes_omitted", nodes=sorted(submitted.node_errors))
            self._taken(job, submitted.cloud_id)

    async def _not_taken(self, job: Job, refusal: LocalError | None) -> None:
        """Back to its place in the queue, or its end if it was refused for its own sake."""
        if job.cancel_requested:
            await self._drop(job)
            return
        self._health(job).unsettled()
        self.scheduler.give_back(job)
        if refusal is not None:
            self.refuse(job, refusal)
            self.pump()
            return
        job.to(JobState.QUEUED)
        self.scheduler.queue.add(job)
        self._publish(job.member, JobChanged(live_of(job)))
        self.pump()
        self.recorder.changed(job, self.scheduler.shares_with(job))

    def refuse(self, job: Job, refusal: LocalError) -> None:
        """Let an accepted job that is on no account end as failed, with a life of its own."""
        log.warning("job_refused", job=job.prompt_id, type=refusal.type, message=refusal.message)
        self._run(job, None)
        job.runner.post(  # type: ignore[union-attr]
            SnapshotReceived(
                Snapshot(
                    job.prompt_id, "failed", settled=True, execution_error=_as_failure(refusal)
                )
            )
        )

    def _health(self, job: Job) -> AccountHealth:
        return self.accounts[job.account].health

    def _note_refusal(self, job: Job, error: SubmissionError) -> None:
        """Note what a refused submission says of the account."""
        health = self._health(job)
        if error.fault is None:
            health.worked()
            return
        was_well = health.well
        health.failed(error.fault, time.monotonic(), error.retry_after, error.refusal)
        if was_well:
            log.warning("account_suspended", account=job.account, reason=error.fault)

    async def _drop(self, job: Job) -> None:
        """Forget a job that nobody was told of, or that was cancelled, and that did not go."""
        self.jobs.pop(job.key, None)
        if job.account:
            self._health(job).unsettled()
            self.scheduler.give_back(job)
        self.pump()
        if not await self._discard(job, self.scheduler.shares_with(job)):
            self.spawn(self._discard_later(job), f"discard {job.prompt_id}")

    async def _discard(self, job: Job, shares: Shares | None = None) -> bool:
        """Take a job out of the storage; false if that failed."""
        try:
            await self.recorder.discard(job, shares=shares)
        except StorageError as error:
            log.error("record_delete_failed", job=job.prompt_id, error=str(error))
            return False
        return True

    async def _discard_later(self, job: Job) -> None:
        """A job that is gone must not run after a restart."""
        for failures in itertools.count(1):
            await asyncio.sleep(_SEARCH.after(failures))
            if await self._discard(job):
                return

    # --- submissions without an answer ------------------------------------------------------

    def _lose_answer(self, job: Job) -> None:
        job.to(JobState.UNKNOWN)
        self.recorder.changed(job)
        self._seek(job)
        self._tell_status(job.member)

    def _seek(self, job: Job) -> None:
        """List a job of which nobody knows whether the cloud has it, and look for it there.

        It counts as pending, so that a client which looks for it does not submit it again.
        """
        if not job.cancel_requested:
            self._publish(job.member, JobChanged(live_of(job)))
        self.spawn(self._settle(job), f"look for {job.prompt_id}")

    async def _settle(self, job: Job) -> None:
        structlog.contextvars.bind_contextvars(job=job.prompt_id, member=job.member)
        cloud_id = await self.workers[job.account].recovery.look(job)
        if cloud_id is not None:
            log.info("unanswered_job_adopted", cloud_job=cloud_id)
            new = not job.accepted and not job.cancel_requested
            self._taken(job, cloud_id)
            if new:
                self._publish(job.member, JobAccepted(live_of(job)))
            self._tell_status(job.member)
            return
        log.info("unanswered_job_dismissed")
        if job.accepted and not job.cancel_requested:
            await self._not_taken(job, None)
            return
        await self._drop(job)
        if not job.cancel_requested:
            self._publish(job.member, JobLeft(live_of(job)))

    # --- jobs on the cloud -----------------------------------------------------------------

    async def known(self, cloud_ids: Iterable[str]) -> set[str]:
        """Which of these jobs of an account are ours, live or in the history."""
        live = {one for worker in self.workers.values() for one in worker.jobs}
        asked = set(cloud_ids)
        try:
            return asked & live | await self.recorder.known(asked - live)
        except StorageError as error:
            log.warning("jobs_read_failed", error=str(error))
            return asked & live

    def _taken(self, job: Job, cloud_id: str) -> None:
        """The cloud has the job: follow it, or cancel it if it is not wanted any more."""
        worker = self.workers[job.account]
        job.cloud_id = cloud_id
        worker.health.worked()
        if job.state is not JobState.RUNNING:
            job.to(JobState.SUBMITTED)
        if job.cancel_requested:
            self.spawn(worker.cancel_on_its_way(job), f"cancel {job.prompt_id}")
            return
        job.accepted = True
        self._follow(job, worker)
        job.credentials = {}
        waited = max(0, now() - job.create_time) / 1000
        self._publish(job.member, JobDispatched(live_of(job), waited))
        self.recorder.changed(job)

    def _follow(self, job: Job, worker: AccountWorker) -> None:
        self._publish(job.member, JobChanged(live_of(job)))
        self._run(job, worker)
        worker.follow(job)

    def _run(self, job: Job, worker: AccountWorker | None) -> None:
        job.runner = Runner(job, self, None if worker is None else worker.cloud)
        self._followed[job.key] = job
        if job.answered:
            job.runner.release()

    def forget(self, job: Job) -> None:
        """A job is the engine's no more: its slot is free."""
        self.jobs.pop(job.key, None)
        self._followed.pop(job.key, None)
        worker = self.workers.get(job.account)
        if worker is not None:
            worker.forget(job)
        self._free(job)

    def _free(self, job: Job) -> None:
        if self.scheduler.leave(job):
            self._health(job).eased(time.monotonic())
            self.pump()

    # --- what the runners report -----------------------------------------------------------

    async def turn(self, job: Job) -> None:
        """Let the ends of the member's other jobs be told first, as on a server with one GPU.

        The cloud begins the next job while the end of the last one still waits for its detail.
        """
        earlier = itertools.takewhile(lambda one: one is not job, list(self._followed.values()))
        ending = [
            one.runner.finished.wait()
            for one in earlier
            if one.member == job.member and one.runner is not None and one.runner.ending
        ]
        if ending:
            with suppress(TimeoutError):
                async with asyncio.timeout(_TURN_PATIENCE):
                    await asyncio.gather(*ending)

    def started(self, job: Job, at: int) -> None:
        """The job runs now (`at` in ms)."""
        if job.started_at is None and job.state is JobState.SUBMITTED:
            job.started_at = at
            job.to(JobState.RUNNING)
            self.recorder.changed(job)
        if self.scheduler.started(job):
            self.pump()
        self._publish(job.member, JobChanged(live_of(job)))
        self._tell_status(job.member)

    def over(self, job: Job) -> None:
        """The cloud has told of the end: the slot is free, whatever is still to be read."""
        if not job.over:
            job.over = True
            self._free(job)

    async def record(self, job: Job, end: RecordEnd) -> None:
        """Write the history entry. Raises `StorageError`."""
        count, forgotten = await self.recorder.end(job, end, self.scheduler.shares_with(job))
        self._ends[job.key] = end, count
        news = HistoryChanged(job.member, job.prompt_id, tuple(forgotten))
        self._publish(job.member, news)

    def ended(self, job: Job) -> None:
        """The job leaves the queue for the history."""
        end, count = self._ends.pop(job.key)
        job.to(ENDS[end.outcome])
        seconds = (end.ended_at - end.started_at) / 1000
        self.scheduler.ended(job, seconds)
        self.forget(job)
        log.info(
            "job_ended", cloud_job=job.cloud_id, outcome=end.outcome, seconds=round(seconds, 3)
        )
        self._publish(job.member, JobLeft(live_of(job), end.outcome, seconds, count))

    # --- cancelling ------------------------------------------------------------------------

    async def _cancel(self, asked: CancelRequested) -> None:
        jobs = [job for key in asked.keys if (job := self.jobs.get(key)) is not None]
        try:
            answer = CancelAnswered(await self._cancel_all(jobs))
        except LocalError as error:
            answer = CancelAnswered(error=error)
        if self.recorder.term.lasts:
            self.bus.publish(f"answers.{asked.request}", answer)

    async def _cancel_all(self, jobs: list[Job]) -> bool:
        """Cancel live jobs; says whether any was cancelled by this. Raises `LocalError`."""
        waiting = [job for job in jobs if job in self.scheduler.queue]
        others = [job for job in jobs if job not in waiting]
        if waiting:
            await self._withdraw(waiting)
        results = await asyncio.gather(*map(self._cancel_placed, others), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return bool(waiting) or any(results)

    async def _withdraw(self, jobs: list[Job]) -> None:
        """Take waiting jobs out without a trace; if they cannot be removed they still wait."""
        for job in jobs:
            self.scheduler.queue.remove(job)
        try:
            await self.recorder.discard(*jobs)
        except StorageError as error:
            for job in jobs:
                self.scheduler.queue.add(job)
            raise LocalError(
                "store_unavailable",
                "The proxy cannot write to its data folder, so the jobs stay in the queue; free "
                "disk space or repair the disk, then try again.",
                kind="unavailable",
            ) from error
        finally:
            self.pump()
        for job in jobs:
            self.jobs.pop(job.key, None)
            self._gone(job)

    async def _cancel_placed(self, job: Job) -> bool:
        """Cancel a job that has left the queue.

        One that does not run is gone at once, a running one when the cloud says so.
        """
        if not job.cloud_id:
            job.cancel_requested = True
            self._gone(job)
            self.recorder.changed(job)
            return True
        worker, runner = self.workers.get(job.account), job.runner
        if worker is None or runner is None:
            return False
        try:
            self.recorder.term.check()
            cancelled = await worker.cloud.cancel(job.cloud_id)
        except CloudRefused as error:
            raise from_cloud(error.status, error.body, error.retry_after) from error
        except CloudError as error:
            raise LocalError(
                "cloud_unreachable",
                "The job could not be cancelled on Comfy Cloud and continues; try again.",
                kind="unavailable",
                details=job.prompt_id,
                retry_after=error.retry_after or 10.0,
            ) from error
        live = self.jobs.get(job.key) is job
        if not cancelled or job.started_at is not None or not live:
            runner.read_detail()
            return cancelled
        await runner.stop()
        if not await self._discard(job):
            self.spawn(self._discard_later(job), f"discard {job.prompt_id}")
        self.forget(job)
        self._gone(job)
        return True

    def _gone(self, job: Job) -> None:
        """A job has left the queue without a trace."""
        if job.state not in (JobState.SUBMITTING, JobState.UNKNOWN):
            job.to(JobState.CANCELLED)
        log.info(
            "job_discarded", job=job.prompt_id, member=job.member, cloud_job=job.cloud_id or None
        )
        self._publish(job.member, JobLeft(live_of(job)))

    # --- what admins see -------------------------------------------------------------------

    def overview(self, member: str | None) -> OverviewAnswered:
        """All live jobs, or those of one member, and the accounts."""
        rank = {"running": 0, "pending": 1, "sending": 2}
        views = [
            _view_of(job)
            for job in self.jobs.values()
            if job.state not in (JobState.RECEIVED, JobState.QUEUED)
            and (job.accepted or job.state is JobState.UNKNOWN)
            and not job.cancel_requested
            and member in (None, job.member)
        ]
        views.sort(key=lambda view: (rank[view.state], view.started_at or view.create_time))
        waiting: dict[str, list[Job]] = {}
        for place in self.scheduler.forecast():
            if member in (None, place.member):
                if place.member not in waiting:
                    waiting[place.member] = self.scheduler.queue.of(place.member)
                view = _view_of(waiting[place.member][place.index])
                views.append(replace(view, account=None, before=place.before, reason=place.reason))
        return OverviewAnswered(tuple(views), self._account_views())

    def _account_views(self) -> tuple[AccountView, ...]:
        return tuple(map(self._account_view, self.workers.values()))

    def _account_view(self, worker: AccountWorker) -> AccountView:
        health = worker.health
        rest = health.until - time.monotonic()
        return AccountView(
            worker.name,
            worker.slots.count,
            self.scheduler.used(worker.name),
            health.reason,
            now() + int(rest * 1000) if not health.well and rest > 0 else None,
            worker.socket.connected,
        )

    # --- telling ---------------------------------------------------------------------------

    def _tell_running(self, member: str, client_id: str, socket: str) -> None:
        """Tell a socket that has just opened which node of its client runs."""
        for job in reversed(self._followed.values()):
            if job.client_id == client_id and job.member == member and job.runner is not None:
                node = job.runner.tracker.display_node
                if node is not None and self.recorder.term.lasts:
                    news = NodeRuns(member, client_id, socket, node)
                    self.bus.publish(topic_of(member, client_id), news)
                    return

    def _tell_all(self) -> None:
        """Tell of all jobs once more, for those who have missed something."""
        self._telling_all = None
        for job in self.jobs.values():
            known = job.accepted or job.state is JobState.UNKNOWN
            if known and not job.cancel_requested:
                self._publish(job.member, JobChanged(live_of(job)))
        for member, count in self._ahead.items():
            self._publish(member, JobsAhead(member, count))

    def _publish(self, member: str, news: BusMessage) -> None:
        if self.recorder.term.lasts:
            self._observe(news)
            self.bus.publish(f"jobs.{member}", news)

    def _tell_status(self, member: str) -> None:
        self._publish(member, JobsAhead(member, self._ahead.get(member, 0), tell=True))

    def _tell_ahead(self) -> None:
        """Tell members whose waiting jobs have moved up because of somebody else, in a while."""
        self.scheduler.changed()
        if self._telling is None and (self._ahead or len(self.scheduler.queue)):
            self._telling = asyncio.get_running_loop().call_later(_TELLING, self._tell_others)

    def _tell_others(self) -> None:
        self._telling = None
        self._note_blocked()
        members = self.scheduler.queue.members()
        if len(members) > 1:
            self.scheduler.forecast()  # of all members at once
        for member in {*members, *self._ahead}:
            self._note_ahead(member, tell=True)

    def _note_ahead(self, member: str, *, tell: bool) -> None:
        ahead = self.scheduler.before(member)
        if ahead != self._ahead.get(member, 0):
            if ahead:
                self._ahead[member] = ahead
            else:
                self._ahead.pop(member, None)
            self._publish(member, JobsAhead(member, ahead, tell))


def _view_of(job: Job) -> JobView:
    """A live job as admins see it, with the node that runs."""
    view = view_of(live_of(job))
    if job.runner is None or job.state is not JobState.RUNNING:
        return view
    tracker = job.runner.tracker
    node = tracker.display_node
    type_ = None if node is None else tracker.node_types.get(node)
    return replace(view, progress=tracker.progress, node=node, node_type=type_)


async def _cancelled(worker: AccountWorker, cloud_id: str) -> None:
    try:
        await worker.cloud.cancel(cloud_id)
    except CloudError as error:
        log.warning("cancel_failed", cloud_job=cloud_id, error=str(error))


def output_nodes(job: Job, node_errors: Mapping[str, Any], known: KnownClass) -> list[str]:
    """The output nodes that passed validation, as far as the catalog knows the classes."""
    spoilt = set(node_errors)
    for about in node_errors.values():
        spoilt.update(str(node) for node in about["dependent_outputs"])
    return [
        node_id
        for node_id, node in job.graph.items()
        if node_id not in spoilt
        and (job.targets is None or node_id in job.targets)
        and isinstance(node, dict)
        and (known(str(node.get("class_type"))) or {}).get("output_node")
    ]


def _as_failure(refusal: LocalError) -> dict[str, Any]:
    """A refusal of the cloud as the failure of a run, with the first node that it names."""
    node_id = next(iter(refusal.node_errors), None)
    about = refusal.node_errors.get(node_id, {}) if node_id is not None else {}
    errors = about.get("errors") or [] if isinstance(about, dict) else []
    said = [f"{one.get('message', '')}: {one.get('details', '')}".strip(": ") for one in errors]
    lines = [refusal.message, refusal.details, *said]
    return {
        "node_id": node_id,
        "node_type": about.get("class_type") if isinstance(about, dict) else None,
        "exception_type": refusal.type,
        "exception_message": "\n".join(line for line in dict.fromkeys(lines) if line),
        "traceback": [],
    }


def _lost_account(name: str) -> LocalError:
    return LocalError(
        "JobLost",
        f"The Comfy Cloud account {name} of this job was removed from the settings, and no other "
        "account has the job; find its outputs on the cloud with that account.",
        kind="not_found",
    )


def _withdrawn() -> LocalError:
    return LocalError(
        "submission_withdrawn",
        "The job was cancelled before it was sent. It will not run.",
        kind="unavailable",
    )


def _failed() -> LocalError:
    return LocalError(
        "submission_failed",
        "The proxy could not store the job. It will not run; the log has the reason.",
        kind="internal",
    )
