"""Settles submissions of which nobody knows whether they arrived.

The process ended, or the account could not be read, between the call and its answer. The job may
be on the cloud: it is looked for by its mark until it is found or certainly not there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from proxy.cloud.errors import CloudError
from proxy.jobs.keeper import Keeper
from proxy.jobs.record import JobRecord
from proxy.jobs.submission import Submitter

log = structlog.get_logger(__name__)


class Adoption:
    """The unsettled submissions.

    A job that is not found for `certain` seconds, counted from the first look that succeeded, is
    given up; looks are `first` seconds apart, and ever more up to `longest`. `on_found` is called
    when one has been found.
    """

    def __init__(
        self,
        keeper: Keeper,
        submitter: Submitter,
        on_found: Callable[[], None],
        *,
        first: float = 0.5,
        longest: float = 10.0,
        certain: float = 15.0,
    ) -> None:
        self._keeper = keeper
        self._submitter = submitter
        self._on_found = on_found
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
            await self._keeper.discard(record)
            log.info("unanswered_job_dropped")
            return
        record.cloud_id = cloud_id
        await self._keeper.save(record)
        self._keeper.follow(record).release()
        self._keeper.tell_status(record.member)
        self._on_found()
        log.info("unanswered_job_adopted", cloud_job=cloud_id)

    async def _look(self, record: JobRecord) -> str | None:
        wait, since = self._first, None
        while True:
            begun = time.monotonic()
            try:
                cloud_id = await self._submitter.find(record)
            except CloudError as error:
                log.warning("unanswered_job_unread", error=str(error))
            else:
                since = begun if since is None else since
                if cloud_id is not None or begun - since >= self._certain:
                    return cloud_id
            await asyncio.sleep(wait)
            wait = min(wait * 2, self._longest)
