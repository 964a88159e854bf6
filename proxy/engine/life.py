"""The life of a job, from its slot to its history entry."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from msgspec.structs import replace

from proxy.budget import MemoryBudget
from proxy.cloud.errors import CloudError
from proxy.cloud.event_socket import Timeouts
from proxy.cloud.resilience import Backoff
from proxy.cloud.upstream import Upstream
from proxy.costs.job_cost import Pricing
from proxy.engine.announcer import Announcer
from proxy.engine.follower import JobFollower, Runs, retried
from proxy.engine.localiser import Localiser, Secrets
from proxy.engine.outcomes import (
    CancelOnCloud,
    Discard,
    Elsewhere,
    Fail,
    FailedBefore,
    Follow,
    Interrupt,
    LookFor,
    Lost,
    NotNow,
    Outcome,
    Refused,
    Sent,
    Step,
    TryOther,
    Wait,
    WrongAccount,
    next_step,
)
from proxy.engine.outputs import output_nodes
from proxy.engine.policy import Policy
from proxy.engine.queue_news import QueueNews
from proxy.engine.recorder import JobRecorder
from proxy.engine.recovery import Recovery
from proxy.engine.run_times import RunTimes
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import JobTable
from proxy.engine.tracker import Ended, SnapshotReceived, Tracker
from proxy.engine.worker import AccountWorker
from proxy.jobs.conversion import run_of
from proxy.jobs.message_order import StepBuffer
from proxy.jobs.messages import topic_of
from proxy.jobs.models import Job, JobState
from proxy.storage.database import StorageError
from proxy.translate import workflow_metadata
from proxy.translate.errors import LocalError, failure_of
from proxy.translate.packs import Failure
from proxy.translate.snapshots import Snapshot, Status

if TYPE_CHECKING:
    from proxy.catalog.service import Catalog
    from proxy.files.service import Files
    from proxy.translate.packs import NodePacks

log = structlog.get_logger(__name__)

#: Nodes of a graph whose cost is computed on the event loop: more prices take longer than a few ms.
MAX_NODES_INLINE = 100
#: Seconds that the cloud may put off a job of the queue before it goes back there.
_QUEUED_MAX_WAIT = 2.0

#: Between two tries to cancel a job on the cloud.
_RETRY = Backoff(first=0.5, longest=30.0)


class JobLife:
    """Leads jobs through their lives, each in one call of `run`."""

    def __init__(
        self,
        table: JobTable,
        runs: Runs,
        scheduler: Scheduler,
        workers: Mapping[str, AccountWorker],
        recovery: Recovery,
        announcer: Announcer,
        news: QueueNews,
        recorder: JobRecorder,
        budget: MemoryBudget,
        *,
        files: Files,
        catalog: Catalog,
        packs: NodePacks,
        secrets: Secrets,
        timeouts: Timeouts,
        policy: Policy,
        run_times: RunTimes,
        pricing: Pricing,
    ) -> None:
        self._table = table
        self._runs = runs
        self._scheduler = scheduler
        self._workers = workers
        self._recovery = recovery
        self._announcer = announcer
        self._news = news
        self._recorder = recorder
        self._budget = budget
        self._files = files
        self._catalog = catalog
        self._packs = packs
        self._secrets = secrets
        self._timeouts = timeouts
        self._policy = policy
        self._run_times = run_times
        self._pricing = pricing

    async def run(self, job: Job, outcome: Outcome | None = None) -> None:
        """Lead a job that has a slot to its end, or back into the queue.

        After a restart it continues with the `outcome` that was reached before.
        """
        structlog.contextvars.bind_contextvars(job=job.prompt_id, member=job.member)
        if outcome is None:
            outcome = await self._send(job)
        step = self._next(job, outcome)
        while isinstance(step, TryOther) and self._move(job):
            outcome = await self._send(job)
            step = self._next(job, outcome)
        if isinstance(step, LookFor):
            outcome = await self._look(job, outcome)
            step = self._next(job, outcome)
        match step:
            case Follow(sent=sent):
                await self._follow(job, sent)
            case CancelOnCloud(sent=sent):
                await self._cancel(job, sent)
            case Wait() | TryOther():
                await self._wait(job, step)
            case Fail(cause=cause):
                await self.fail(job, cause)
            case Interrupt():
                await self.interrupt(job)
            case Discard(refusal=refusal):
                await self._discard(job, refusal)

    def _next(self, job: Job, outcome: Outcome) -> Step:
        has_other = isinstance(outcome, Elsewhere) and self._scheduler.has_other(job)
        step = next_step(job, outcome, has_other=has_other)
        if not (isinstance(outcome, Elsewhere) and isinstance(step, Discard)) or outcome.by_cloud:
            self._scheduler.note(job, outcome)
        return step

    # --- on the way to the cloud -----------------------------------------------------------

    async def _send(self, job: Job) -> Outcome:
        """Submit a job that has a slot."""
        max_wait = self._policy.submit_timeout
        if job.accepted:
            obstacle = await self._obstacle(job)
            if obstacle is not None:
                return obstacle
            max_wait = min(max_wait, _QUEUED_MAX_WAIT)
        elif self._scheduler.has_other(job):
            max_wait = 0.0
        return await self._workers[job.account].submitter.send(job, max_wait=max_wait)

    async def _obstacle(self, job: Job) -> Outcome | None:
        """Return why a job that has waited cannot be sent, once what its client sent is in
        memory."""
        try:
            await self._recorder.load_content(job)
        except StorageError as error:
            log.error("job_read_failed", error=str(error))
            return NotNow()
        except LocalError as error:
            return Refused(error, by_cloud=False)
        if job.loaded.failure is not None:
            return FailedBefore(job.loaded.failure)
        # What the accounts have may have changed while it waited.
        await self._catalog.wait_loaded(self._timeouts.catalog_timeout)
        self._table.note(job, needs=self._catalog.needs_of(job.loaded.cloud_graph))
        if self._workers[job.account].account not in self._scheduler.usable(job):
            return WrongAccount()
        return None

    def _move(self, job: Job) -> bool:
        """Give a new job a slot of another account; return whether there is one."""
        self._scheduler.give_back(job)
        return self._scheduler.take_at_once(job)

    async def _look(self, job: Job, outcome: Outcome) -> Outcome:
        """Find out where a job is.

        It counts as pending, so that a client which looks for it does not submit it again.
        """
        at_home = job.account in self._workers
        if job.state is JobState.SUBMITTING:
            self._table.advance(job, JobState.UNKNOWN)
        if not at_home:
            self._table.show(job, reason="no_account")
        if isinstance(outcome, Lost) and outcome.refusal is not None and not job.accepted:
            self._announcer.refuse(job.key, outcome.refusal)
        outcome = await self._recovery.look(job)
        if not at_home and isinstance(outcome, Sent):
            self._table.note(job, account=outcome.account or job.account)
            self._table.show(job, reason=None)
            self._scheduler.keep(job)
        return outcome

    # --- on the cloud ----------------------------------------------------------------------

    async def _follow(self, job: Job, sent: Sent) -> None:
        """Follow a job that the cloud has to its end; a new job's client gets its answer first."""
        worker = self._workers[job.account]
        follower = self._follower(job, worker.cloud)
        was_accepted = job.accepted
        self._take(job, sent)
        worker.follow(job.cloud_id, follower)
        if not was_accepted:
            await asyncio.sleep(0)  # the client gets its answer before anything else is done
        elif sent.node_errors:
            log.warning("nodes_omitted", nodes=sorted(sent.node_errors))
        if job.interrupted:
            await worker.abandon(job.cloud_id)
            follower.read_detail()
        try:
            await self._lead_to_end(job, follower)
        finally:
            worker.leave(job.cloud_id)
        if follower.abandoned:
            await worker.abandon(job.cloud_id)

    def _take(self, job: Job, sent: Sent) -> None:
        """Note that the cloud has a job, maybe without some of its nodes."""
        if job.is_on_cloud:
            return
        changes: dict[str, Any] = {"cloud_id": sent.cloud_id, "omitted": sent.node_errors}
        if not job.cancel_requested:
            changes["accepted"] = True
        if sent.node_errors:
            outputs = output_nodes(job, sent.node_errors, self._catalog.known)
            changes["outputs_to_execute"] = outputs
        self._table.advance(job, JobState.SUBMITTED, **changes)
        job.loaded.credentials = {}  # the cloud has them

    async def _lead_to_end(self, job: Job, follower: JobFollower) -> None:
        """Follow a job, and record how it has ended."""
        try:
            outcome = await follower.follow()
            if isinstance(outcome, Ended):
                await self._finish(job, follower, outcome)
            else:
                await self._table.discard(job)
        finally:
            self._scheduler.free(job)
            self._runs[job.member].pop(job, None)
            follower.close()

    async def _finish(self, job: Job, follower: JobFollower, ended: Ended) -> None:
        """Record an end, then tell it: the history has the entry before the client hears of it,
        and before that the outputs are in the output directory, if there is one.

        The sockets of this replica hear at once what is told: what every replica must know before
        is flushed.
        """
        priced = partial(self._pricing.cost_of, run_of(job, ended.end))
        large = len(job.graph) > MAX_NODES_INLINE
        cost = await asyncio.to_thread(priced) if large else priced()
        end = replace(ended.end, cost=cost)
        if self._files.output_directory is not None:
            await self._files.output_directory.save(job.member, end.outputs)
        self._scheduler.ended(job, end.ms / 1000)
        await retried(partial(self._table.finish, job, end))
        if end.outcome == "completed":
            self._run_times.learn(job.graph, end.node_times, job.member, end.ms)
        await self._announcer.flush()
        follower.tell(ended.result)
        self._table.leave(job, end)
        await self._announcer.flush()
        follower.tell(ended.last)

    async def _cancel(self, job: Job, sent: Sent) -> None:
        """Have the cloud end a job that its client cancelled while it was on its way."""
        self._take(job, sent)
        if not job.accepted:
            self._announcer.answer(job.key, sent.node_errors)
        failures = 0
        while True:
            try:
                if not failures:
                    await self._recorder.save(job)
                self._recorder.term.check()
                await self._workers[job.account].cloud.cancel(job.cloud_id)
                break
            except (CloudError, StorageError) as error:
                failures += 1
                log.warning("cancel_failed", error=str(error))
                await asyncio.sleep(_RETRY.after(failures))
        log.info("job_cancelled", cloud_job=job.cloud_id)
        self._scheduler.free(job)
        await self._table.discard(job)

    # --- not on the cloud ------------------------------------------------------------------

    async def take_in(self, job: Job) -> None:
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

    async def _wait(self, job: Job, step: Wait | TryOther) -> None:
        """Put a job back into the queue, at its place."""
        self._scheduler.give_back(job)
        if isinstance(step, Wait) and step.pause:
            self._scheduler.pause()
        if not job.accepted:
            await self.take_in(job)
            return
        self._table.advance(job, JobState.QUEUED)
        self._scheduler.enqueue(job)

    async def fail(self, job: Job, cause: LocalError | Failure) -> None:
        """Let an accepted job that is on no account end as failed, with a life of its own."""
        self._scheduler.give_back(job)
        await self._load(job)
        follower = self._follower(job)
        if isinstance(cause, Failure):
            log.info("node_failed", error=cause.message[:200])
            follower.fail(cause)
        else:
            log.warning("job_refused", type=cause.type, message=cause.message)
            follower.post(_ended(job, "failed", failure_of(cause)))
        await self._lead_to_end(job, follower)

    async def interrupt(self, job: Job) -> None:
        """Let an accepted job that is on no account end as an interrupted run."""
        self._scheduler.give_back(job)
        await self._load(job)
        follower = self._follower(job)
        follower.post(_ended(job, "cancelled"))
        await self._lead_to_end(job, follower)

    async def _load(self, job: Job) -> None:
        """Read what the client sent, for the history; one that is unreadable ends without it."""
        with suppress(LocalError):
            await retried(partial(self._recorder.load_content, job))

    async def _discard(self, job: Job, refusal: LocalError | None) -> None:
        """Forget a job that the cloud does not have; a new job's client is refused."""
        self._scheduler.give_back(job)
        await self._table.discard(job)
        if refusal is not None and not job.accepted:
            reveal, id_ = self._files.reveal, job.prompt_id
            refusal.node_errors = await reveal(job.member, refusal.node_errors, id_)
            refusal.details = await reveal(job.member, refusal.details, id_)
            self._announcer.refuse(job.key, refusal)

    def _follower(self, job: Job, cloud: Upstream | None = None) -> JobFollower:
        """Return a follower that takes what happens to a job from now on, if it is on the
        `cloud`."""
        held = self._budget.member(job.member, "job") if self._announcer.lossy else None
        follower = self._runs[job.member][job] = JobFollower(
            job,
            Tracker(job.prompt_id, job.graph, job.outputs_to_execute),
            Localiser(job, self._files, self._packs, self._secrets),
            cloud=cloud,
            topic=topic_of(job.member, job.client_id),
            metadata=workflow_metadata.of_job(job.loaded.extra_data, job.workflow_id),
            runs=self._runs,
            table=self._table,
            scheduler=self._scheduler,
            announcer=self._announcer,
            steps=StepBuffer(job, self._announcer.epoch, held),
            timeouts=self._policy.detail,
            run_times=self._run_times,
        )
        return follower


def _ended(job: Job, status: Status, error: dict[str, Any] | None = None) -> SnapshotReceived:
    """Return the end of a job that the cloud does not have."""
    snapshot = Snapshot(job.prompt_id, status, settled=True, execution_error=error)
    return SnapshotReceived(snapshot)
