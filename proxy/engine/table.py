"""The live jobs, and the one way to change one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Unpack

import structlog
from cachetools import FIFOCache

from proxy.costs.credits import to_credits
from proxy.engine.follower import JobFollower, retried
from proxy.engine.live_job import JobChanges, LiveJob
from proxy.engine.recorder import JobRecorder
from proxy.engine.term import Term
from proxy.jobs.engine_calls import Submitted
from proxy.jobs.live_feed import LiveFeed
from proxy.jobs.models import ENDS, TRANSITIONS, JobEnd, JobState, TransitionError, is_shown
from proxy.metrics import Metrics
from proxy.runtime.clock import now
from proxy.storage.database import ValueRefusedError
from proxy.storage.job_tables import JobKey
from proxy.translate import workflow_metadata
from proxy.translate.events import Message, is_droppable, with_metadata
from proxy.webhooks.messages import STARTED

log = structlog.get_logger(__name__)

#: Maximum number of ended jobs whose ids on the cloud are remembered.
MAX_ENDED = 2000

#: Maximum bytes of a preview that is kept for the dashboard.
MAX_PREVIEW_BYTES = 1024 * 1024

#: The states of which the sockets of the member hear, by how many jobs are left.
_TOLD = frozenset({JobState.UNKNOWN, JobState.SUBMITTED, JobState.RUNNING})


class JobTable:
    """The live jobs: those of the `feed`, and the followed ones by member and by
    account.

    Each change of a job is a method here, which checks the transition, notes the row and tells the
    feed, while the `term` lasts. Beside it the scheduler sets what a turn gives (`account`,
    `charge`, `slot`), the gate what a budget is asked for (`estimate`), the recorder what is still
    to be written (`row`, `start`), and the `content` is set where it is loaded and dropped.
    """

    def __init__(self, recorder: JobRecorder, feed: LiveFeed, term: Term, metrics: Metrics) -> None:
        self._recorder = recorder
        self._feed = feed
        self._live = feed.live
        self._term = term
        self._metrics = metrics
        #: In the order in which they were begun to be followed.
        self._followed: defaultdict[str, dict[LiveJob, None]] = defaultdict(dict)
        #: Those of each account by their ids on the cloud.
        self._on_account: defaultdict[str, dict[str, LiveJob]] = defaultdict(dict)
        #: The ids on the cloud of live jobs, from the moment at which one is claimed for a job.
        self.cloud_ids: set[str] = set()
        #: Those of jobs that have ended, or were taken out.
        self.ended_ids: FIFOCache[str, None] = FIFOCache(MAX_ENDED)
        #: The orders of those that have left last: a reading that began before may still find them.
        self._left: FIFOCache[int, None] = FIFOCache(MAX_ENDED)

    def __iter__(self) -> Iterator[LiveJob]:
        return (job for job in self._live if isinstance(job, LiveJob))

    def __contains__(self, job: LiveJob) -> bool:
        return self._live.get(job.key) is job

    def has_left(self, order: int) -> bool:
        """Return whether a job has left the table a short time ago."""
        return order in self._left

    def get(self, key: JobKey) -> LiveJob | None:
        """Return a live job."""
        job = self._live.get(key)
        return job if isinstance(job, LiveJob) else None

    # --- those that are followed -----------------------------------------------------------

    def followed(self, member: str) -> list[LiveJob]:
        """Return the jobs of a member that are followed, in the order in which that began."""
        return list(self._followed.get(member, ()))

    def on_account(self, account: str) -> Mapping[str, LiveJob]:
        """Return the jobs that are followed on an account, by their ids on the cloud, now and
        later."""
        return self._on_account[account]

    def follow(self, job: LiveJob, follower: JobFollower) -> None:
        """Note what follows a job from now on."""
        job.follower = follower
        job.metadata = workflow_metadata.of_job(job.loaded.extra_data, job.workflow_id)
        self._followed[job.member][job] = None
        if job.is_on_cloud:
            self._on_account[job.account][job.cloud_id] = job

    def unfollow(self, job: LiveJob) -> None:
        """Note that nothing follows a job any more."""
        job.follower = job.preview = None
        self._followed[job.member].pop(job, None)
        if not self._followed[job.member]:
            del self._followed[job.member]
        self._on_account[job.account].pop(job.cloud_id, None)

    # --- changes ---------------------------------------------------------------------------

    def add(self, job: LiveJob, **changes: Unpack[JobChanges]) -> None:
        """Add a job that is in the storage, with what only the engine knows."""
        self.change(job, **changes)
        self._live.put(job)
        if job.cloud_id:
            self.cloud_ids.add(job.cloud_id)
        self._changed(job)

    def advance(
        self,
        job: LiveJob,
        state: JobState | None = None,
        *,
        answers: bool = True,
        **changes: Unpack[JobChanges],
    ) -> None:
        """Let a job take its next state, if it has one, with other changes; record the change and
        tell of it.

        The client of a job that becomes accepted gets its answer; without `answers` only `confirm`
        gives it. That is the way where the cloud does not have the job, and its row may say that it
        is on its way: the next leader would forget it. Raises `TransitionError` if the state
        may not follow.
        """
        was_shown, was_accepted = is_shown(job), job.accepted
        if state is not None:
            _check_transition(job, state)
            job.state = state
        self.change(job, **changes)
        if job.cloud_id:
            self.cloud_ids.add(job.cloud_id)
        self._recorder.changed(job)
        if state is JobState.RUNNING and STARTED in self._recorder.outbox.wanted:
            self._recorder.started(job)
        self._live.put(job)
        self._changed(job, tell=state in _TOLD or not was_shown)
        if was_shown and not is_shown(job):
            self._tell(self._feed.left, job, more=False)
        if answers and job.accepted and not was_accepted:
            self._accepted(job)
        if self._term.lasts and state is JobState.SUBMITTED and is_shown(job):
            waited = max(0, now() - job.created_at) / 1000
            self._metrics.job_wait.labels(job.member, job.account).observe(waited)

    async def confirm(self, job: LiveJob) -> None:
        """Store that a job is accepted, then tell its client; its row is there in any case."""
        with suppress(ValueRefusedError):
            await retried(partial(self._recorder.save, job))
        self._accepted(job)

    def answer(self, job: LiveJob, answer: Submitted) -> None:
        """Answer the client of a new job, unless it has its answer or waits no more."""
        if self._term.lasts and job.answer is not None and not job.answer.done():
            job.answer.set_result(answer)

    def show(self, job: LiveJob, **shown: Unpack[JobChanges]) -> None:
        """Change what is shown of a live job and kept in memory alone."""
        if any(getattr(job, name) != value for name, value in shown.items()):
            self.change(job, **shown)
            self._changed(job)

    def message(self, job: LiveJob, message: Message) -> None:
        """Send a message to the client of a job that is followed."""
        if job.follower is None:
            return
        if job.metadata:
            message = with_metadata(message, job.metadata)
        if is_droppable(message) and len(message.image) <= MAX_PREVIEW_BYTES:
            job.preview = message
        self._tell(self._feed.message, job, message)

    def behind(self) -> list[str]:
        """Return the members of whose last jobs others go before."""
        return self._live.behind()

    def announce_ahead(self, member: str, count: int, *, tell: bool) -> None:
        """Tell how many jobs of others go before the member's last one, if that has changed."""
        if count != self._live.of(member).ahead:
            self._tell(self._feed.ahead, member, count, tell=tell)

    def change(self, job: LiveJob, **changes: Unpack[JobChanges]) -> None:
        """Change a job without recording the change or telling of it."""
        for name, value in changes.items():
            setattr(job, name, value)

    # --- ends ------------------------------------------------------------------------------

    async def finish(self, job: LiveJob, end: JobEnd) -> None:
        """Move a job into the history: its entry is readable from now on.

        It stays in the queue until `leave`. Raises `StorageError`: then it is where it was.
        """
        _check_transition(job, ENDS[end.outcome])
        recorded = await self._recorder.end(job, end)
        job.state = ENDS[end.outcome]
        self._tell(self._feed.recorded, job, recorded.forgotten)

    def leave(self, job: LiveJob, end: JobEnd) -> None:
        """Take a job that is in the history out of the queue."""
        self._remove(job)
        log.info("job_ended", cloud_job=job.cloud_id, outcome=end.outcome, seconds=end.ms / 1000)
        self._tell(self._feed.left, job)
        if self._term.lasts:
            self._count_end(job, end)

    async def withdraw(self, jobs: list[LiveJob], *, cleared: bool = False) -> None:
        """Take waiting jobs out without a trace, with `cleared` as one change of the queue.

        Raises `StorageError`: then they still wait.
        """
        await self._recorder.discard(*jobs)
        for job in jobs:
            self._gone(job, more=cleared and job is not jobs[-1])

    async def discard(self, job: LiveJob) -> bool:
        """Take a job out without a trace; out of the storage later, if that refuses now. Return
        whether it is out of the storage."""
        is_out = await self._recorder.discard_soon(job)
        self._gone(job)
        return is_out

    def _gone(self, job: LiveJob, *, more: bool = False) -> None:
        was_shown = is_shown(job)
        if job.state not in (JobState.SUBMITTING, JobState.UNKNOWN):
            _check_transition(job, JobState.CANCELLED)
            job.state = JobState.CANCELLED
        self._remove(job)
        if was_shown:
            self._tell(self._feed.left, job, more=more)
        if not job.accepted:
            return
        log.info(
            "job_discarded", job=job.prompt_id, member=job.member, cloud_job=job.cloud_id or None
        )
        if self._term.lasts:
            self._metrics.jobs_ended.labels(job.member, job.account, "withdrawn").inc()

    def _remove(self, job: LiveJob) -> None:
        """Take a job out; a new one with the same id, which was taken in meanwhile, stays."""
        self._live.remove(job)
        job.release_memory()
        if job.cloud_id:
            self.cloud_ids.discard(job.cloud_id)
            self.ended_ids[job.cloud_id] = None
        self._left[job.order] = None

    # --- who listens -----------------------------------------------------------------------

    def _tell(self, hear: Callable[..., None], *given: object, **also: bool) -> None:
        """Tell who listens, while the term lasts."""
        if not self._term.lasts:
            return
        try:
            hear(*given, **also)
        except Exception:  # the job goes on all the same
            log.exception("listener_failed", news=hear.__name__)

    def _changed(self, job: LiveJob, *, tell: bool = False) -> None:
        """Tell that a job is in the queue in its state, if clients may know of it; with `tell` the
        sockets hear of it, too."""
        if is_shown(job):
            self._tell(self._feed.changed, job, tell=tell)

    def _accepted(self, job: LiveJob) -> None:
        """Answer the client of a job that it was accepted, and count it."""
        self.answer(job, job.omitted)
        if self._term.lasts:
            self._metrics.jobs_accepted.labels(job.member).inc()

    def _count_end(self, job: LiveJob, end: JobEnd) -> None:
        metrics, labels = self._metrics, (job.member, job.account)
        metrics.jobs_ended.labels(*labels, end.outcome).inc()
        metrics.job_running.labels(*labels).observe(end.ms / 1000)
        for charge in end.cost.charges:
            if charge.source == "unknown":
                metrics.unknown_costs.labels(*labels, charge.node_class).inc(charge.nodes)
            else:
                used = metrics.credits_used.labels(*labels, charge.node_class, charge.source)
                used.inc(to_credits(charge.amount))


def _check_transition(job: LiveJob, state: JobState) -> None:
    """Raise `TransitionError` if a state may not follow the job's own."""
    if state not in TRANSITIONS[job.state]:
        raise TransitionError(f"{job.prompt_id}: {job.state} cannot become {state}")
