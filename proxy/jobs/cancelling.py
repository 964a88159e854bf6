"""Ends jobs: those that wait with us at once and unseen, those on the cloud by their id."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from proxy.cloud.errors import CloudError, CloudRefused
from proxy.jobs.dispatcher import Dispatcher
from proxy.jobs.keeper import Keeper
from proxy.jobs.lane import Lane
from proxy.jobs.record import JobRecord
from proxy.store.base import StoreError
from proxy.translate.errors import LocalError, from_cloud, retry_header

log = structlog.get_logger(__name__)


class Canceller:
    """Cancels jobs wherever they are."""

    def __init__(self, keeper: Keeper, dispatcher: Dispatcher, lanes: Mapping[str, Lane]) -> None:
        self._keeper = keeper
        self._dispatcher = dispatcher
        self._lanes = lanes

    async def cancel(self, jobs: list[JobRecord]) -> bool:
        """Cancel live jobs; says whether any was cancelled by this. Raises `LocalError`."""
        line = self._dispatcher.places.line
        waiting = [job for job in jobs if job in line]
        others = [job for job in jobs if job not in line]
        if waiting:
            try:
                await self._dispatcher.withdraw(waiting)
            except StoreError as error:
                raise LocalError(
                    503,
                    "store_unavailable",
                    "The proxy cannot write to its data folder, so the jobs stay in the queue; "
                    "free or repair the disk, then try again.",
                ) from error
        results = await asyncio.gather(*map(self._cancel, others), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return bool(waiting) or any(results)

    async def _cancel(self, job: JobRecord) -> bool:
        """Cancel a job that has left the line.

        One that does not run is gone at once, a running one when the cloud says so.
        """
        if job.account and not job.cloud_id:
            await self._dispatcher.abandon(job)
            return True
        runner = self._keeper.runners.get(job.cloud_id)
        if runner is None or job.account not in self._lanes:
            return False
        try:
            cancelled = await self._lanes[job.account].cloud.cancel(job.cloud_id)
        except CloudRefused as error:
            raise from_cloud(error.status, error.body, error.retry_after) from error
        except CloudError as error:
            raise LocalError(
                503,
                "cloud_unreachable",
                "Comfy Cloud could not be told to cancel the job, which goes on; try again.",
                details=job.prompt_id,
                headers=retry_header(error.retry_after or 10.0),
            ) from error
        live = self._keeper.runners.get(job.cloud_id) is runner
        if not cancelled or job.started_at is not None or not live:
            runner.read_detail()
            return cancelled
        await runner.stop()
        try:
            await self._keeper.discard(job)
        except StoreError as error:
            log.error("record_delete_failed", job=job.prompt_id, error=str(error))
        self._keeper.leave(job)
        log.info("job_discarded", job=job.prompt_id, member=job.member, cloud_job=job.cloud_id)
        self._keeper.observers.discarded(job)
        return True
