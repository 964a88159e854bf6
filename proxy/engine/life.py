"""The life of a job, from its slot to its history entry."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import structlog

from proxy.cloud.errors import CloudError, CloudRefused
from proxy.cloud.upstream import Upstream
from proxy.engine.follower import JobFollower, retried
from proxy.engine.following import Following
from proxy.engine.inbox import Inbox
from proxy.engine.live_job import LiveJob
from proxy.engine.localiser import Localiser
from proxy.engine.outcomes import (
    Discard,
    Elsewhere,
    Fail,
    FailedBefore,
    Follow,
    Interrupt,
    LookFor,
    Lost,
    NotNow,
    NotThere,
    Outcome,
    OutOfMemory,
    OverBudget,
    Refused,
    Sent,
    Step,
    TryOther,
    Wait,
    Withdrawn,
    WrongAccount,
    next_step,
    submission_failed,
)
from proxy.engine.policy import Policy
from proxy.engine.queue_news import QueueNews
from proxy.engine.recorder import JobRecorder
from proxy.engine.resources import JobResources
from proxy.engine.scheduler import Scheduler
from proxy.engine.submitter import unsent
from proxy.engine.table import JobTable
from proxy.engine.tracker import SnapshotReceived, Tracker
from proxy.engine.workers import Workers
from proxy.jobs.models import JobState
from proxy.runtime.backoff import Backoff
from proxy.sharing.budget import MemoryLimitError
from proxy.storage.database import StorageError
from proxy.translate import UNKNOWN_CLASS
from proxy.translate.errors import LocalError, failure_of, unconfirmed_refusal
from proxy.translate.packs import Failure
from proxy.translate.snapshots import Snapshot, Status

log = structlog.get_logger(__name__)

#: Seconds that the cloud may put off a job of the queue before it goes back there.
_QUEUED_MAX_WAIT = 2.0

#: Between two tries to cancel a job on the cloud.
_RETRY = Backoff(first=0.5, longest=30.0)
#: How often the cloud must not know a job before it counts as gone: that takes a minute.
_MAX_UNKNOWN = 7


class JobLife:
    """Runs the lives of jobs, each in one call of `run`."""

    def __init__(
        self,
        table: JobTable,
        recorder: JobRecorder,
        scheduler: Scheduler,
        workers: Workers,
        news: QueueNews,
        resources: JobResources,
        policy: Policy,
    ) -> None:
        self._table = table
        self._recorder = recorder
        self._scheduler = scheduler
        self._workers = workers
        self._news = news
        self._resources = resources
        self._policy = policy
        self.following = Following(table, recorder, scheduler, resources)

    def events_come(self, job: LiveJob) -> bool:
        """Return whether events come from the account of a job, as far as is known."""
        return self._workers[job.account].feed.connected

    async def run(self, job: LiveJob, outcome: Outcome | None = None) -> None:
        """Lead a job that has a slot to its end, or back into the queue.

        After a restart it continues with the `outcome` that was reached before.
        """
        structlog.contextvars.bind_contextvars(**job.log_fields)
        if outcome is None:
            outcome = await self._send(job)
        elif job.content is not None:
            self._hold_anyway(job)
        step = self._next(job, outcome)
        while isinstance(step, TryOther) and self._move(job):
            outcome = await self._send(job)
            step = self._next(job, outcome)
        while isinstance(step, LookFor):
            outcome = await self._look(job, outcome)
            step = self._next(job, outcome)
            if isinstance(outcome, NotThere) and self._is_sent_again(job, step):
                outcome = await self._send(job)
                if isinstance(outcome, Elsewhere | NotNow | OverBudget | OutOfMemory):
                    outcome = Lost()
                step = self._next(job, outcome)
        match step:
            case Follow(sent=sent):
                await self._follow(job, sent)
            case Wait() | TryOther():
                await self._wait(job, step)
            case Fail(cause=cause):
                await self.fail(job, cause)
            case Interrupt():
                await self.interrupt(job)
            case Discard(refusal=refusal):
                await self._discard(job, refusal)

    def _is_sent_again(self, job: LiveJob, step: Step) -> bool:
        """Return whether a job that was not found is sent to its account again, and to no other:
        where a submission is taken once, the account may have it and not be able to find it."""
        worker = self._workers.get(job.account)
        if worker is None or not worker.cloud.capabilities.idempotent:
            return False
        if self._scheduler.is_held(job):
            return False
        return isinstance(step, Wait) or not (job.accepted or job.cancel_requested)

    def _next(self, job: LiveJob, outcome: Outcome) -> Step:
        has_other = isinstance(outcome, Elsewhere) and self._scheduler.has_other(job)
        step = next_step(job, outcome, has_other=has_other)
        if not (isinstance(outcome, Elsewhere) and isinstance(step, Discard)) or outcome.by_cloud:
            self._scheduler.judge(job, outcome)
        return step

    # --- on the way to the cloud -----------------------------------------------------------

    async def _send(self, job: LiveJob) -> Outcome:
        """Submit a job that has a slot."""
        max_wait = self._policy.submit_timeout
        if job.accepted:
            obstacle = await self._obstacle(job)
            if obstacle is not None:
                return obstacle
            max_wait = min(max_wait, _QUEUED_MAX_WAIT)
        elif self._scheduler.has_other(job):
            max_wait = 0.0
        worker = self._workers[job.account]
        if not worker.cloud.capabilities.validates:
            unknown = self._resources.catalog.unknown_class(job.loaded.cloud_graph)
            if unknown is not None:
                return Refused(_unknown_class(unknown), by_cloud=False)
        if (refused := self._over_memory(job)) is not None:
            return refused
        if (refused := await self._over_budget(job)) is not None:
            return refused
        return await worker.submitter.send(job, max_wait=max_wait)

    async def _obstacle(self, job: LiveJob) -> Outcome | None:
        """Return why a job that has waited cannot be sent, once what its client sent is in
        memory."""
        try:
            if not await self._recorder.load_content(job):
                return Withdrawn()
        except StorageError as error:
            log.error("job_read_failed", error=str(error))
            return NotNow()
        except MemoryLimitError as error:
            return _without_memory(error)
        except LocalError as error:
            return Refused(error, by_cloud=False)
        if job.loaded.failure is not None:
            return FailedBefore(job.loaded.failure)
        # What the accounts have may have changed while it waited.
        await self._resources.catalog.wait_loaded(self._policy.timeouts.catalog_timeout)
        needs = self._resources.catalog.needs_of(job.loaded.cloud_graph)
        self._table.change(job, needs=needs)
        if self._workers[job.account].account not in self._scheduler.usable(job):
            return WrongAccount()
        return None

    def _over_memory(self, job: LiveJob) -> Outcome | None:
        """Return why a job cannot be sent now whose content has no room in memory."""
        try:
            self._recorder.hold_content(job)
        except MemoryLimitError as error:
            return _without_memory(error)
        self._scheduler.has_room(job)
        return None

    def _hold_anyway(self, job: LiveJob) -> None:
        """Count what is in memory of a job that the cloud may have."""
        with suppress(MemoryLimitError):
            self._recorder.hold_content(job)

    async def _over_budget(self, job: LiveJob) -> Outcome | None:
        """Return why the budgets of its member do not let a job be sent now, if they do not."""
        gate = self._resources.gate
        if gate is None:
            return None
        try:
            return await gate.enter(job, self._workers[job.account].account)
        except (LocalError, StorageError) as error:
            return unsent(error)
        except Exception:
            log.exception("send_failed")
            return NotNow(submission_failed())

    def _move(self, job: LiveJob) -> bool:
        """Give a new job a slot of another account; return whether there is one."""
        self._scheduler.give_back(job)
        return self._scheduler.assign_at_once(job)

    async def _look(self, job: LiveJob, outcome: Outcome) -> Outcome:
        """Find out where a job is.

        It counts as pending, so that a client which looks for it does not submit it again.
        """
        at_home = job.account in self._workers
        if job.state is JobState.SUBMITTING:
            self._table.advance(job, JobState.UNKNOWN)
        self._table.show(job, reason="unanswered" if at_home else "no_account")
        if isinstance(outcome, Lost) and outcome.refusal is not None and not job.accepted:
            self._table.answer(job, outcome.refusal)
        outcome = await self._workers.recovery.look(job)
        self._table.show(job, reason=None)
        if not at_home and isinstance(outcome, Sent):
            self._table.change(job, account=outcome.account or job.account)
            self._scheduler.keep(job)
        return outcome

    # --- on the cloud ----------------------------------------------------------------------

    async def _follow(self, job: LiveJob, sent: Sent) -> None:
        """Follow a job that the cloud has to its end; a new job's client gets its answer first."""
        worker = self._workers[job.account]
        follower, was_accepted = self._follower(job, worker.cloud), job.accepted
        self._accept(job, sent)
        try:
            async with self.following.follows(job, follower):
                worker.follow(job)
                if not was_accepted:
                    await asyncio.sleep(0)  # the client has its answer before anything else is done
                elif sent.node_errors:
                    log.warning("nodes_omitted", nodes=sorted(sent.node_errors))
                beside = []
                if job.cancel_requested:
                    follower.withdraw()
                if job.cancel_requested or job.interrupted:
                    beside.append(self._end_on_cloud(job, follower))
                await self.following.lead_to_end(job, follower, beside)
        finally:
            worker.leave(job.cloud_id)
        if follower.abandoned:
            await worker.abandon(job.cloud_id)

    def _accept(self, job: LiveJob, sent: Sent) -> None:
        """Note that the cloud has a job, maybe without some of its nodes."""
        if job.is_on_cloud:
            return
        outputs = job.outputs_to_execute
        if sent.node_errors:
            outputs = self._resources.output_nodes(job, sent.node_errors)
        self._table.advance(
            job,
            JobState.SUBMITTED,
            cloud_id=sent.cloud_id,
            omitted=sent.node_errors,
            accepted=True,
            outputs_to_execute=outputs,
        )
        job.loaded.keep_for_run()
        self._hold_anyway(job)

    async def _end_on_cloud(self, job: LiveJob, follower: JobFollower) -> None:
        """Have the cloud end a job that its client cancelled or interrupted while it was on its
        way, then follow it to the end that it has. One that it does not know for a minute is not
        there."""
        failures = 0
        while True:
            try:
                await self._workers[job.account].cancel(job.cloud_id)
                break
            except (CloudError, StorageError) as error:
                log.warning("cancel_failed", error=str(error))
                is_unknown = isinstance(error, CloudRefused) and error.status == 404
                if is_unknown and failures == _MAX_UNKNOWN:
                    break
            except Exception:
                log.exception("cancel_crashed")
            failures += 1
            await asyncio.sleep(_RETRY.after(failures))
        log.info("job_cancelled", cloud_job=job.cloud_id)
        follower.read_detail()

    # --- not on the cloud ------------------------------------------------------------------

    async def enqueue(self, job: LiveJob) -> None:
        """Let a new job wait for its turn, and answer its client.

        A job with a node that has failed already ends with that instead.
        """
        self._table.advance(job, JobState.QUEUED, accepted=True)
        failure = job.loaded.failure
        if failure is None:
            self._scheduler.enqueue(job)
            self._news.explain(job)
        else:
            await self.fail(job, failure)

    async def _wait(self, job: LiveJob, step: Wait | TryOther) -> None:
        """Put a job back into the queue, at its position; a new job's client gets its answer."""
        self._scheduler.give_back(job)
        if isinstance(step, Wait) and step.pause:
            self._scheduler.pause()
        is_new = not job.accepted
        self._table.advance(job, JobState.QUEUED, accepted=True, answers=False)
        self._scheduler.enqueue(job)
        if is_new:
            self._news.explain(job)
            await self._table.confirm(job)

    async def fail(self, job: LiveJob, cause: LocalError | Failure) -> None:
        """End an accepted job that is on no account as failed."""
        self._scheduler.give_back(job)
        await self._load(job)
        follower = self._follower(job)
        if isinstance(cause, Failure):
            log.info("node_failed", error=cause.message[:200])
            follower.fail(cause)
        else:
            log.warning("job_refused", type=cause.type, message=cause.message)
            follower.post(_ended(job, "failed", failure_of(cause)))
        async with self.following.follows(job, follower):
            await self.following.lead_to_end(job, follower)

    async def interrupt(self, job: LiveJob) -> None:
        """End an accepted job that is on no account as an interrupted run."""
        self._scheduler.give_back(job)
        await self._load(job)
        follower = self._follower(job)
        follower.post(_ended(job, "cancelled"))
        async with self.following.follows(job, follower):
            await self.following.lead_to_end(job, follower)

    async def _load(self, job: LiveJob) -> None:
        """Read what the client sent, for the history, once there is room for it; one that is
        unreadable ends without it."""
        for tries in count(1):
            try:
                await retried(partial(self._recorder.load_content, job))
            except LocalError as error:
                if isinstance(error, MemoryLimitError) and error.kind == "rate_limited":
                    await asyncio.sleep(_RETRY.after(tries))
                    continue
            return

    async def _discard(self, job: LiveJob, refusal: LocalError | None) -> None:
        """Forget a job that the cloud does not have; a new job's client is refused."""
        self._scheduler.give_back(job)
        is_out = await self._table.discard(job)
        if refusal is not None and not job.accepted:
            if not is_out:
                refusal = unconfirmed_refusal(refusal)
            reveal, id_ = self._resources.files.reveal, job.prompt_id
            refusal.node_errors = await reveal(job.member, refusal.node_errors, id_)
            refusal.details = await reveal(job.member, refusal.details, id_)
            self._table.answer(job, refusal)

    def _follower(self, job: LiveJob, cloud: Upstream | None = None) -> JobFollower:
        """Return a follower of a job, which may be on the `cloud`."""
        resources = self._resources
        return JobFollower(
            job,
            Tracker(job.prompt_id, job.graph, job.outputs_to_execute),
            Localiser(job, resources.files, resources.packs, self._workers.secrets),
            cloud,
            self._policy.detail,
            resources.run_times,
            Inbox(partial(resources.budget.member, job.member, "job")),
            held=not job.answered,
        )


def _without_memory(error: MemoryLimitError) -> Outcome:
    """Return the outcome for a job whose content has no room beside those of others."""
    if error.kind == "too_large":
        return Refused(error, by_cloud=False)
    return OutOfMemory()


def _unknown_class(name: str) -> LocalError:
    return LocalError(
        UNKNOWN_CLASS,
        f"No account's list of nodes has the node {name}, and a deployment would charge for the "
        "failure. Renew object_info of the account if its build has the node.",
    )


def _ended(job: LiveJob, status: Status, error: dict[str, Any] | None = None) -> SnapshotReceived:
    """Return the end of a job that the cloud does not have."""
    snapshot = Snapshot(job.prompt_id, status, settled=True, execution_error=error)
    return SnapshotReceived(snapshot)
