"""Finds a job among those of its account when the answer to its submission got lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Container
from dataclasses import dataclass

from proxy.cloud.errors import CloudError
from proxy.cloud.upstream import Upstream
from proxy.jobs.models import Job
from proxy.runtime import clock
from proxy.runtime.backoff import Backoff
from proxy.storage.database import StorageError
from proxy.storage.jobs import JobRepository

#: Between two looks for a job.
_LOOKS = Backoff(first=0.5, longest=10.0)


class UnansweredError(Exception):
    """Raised when the account cannot be read, so that nobody knows whether it has the job."""


@dataclass(eq=False, repr=False)
class JobFinder:
    """Looks for jobs on one account, and knows which ids there are of other jobs of ours.

    `live` are the ids on the cloud of all live jobs, `ended` those of others, as far as they are
    remembered; `jobs` are those that the storage has. A submission arrives within `timeout` seconds
    after it was sent, or never.
    """

    cloud: Upstream
    live: set[str]
    ended: Container[str]
    jobs: JobRepository
    timeout: float

    async def find(self, job: Job) -> str | None:
        """Return the cloud id of a job whose submission was not answered, `None` if there is none.

        Raises `CloudError` when the account cannot be read.
        """
        return await self.cloud.find(job.mark, self._known, since=job.created_at)

    async def search(self, job: Job, *, again: bool = False) -> str | None:
        """Look until the job is there or cannot come any more: its submission may be under way, and
        a job that has just been taken may not be listed yet.

        That takes `timeout` seconds beside the calls. Once is enough where it is to be sent `again`
        and that does no harm. Raises `UnansweredError`.
        """
        ends = clock.monotonic() + self.timeout
        for looks in itertools.count(1):
            at = clock.monotonic()
            try:
                cloud_id = await self.find(job)
            except CloudError as error:
                raise UnansweredError from error
            if cloud_id is not None:
                return cloud_id
            if at >= ends or (again and self.cloud.may_repeat):
                return None
            await asyncio.sleep(min(_LOOKS.after(looks), ends - at))
        raise AssertionError("the looks never end")

    def claim(self, cloud_id: str) -> bool:
        """Take an id that the cloud gave to a job, for that alone; return whether no live job and
        no recent one has it."""
        if cloud_id in self.live or cloud_id in self.ended:
            return False
        self.live.add(cloud_id)
        return True

    async def _known(self, cloud_ids: Collection[str]) -> set[str]:
        """Return which of these ids are of jobs of ours that were answered, live or ended."""
        known = self.live & set(cloud_ids)
        try:
            return known | await self.jobs.knows(set(cloud_ids) - known)
        except StorageError:
            return known
