"""Takes jobs out of the queue, or has the cloud end them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from proxy.cloud.errors import CloudError, CloudRefused
from proxy.engine.life import JobLife
from proxy.engine.live_job import LiveJob
from proxy.engine.recorder import JobRecorder
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import JobTable
from proxy.engine.workers import Workers
from proxy.jobs.models import JobState, Wish
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.owners import ENGINE, acting_for
from proxy.storage.database import StorageError
from proxy.storage.job_tables import JobKey
from proxy.translate.errors import LocalError, from_cloud

log = structlog.get_logger(__name__)

#: `Retry-After` in seconds where the cloud did not cancel a job.
_RETRY_AFTER = 10.0


class Cancellation:
    """Ends jobs that clients no longer want."""

    def __init__(
        self,
        table: JobTable,
        recorder: JobRecorder,
        scheduler: Scheduler,
        workers: Workers,
        life: JobLife,
        supervisor: Supervisor,
    ) -> None:
        self._table = table
        self._recorder = recorder
        self._scheduler = scheduler
        self._workers = workers
        self._life = life
        self._supervisor = supervisor

    async def cancel(self, keys: Iterable[JobKey], *, interrupt: bool, cleared: bool) -> bool:
        """Cancel jobs; return whether any was cancelled by this.

        With `interrupt` they end as interrupted runs, also those that have not begun; else what has
        not begun leaves no trace. With `cleared` the sockets hear once how many jobs are left.
        Raises `LocalError`, and `StorageError` if what is to be promised cannot be written.
        """
        jobs = [job for key in keys if (job := self._table.get(key)) is not None]
        queue = self._scheduler.queue
        waiting = [job for job in jobs if job in queue]
        others = [job for job in jobs if job not in waiting]
        if waiting and interrupt:
            await self._interrupt(waiting)
        elif waiting:
            await self._withdraw(waiting, cleared=cleared)
        cancelling = (self._cancel(job, interrupt=interrupt) for job in others)
        results = await asyncio.gather(*cancelling, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return bool(waiting) or any(results)

    async def _interrupt(self, jobs: list[LiveJob]) -> None:
        """Let waiting jobs end as interrupted runs, also if this process ends before it does so."""
        for job in jobs:
            self._scheduler.dequeue(job)
            self._table.advance(job, wish=Wish.INTERRUPT)
        try:
            await self._recorder.flush()  # before it is promised
        finally:
            with acting_for(ENGINE):
                for job in jobs:
                    self._supervisor.spawn(self._life.interrupt(job), f"job {job.prompt_id}")

    async def _withdraw(self, jobs: list[LiveJob], *, cleared: bool) -> None:
        """Take waiting jobs out without a trace; if they cannot be removed they still wait."""
        for job in jobs:
            self._scheduler.dequeue(job)
        try:
            await self._table.withdraw(jobs, cleared=cleared)
        except StorageError as error:
            for job in jobs:
                if job in self._table:  # otherwise another request has taken it out
                    self._scheduler.enqueue(job)
            raise LocalError(
                "store_unavailable",
                "The proxy cannot write to its data folder, so the jobs stay in the queue; free "
                "disk space or repair the disk, then try again.",
                kind="unavailable",
            ) from error

    async def _cancel(self, job: LiveJob, *, interrupt: bool) -> bool:
        """Cancel a job that has left the queue.

        One that is on its way to the cloud meets the wish at its next step. On the cloud one that
        is not known to run is gone at once, unless the cloud says that it has run; a running one or
        with `interrupt` is there until the cloud says that it has ended.
        """
        worker, follower = self._workers.get(job.account), job.follower
        is_unsent = job.state in (JobState.RECEIVED, JobState.SUBMITTING, JobState.UNKNOWN)
        if is_unsent and follower is None:
            if not interrupt:
                self._table.advance(job, wish=Wish.CANCEL)
            elif job.wish is Wish.NONE:
                self._table.advance(job, wish=Wish.INTERRUPT)
            await self._recorder.flush()  # before it is promised
            return True
        if worker is None or follower is None or not job.is_on_cloud:
            return False  # it ends already, or nobody can reach it
        try:
            cancelled = await worker.cancel(job.cloud_id)
        except CloudError as error:
            is_unknown = isinstance(error, CloudRefused) and error.status == 404
            if is_unknown:  # it may be known in a moment, or never again
                follower.read_detail()
            elif isinstance(error, CloudRefused):
                raise from_cloud(error.status, error.body, error.retry_after) from error
            raise LocalError(
                "cloud_unreachable",
                f"{worker.cloud.title} did not cancel the job, which continues; try again.",
                kind="unavailable",
                details=job.prompt_id,
                retry_after=error.retry_after or _RETRY_AFTER,
            ) from error
        follower.read_detail()
        if cancelled and not interrupt and job.state is JobState.SUBMITTED and job in self._table:
            self._table.advance(job, wish=Wish.CANCEL)
            follower.withdraw()
            await self._recorder.flush()  # before it is promised
        return cancelled
