"""The live jobs, and the one way to change one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import TypedDict, Unpack

import structlog
from cachetools import FIFOCache
from msgspec.structs import replace

from proxy.engine.announcer import Announcer
from proxy.engine.follower import JobFollower, retried
from proxy.engine.job_publisher import JobPublisher
from proxy.engine.live_job import NOTHING, JobChanges, LiveJob
from proxy.engine.recorder import JobRecorder
from proxy.jobs.models import ENDS, TRANSITIONS, JobEnd, JobState, TransitionError, is_shown
from proxy.storage.database import ValueRefusedError
from proxy.storage.job_tables import JobKey
from proxy.webhooks.messages import STARTED

log = structlog.get_logger(__name__)

#: Of how many jobs that have ended the id on the cloud is remembered.
MAX_ENDED = 2000


class Shown(TypedDict, total=False):
    """What is shown of a job and changes while it lives: fields of its `JobProgress`."""

    reason: str | None
    message: str | None
    finishing: bool


class JobTable:
    """The live jobs of an engine: by key, the followed ones by member and by account.

    Each change of a job is a method here, which checks the transition, notes the record and tells
    of it. Beside it the scheduler sets what a turn gives (`account`, `charge`, `slot`), the
    recorder what is still to be written (`row`, `start`), and the `content` is set where it is
    loaded and dropped.
    """

    def __init__(self, recorder: JobRecorder, announcer: Announcer) -> None:
        self.recorder = recorder
        self.announcer = announcer
        self._jobs: dict[JobKey, LiveJob] = {}
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
        return iter(self._jobs.values())

    def __contains__(self, job: LiveJob) -> bool:
        return self._jobs.get(job.key) is job

    def has_left(self, order: int) -> bool:
        """Return whether a job has left the table a short time ago."""
        return order in self._left

    def get(self, key: JobKey) -> LiveJob | None:
        """Return a live job."""
        return self._jobs.get(key)

    # --- those that are followed -----------------------------------------------------------

    def followed(self, member: str) -> list[LiveJob]:
        """Return the jobs of a member that are followed, in the order in which that began."""
        return list(self._followed.get(member, ()))

    def on_account(self, account: str) -> Mapping[str, LiveJob]:
        """Return the jobs that are followed on an account, by their ids on the cloud, now and
        later."""
        return self._on_account[account]

    def follow(self, job: LiveJob, follower: JobFollower, publisher: JobPublisher) -> None:
        """Note what follows a job from now on."""
        job.follower, job.publisher = follower, publisher
        self._followed[job.member][job] = None
        if job.is_on_cloud:
            self._on_account[job.account][job.cloud_id] = job

    def unfollow(self, job: LiveJob) -> None:
        """Note that nothing follows a job any more."""
        job.follower = job.publisher = None
        self._followed[job.member].pop(job, None)
        if not self._followed[job.member]:
            del self._followed[job.member]
        self._on_account[job.account].pop(job.cloud_id, None)

    # --- changes ---------------------------------------------------------------------------

    def add(self, job: LiveJob, changes: JobChanges = NOTHING) -> None:
        """Add a job that is in the storage, with what only the engine knows."""
        self.change(job, changes)
        self._jobs[job.key] = job
        if job.cloud_id:
            self.cloud_ids.add(job.cloud_id)
        self.announcer.changed(job)

    def advance(
        self,
        job: LiveJob,
        state: JobState | None = None,
        changes: JobChanges = NOTHING,
        *,
        answers: bool = True,
    ) -> None:
        """Let a job take its next state, if it has one, with other changes; record the change and
        tell of it.

        The client of a job that becomes accepted gets its answer; without `answers` only `confirm`
        gives it. That is the way where the cloud does not have the job, and its row may say that it
        is on its way: an engine that starts would forget it. Raises `TransitionError` if the state
        may not follow.
        """
        was_shown, was_accepted = is_shown(job), job.accepted
        if state is not None:
            _check_transition(job, state)
            job.state = state
        self.change(job, changes)
        if job.cloud_id:
            self.cloud_ids.add(job.cloud_id)
        self.recorder.changed(job)
        answers = answers and job.accepted and not was_accepted
        self.announcer.advanced(job, state, was_shown=was_shown, answers=answers)
        if state is JobState.RUNNING and STARTED in self.recorder.outbox.wanted:
            self.recorder.started(job)

    async def write(self) -> None:
        """Write the changes so far, before they are promised to a client. Raises
        `StorageError`."""
        await self.recorder.flush()

    async def confirm(self, job: LiveJob) -> None:
        """Store that a job is accepted, then tell its client; its row is there in any case."""
        with suppress(ValueRefusedError):
            await retried(partial(self.recorder.save, job))
        self.announcer.accepted(job)

    def show(self, job: LiveJob, **shown: Unpack[Shown]) -> None:
        """Change what is shown of a live job and kept in memory alone (its `JobProgress`); nothing
        of one that has left meanwhile, which would come back into all queues."""
        progress = replace(job.progress, **shown)
        if progress != job.progress and job in self:
            self.change(job, JobChanges(progress=progress))
            self.announcer.changed(job)

    def change(self, job: LiveJob, changes: JobChanges) -> None:
        """Change a job without recording or publishing the change."""
        changes.apply(job)

    # --- ends ------------------------------------------------------------------------------

    async def finish(self, job: LiveJob, end: JobEnd) -> None:
        """Move a job into the history: its entry is readable from now on.

        It stays in the queue until `leave`. Raises `StorageError`: then it is where it was.
        """
        _check_transition(job, ENDS[end.outcome])
        recorded = await self.recorder.end(job, end)
        job.state = ENDS[end.outcome]
        self.announcer.recorded(job, recorded)

    def leave(self, job: LiveJob, end: JobEnd) -> None:
        """Take a job that is in the history out of the queue."""
        self._remove(job)
        log.info("job_ended", cloud_job=job.cloud_id, outcome=end.outcome, seconds=end.ms / 1000)
        self.announcer.ended(job, end)

    async def withdraw(self, jobs: list[LiveJob], *, cleared: bool = False) -> None:
        """Take waiting jobs out without a trace, with `cleared` as one change of the queue.

        Raises `StorageError`: then they still wait.
        """
        await self.recorder.discard(*jobs)
        for job in jobs:
            self._gone(job, more=cleared and job is not jobs[-1])

    async def discard(self, job: LiveJob) -> bool:
        """Take a job out without a trace; out of the storage later, if that refuses now. Return
        whether it is out of the storage."""
        is_out = await self.recorder.discard_soon(job)
        self._gone(job)
        return is_out

    def _gone(self, job: LiveJob, *, more: bool = False) -> None:
        was_shown = is_shown(job)
        if job.state not in (JobState.SUBMITTING, JobState.UNKNOWN):
            _check_transition(job, JobState.CANCELLED)
            job.state = JobState.CANCELLED
        self._remove(job)
        if was_shown:
            self.announcer.discarded(job, more=more)

    def _remove(self, job: LiveJob) -> None:
        """Take a job out; a new one with the same id, which was taken in meanwhile, stays."""
        if job.cloud_id:
            self.cloud_ids.discard(job.cloud_id)
            self.ended_ids[job.cloud_id] = None
        if job in self:
            del self._jobs[job.key]
        self._left[job.order] = None


def _check_transition(job: LiveJob, state: JobState) -> None:
    """Raise `TransitionError` if a state may not follow the job's own."""
    if state not in TRANSITIONS[job.state]:
        raise TransitionError(f"{job.prompt_id}: {job.state} cannot become {state}")
