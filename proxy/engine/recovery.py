"""Continues with jobs whose state is not fully known: after a start, or when an answer got lost."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from proxy.cloud.resilience import Backoff, CloudError
from proxy.engine.part import AGAIN, EnginePart
from proxy.jobs.models import (
    CancelRequested,
    Job,
    JobState,
)
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

if TYPE_CHECKING:
    pass


#: Between two looks for a job whose submission was not answered.
_LOOKS = Backoff(first=0.5, longest=10.0)


class Recovery(EnginePart):
    """Brings an engine's jobs back to where they are."""

    def restore(self, job: Job) -> None:
        """Continue with a job from before the start."""
        self._jobs[job.key] = job
        if job.state in (JobState.RECEIVED, JobState.QUEUED):
            new = job.state is JobState.RECEIVED
            if new:
                job.to(JobState.QUEUED)
            job.accepted = True
            self._announcer.changed(job)
            self._scheduler.queue.add(job)
            if new:
                self._recorder.changed(job)
                self._announcer.accepted(job)
                self._engine.dispatcher.answer(job.key)
            return
        worker = self._workers.get(job.account)
        if worker is None:
            self._engine.spawn(self._find_home(job), f"find the account of {job.prompt_id}")
            self._announcer.changed(job)
            return
        self._scheduler.keep(job)
        if job.cancel_requested and job.started_at is not None:
            job.cancel_requested = False
            self._engine.follow(job, worker)
            self._engine.spawn(
                self._engine.cancellation.cancel(CancelRequested("", (job.key,))),
                f"cancel {job.prompt_id}",
            )
        elif job.cloud_id and job.cancel_requested:
            self._engine.spawn(worker.cancel_on_its_way(job), f"cancel {job.prompt_id}")
        elif job.cloud_id:
            self._engine.follow(job, worker)
            worker.reconciler.read_soon()
        else:
            if job.state is JobState.SUBMITTING:
                job.to(JobState.UNKNOWN)
            # Another replica may have told the client that the job is there.
            if self._recorder.jobs.shared and not job.accepted:
                job.accepted = True
                self._recorder.changed(job)
            self.seek(job)

    async def _find_home(self, job: Job) -> None:
        """Find the account of a job whose own is in the settings no more, by asking all.

        The job is shown with the reason, and ends as lost after `lost_timeout`.
        """
        since = time.monotonic()
        self._announcer.explain(job, "no_account")
        for failures in itertools.count(1):
            for worker in self._workers.values():
                with suppress(CloudError):
                    if job.cloud_id:
                        there = await worker.cloud.job(job.cloud_id) is not None
                    else:
                        found = await worker.submitter.find(job)
                        there, job.cloud_id = found is not None, found or ""
                    if there:
                        job.reason, job.account = None, worker.name
                        self._scheduler.keep(job)
                        self._engine.taken(job, job.cloud_id)
                        return
            lost = self._policy.lost_timeout
            if lost and time.monotonic() - since >= lost:
                error = LocalError(
                    "JobLost",
                    f"The Comfy Cloud account {job.account} of this job was removed from the "
                    "settings, and no other account has the job; find its outputs on the cloud "
                    "with that account.",
                    kind="not_found",
                )
                self._engine.dispatcher.refuse(job, error)
                return
            await asyncio.sleep(AGAIN.after(failures))

    # --- submissions without an answer -----------------------------------------------------

    def lose_answer(self, job: Job) -> None:
        """Nobody knows whether the cloud has taken the job."""
        job.to(JobState.UNKNOWN)
        self._recorder.changed(job)
        self.seek(job)
        self._announcer.tell_status(job.member)

    def seek(self, job: Job) -> None:
        """List a job of which nobody knows whether the cloud has it, and look for it there.

        It counts as pending, so that a client which looks for it does not submit it again.
        """
        if not job.cancel_requested:
            self._announcer.changed(job)
        self._engine.spawn(self._settle(job), f"look for {job.prompt_id}")

    async def _settle(self, job: Job) -> None:
        structlog.contextvars.bind_contextvars(job=job.prompt_id, member=job.member)
        cloud_id = await self._look(job)
        if cloud_id is not None:
            log.info("unanswered_job_adopted", cloud_job=cloud_id)
            new = not job.accepted and not job.cancel_requested
            self._engine.taken(job, cloud_id)
            if new:
                self._announcer.accepted(job)
            self._announcer.tell_status(job.member)
            return
        log.info("unanswered_job_dismissed")
        if job.accepted and not job.cancel_requested:
            await self._engine.dispatcher.not_taken(job, None)
            return
        await self._engine.dispatcher.drop(job)
        if not job.cancel_requested:
            self._announcer.discarded(job)

    async def _look(self, job: Job) -> str | None:
        """The cloud id of the job, or `None` when it is certain that the cloud does not have it.

        The process ended, or the account could not be read, between the call and its answer. A job
        that is not found for `adoption_patience` seconds, counted from the first look that
        succeeded, is not there.
        """
        submitter = self._workers[job.account].submitter
        since: float | None = None
        for looks in itertools.count(1):
            begun = time.monotonic()
            try:
                cloud_id = await submitter.find(job)
            except CloudError as error:
                log.warning("unanswered_job_read_failed", error=str(error))
            else:
                since = begun if since is None else since
                certain = begun - since >= self._policy.adoption_patience
                if cloud_id is not None or certain:
                    return cloud_id
            await asyncio.sleep(_LOOKS.after(looks))
        raise AssertionError("the looks never end")
