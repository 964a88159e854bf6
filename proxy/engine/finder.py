"""Finds a job among those of its account when the answer to its submission got lost."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Container
from dataclasses import dataclass, field
from uuid import NAMESPACE_URL, uuid5

import structlog

from proxy.cloud.client import CloudClient
from proxy.cloud.errors import CloudError
from proxy.jobs.models import Job
from proxy.storage.database import StorageError
from proxy.storage.jobs import JobRepository

log = structlog.get_logger(__name__)

#: The proxy's own key in `extra_data`, by which a job is found again among the account's.
MARK = "comfy_cloud_proxy"

#: How many of the account's newest jobs are looked at when one is sought.
_RECENT = 100

#: Of how many jobs the mark is remembered.
_REMEMBERED = 2000

#: Seconds before each look for a job that has just been submitted.
_LOOKS = (0.0, 0.5, 1.5)


class UnansweredError(Exception):
    """The account could not be read, so nobody knows whether the cloud has the job."""


@dataclass(eq=False, repr=False)
class JobFinder:
    """Looks for jobs on one account, and knows which ids there are of other jobs of ours.

    `live` are the ids on the cloud of all live jobs, `ended` those of others, as far as they are
    remembered; `jobs` are those that the storage has.
    """

    cloud: CloudClient
    live: set[str]
    ended: Container[str]
    jobs: JobRepository
    looks: tuple[float, ...] = _LOOKS
    _marks: dict[str, object] = field(default_factory=dict)

    async def find(self, job: Job) -> str | None:
        """Return the cloud id of a job whose submission was not answered, `None` if there is none.

        Where the cloud lets the proxy choose ids, one look tells of a job that is there. Raises
        `CloudError` when the account cannot be read.
        """
        wanted = self.wanted_id(job)
        if wanted is not None and await self.cloud.job(wanted) is not None:
            return wanted
        recent = [entry.cloud_id for entry in await self.cloud.jobs(limit=_RECENT)]
        known = await self._known(recent)
        for cloud_id in recent:
            if cloud_id not in known and await self._mark_of(cloud_id) == job.mark:
                return cloud_id
        return None

    async def find_new(self, job: Job) -> str | None:
        """Look several times: a job that has just been taken may not be listed yet.

        Once is enough where a second submission does no harm. Raises `UnansweredError`.
        """
        try:
            for wait in self.looks[:1] if self._may_repeat else self.looks:
                await asyncio.sleep(wait)
                cloud_id = await self.find(job)
                if cloud_id is not None:
                    return cloud_id
        except CloudError as error:
            raise UnansweredError from error
        return None

    async def has(self, cloud_id: str) -> bool:
        """Return whether the account has a job. Raises `UnansweredError`."""
        try:
            return await self.cloud.job(cloud_id) is not None
        except CloudError as error:
            raise UnansweredError from error

    def claim(self, cloud_id: str) -> bool:
        """Take an id that the cloud gave to a job, for that alone; return whether no live job and
        no recent one has it."""
        if cloud_id in self.live or cloud_id in self.ended:
            return False
        self.live.add(cloud_id)
        return True

    def wanted_id(self, job: Job) -> str | None:
        """Return the id that a job is to have on the cloud, the same each time that it is sent.

        It is `None` unless the cloud was seen to honour such ids.
        """
        if self.cloud.observations.facts.get("prompt_id") != "honoured":
            return None
        return str(uuid5(NAMESPACE_URL, f"{MARK}:{job.mark}"))

    @property
    def _may_repeat(self) -> bool:
        """Whether the cloud was seen to make no second job with the same id."""
        facts = self.cloud.observations.facts
        again = facts.get("prompt_id_again")
        return facts.get("prompt_id") == "honoured" and again in ("refused", "the same job")

    async def _known(self, cloud_ids: Collection[str]) -> set[str]:
        """Return which of these ids are of jobs of ours that were answered, live or ended."""
        known = self.live & set(cloud_ids)
        try:
            return known | await self.jobs.knows(set(cloud_ids) - known)
        except StorageError as error:
            log.warning("jobs_read_failed", error=str(error))
            return known

    async def _mark_of(self, cloud_id: str) -> object:
        """Return the mark of a job; only one that was read never changes."""
        if cloud_id not in self._marks:
            extra_data = await self.cloud.extra_data(cloud_id)
            if extra_data is None:
                return None
            self._marks[cloud_id] = extra_data.get(MARK)
            while len(self._marks) > _REMEMBERED:
                del self._marks[next(iter(self._marks))]
        return self._marks[cloud_id]
