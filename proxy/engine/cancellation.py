"""Ends jobs that clients want no more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from proxy.cloud.resilience import CloudError, CloudRefused
from proxy.engine.part import EnginePart
from proxy.jobs.models import (
    CancelAnswered,
    CancelRequested,
    Job,
    JobState,
)
from proxy.storage.database import StorageError
from proxy.translate.errors import LocalError, from_cloud

log = structlog.get_logger(__name__)

if TYPE_CHECKING:
    pass


class Cancellation(EnginePart):
    """Takes an engine's jobs out of the queue, or has the cloud end them."""

    async def cancel(self, asked: CancelRequested) -> None:
        """End jobs, and say whether that did it."""
        jobs = [job for key in asked.keys if (job := self._jobs.get(key)) is not None]
        try:
            answer = CancelAnswered(await self._cancel_all(jobs, asked))
        except LocalError as error:
            answer = CancelAnswered(error=error)
        if self._recorder.term.lasts:
            self._bus.publish(f"answers.{asked.request}", answer)

    async def _cancel_all(self, jobs: list[Job], asked: CancelRequested) -> bool:
        """Cancel live jobs; says whether any was cancelled by this. Raises `LocalError`."""
        interrupt = asked.interrupt
        waiting = [job for job in jobs if job in self._scheduler.queue]
        others = set(jobs).difference(waiting)
        if waiting and interrupt:
            for job in waiting:
                self._scheduler.queue.remove(job)
                self._engine.dispatcher.interrupt(job)
            self._engine.dispatcher.pump()
        elif waiting:
            await self._withdraw(waiting, cleared=asked.cleared)
        placed = (self._cancel_placed(job, interrupt) for job in others)
        results = await asyncio.gather(*placed, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return bool(waiting) or any(results)

    async def _withdraw(self, jobs: list[Job], *, cleared: bool) -> None:
        """Take waiting jobs out without a trace; if they cannot be removed they still wait."""
        for job in jobs:
            self._scheduler.queue.remove(job)
        try:
            await self._recorder.discard(*jobs)
        except StorageError as error:
            for job in jobs:
                self._scheduler.queue.add(job)
            raise LocalError(
                "store_unavailable",
                "The proxy cannot write to its data folder, so the jobs stay in the queue; free "
                "disk space or repair the disk, then try again.",
                kind="unavailable",
            ) from error
        finally:
            self._engine.dispatcher.pump()
        for job in jobs:
            self._jobs.pop(job.key, None)
            self._gone(job, more=cleared and job is not jobs[-1])

    async def _cancel_placed(self, job: Job, interrupt: bool) -> bool:
        """Cancel a job that has left the queue.

        One that does not run is gone at once, a running one or with `interrupt` when the cloud says
        so. One that is being sent is interrupted when the cloud has it or has refused it.
        """
        if not job.cloud_id and job.runner is not None:
            return False  # it ends already
        if not job.cloud_id and interrupt:
            job.interrupted = True
            return True
        if not job.cloud_id:
            job.cancel_requested = True
            self._gone(job)
            self._recorder.changed(job)
            return True
        worker, runner = self._workers.get(job.account), job.runner
        if worker is None or runner is None:
            return False
        try:
            self._recorder.term.check()
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
        live = self._jobs.get(job.key) is job
        if not cancelled or interrupt or job.started_at is not None or not live:
            runner.read_detail()
            return cancelled
        await runner.stop()
        await self._engine.dispatcher.discard(job)
        self._engine.forget(job)
        self._gone(job)
        return True

    def _gone(self, job: Job, *, more: bool = False) -> None:
        """A job has left the queue without a trace."""
        if job.state not in (JobState.SUBMITTING, JobState.UNKNOWN):
            job.to(JobState.CANCELLED)
        log.info(
            "job_discarded", job=job.prompt_id, member=job.member, cloud_job=job.cloud_id or None
        )
        self._announcer.discarded(job, more=more)
