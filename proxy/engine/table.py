"""The live jobs, and the one way to change one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import structlog
from cachetools import FIFOCache
from msgspec.structs import replace

from proxy.engine.announcer import Announcer
from proxy.engine.recorder import JobRecorder
from proxy.jobs.models import (
    ENDS,
    TRANSITIONS,
    Job,
    JobEnd,
    JobState,
    TransitionError,
    is_shown,
)
from proxy.storage.jobs import JobKey
from proxy.webhooks.messages import STARTED

log = structlog.get_logger(__name__)

#: Of how many jobs that have ended the id on the cloud is remembered.
MAX_ENDED = 2000


class JobTable:
    """The live jobs of an engine.

    Each change of a job is a method here, which checks the transition, notes the record and tells
    of it. Beside it the scheduler sets what a turn gives (`account`, `charge`), and the `content`
    is set where it is loaded and dropped.
    """

    def __init__(self, recorder: JobRecorder, announcer: Announcer) -> None:
        self._recorder = recorder
        self._announcer = announcer
        self._count = 0
        self._jobs: dict[JobKey, Job] = {}
        #: The ids on the cloud of live jobs, from the moment at which one is claimed for a job.
        self.cloud_ids: set[str] = set()
        #: Those of jobs that have ended, or were taken out.
        self.ended_ids: FIFOCache[str, None] = FIFOCache(MAX_ENDED)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def __contains__(self, job: Job) -> bool:
        return self._jobs.get(job.key) is job

    def get(self, key: JobKey) -> Job | None:
        """Return a live job."""
        return self._jobs.get(key)

    # --- changes ---------------------------------------------------------------------------

    def add(self, job: Job, **fields: Any) -> None:
        """Add a job that is in the storage, with fields that only the engine knows."""
        self.note(job, **fields)
        self._jobs[job.key] = job
        if job.cloud_id:
            self.cloud_ids.add(job.cloud_id)
        self._announcer.changed(job)

    def advance(self, job: Job, state: JobState | None = None, **changes: Any) -> None:
        """Let a job take its next state, if it has one, with other changes of its fields; record
        the change and tell of it.

        Raises `TransitionError` if the state may not follow.
        """
        was_shown, was_accepted = is_shown(job), job.accepted
        if state is not None:
            _check_transition(job, state)
            changes["state"] = state
        self.note(job, **changes)
        if job.cloud_id:
            self.cloud_ids.add(job.cloud_id)
        self._recorder.changed(job)
        self._announcer.advanced(job, state, was_shown=was_shown, was_accepted=was_accepted)
        if state is JobState.RUNNING and STARTED in self._recorder.outbox.wanted:
            self._recorder.started(job)

    async def write(self) -> None:
        """Write the changes so far, before they are promised to a client. Raises
        `StorageError`."""
        await self._recorder.flush()

    def show(self, job: Job, **shown: Any) -> None:
        """Change what is shown of a job and kept in memory alone (its `JobProgress`)."""
        progress = replace(job.progress, **shown)
        if progress != job.progress:
            self.note(job, progress=progress)
            self._announcer.changed(job)

    def note(self, job: Job, **fields: Any) -> None:
        """Set fields of a job without recording or publishing the change."""
        for name, value in fields.items():
            setattr(job, name, value)
        self._count += 1
        # An engine that follows has a higher epoch: its changes are newer.
        job.revision = (self._announcer.epoch << 32) + self._count

    # --- ends ------------------------------------------------------------------------------

    async def finish(self, job: Job, end: JobEnd) -> None:
        """Move a job into the history: its entry is readable from now on.

        It stays in the queue until `leave`. Raises `StorageError`: then it is where it was.
        """
        _check_transition(job, ENDS[end.outcome])
        recorded = await self._recorder.end(job, end)
        job.state = ENDS[end.outcome]
        self._announcer.recorded(job, recorded)

    def leave(self, job: Job, end: JobEnd) -> None:
        """Take a job that is in the history out of the queue."""
        self._remove(job)
        log.info("job_ended", cloud_job=job.cloud_id, outcome=end.outcome, seconds=end.ms / 1000)
        self._announcer.ended(job, end)

    async def withdraw(self, jobs: list[Job], *, cleared: bool = False) -> None:
        """Take waiting jobs out without a trace, with `cleared` as one change of the queue.

        Raises `StorageError`: then they still wait.
        """
        await self._recorder.discard(*jobs)
        for job in jobs:
            self._gone(job, more=cleared and job is not jobs[-1])

    async def discard(self, job: Job) -> None:
        """Take a job out without a trace; out of the storage later, if that refuses now."""
        await self._recorder.discard_soon(job)
        self._gone(job)

    def _gone(self, job: Job, *, more: bool = False) -> None:
        was_shown = is_shown(job)
        if job.state not in (JobState.SUBMITTING, JobState.UNKNOWN):
            _check_transition(job, JobState.CANCELLED)
            job.state = JobState.CANCELLED
        self._remove(job)
        if was_shown:
            self._announcer.discarded(job, more=more)

    def _remove(self, job: Job) -> None:
        """Take a job out; a new one with the same id, which another replica has taken in meanwhile,
        stays."""
        if job.cloud_id:
            self.cloud_ids.discard(job.cloud_id)
            self.ended_ids[job.cloud_id] = None
        if job in self:
            del self._jobs[job.key]


def _check_transition(job: Job, state: JobState) -> None:
    """Raise `TransitionError` if a state may not follow the job's own."""
    if state not in TRANSITIONS[job.state]:
        raise TransitionError(f"{job.prompt_id}: {job.state} cannot become {state}")
