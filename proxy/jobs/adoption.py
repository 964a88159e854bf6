"""Settles submissions of which nobody knows whether they arrived.

The process ended, or the account could not be read, between the call and its answer. The job may
be on the cloud: it is looked for by its mark until it is found or certainly not there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from proxy.cloud.errors import CloudError
from proxy.jobs.record import JobRecord
from proxy.jobs.submission import Submitter

log = structlog.get_logger(__name__)


class Adoption:
    """The unsettled submissions.

    A job that is not found for `certain` seconds, counted from the first look that succeeded, is
    not there; looks are `first` seconds apart, and ever more up to `longest`. `submitter` gives
    that of the job's account. What comes of it is for `found(record, cloud_id)` and
    `absent(record)`, which must not fail.
    """

    def __init__(
        self,
        submitter: Callable[[JobRecord], Submitter],
        found: Callable[[JobRecord, str], Awaitable[None]],
        absent: Callable[[JobRecord], Awaitable[None]],
        *,
        first: float = 0.5,
        longest: float = 10.0,
        certain: float = 15.0,
    ) -> None:
        self._submitter = submitter
        self._found = found
        self._absent = absent
        self._first = first
        self._longest = longest
        self._certain = certain
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, record: JobRecord) -> bool:
        """Whether a submission with this member and id is unsettled."""
        return record.key in self._tasks

    def add(self, record: JobRecord) -> None:
        """Begin to look for a job."""
        task = asyncio.create_task(self._settle(record), name=f"adopt {record.prompt_id}")
        self._tasks[record.key] = task
        task.add_done_callback(lambda _: self._tasks.pop(record.key, None))

    async def close(self) -> None:
        """Stop looking; what is unsettled stays on disk."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _settle(self, record: JobRecord) -> None:
        structlog.contextvars.bind_contextvars(job=record.prompt_id, member=record.member)
        cloud_id = await self._look(record)
        if cloud_id is None:
            log.info("unanswered_job_dismissed")
            await self._absent(record)
        else:
            log.info("unanswered_job_adopted", cloud_job=cloud_id)
            await self._found(record, cloud_id)

    async def _look(self, record: JobRecord) -> str | None:
        wait, since = self._first, None
        while True:
            begun = time.monotonic()
            try:
                cloud_id = await self._submitter(record).find(record)
            except CloudError as error:
                log.warning("unanswered_job_read_failed", error=str(error))
            else:
                since = begun if since is None else since
                if cloud_id is not None or begun - since >= self._certain:
                    return cloud_id
            await asyncio.sleep(wait)
            wait = min(wait * 2, self._longest)
