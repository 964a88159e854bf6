"""Finds out where a job is when that is not known: after a start, or when an answer got lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

import structlog

from proxy.cloud.errors import CloudError, CloudTruncated
from proxy.cloud.upstream import Upstream
from proxy.engine.finder import JobFinder, UnansweredError
from proxy.engine.outcomes import Lost, NotThere, Refused, Sent
from proxy.engine.policy import Policy
from proxy.jobs.models import Job
from proxy.runtime import clock
from proxy.runtime.backoff import Backoff
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: Between two looks for a job whose account cannot be read.
_LOOKS = Backoff(first=0.5, longest=10.0)
_LOOKS_ELSEWHERE = Backoff(first=0.5, longest=30.0)


class Searchable(Protocol):
    """An account on which jobs can be looked for."""

    @property
    def cloud(self) -> Upstream:
        """Its calls."""

    @property
    def finder(self) -> JobFinder:
        """Its jobs by their marks."""


class Recovery:
    """Looks for jobs on the accounts, by their names."""

    def __init__(self, accounts: Mapping[str, Searchable], policy: Policy) -> None:
        self._accounts = accounts
        self._policy = policy

    def resume(self, job: Job) -> Sent | Lost | NotThere:
        """Return where a job that has left the queue was before a restart.

        One without an account had given its slot back, since the cloud does not have it.
        """
        if not job.account:
            return NotThere()
        if job.is_on_cloud and job.account in self._accounts:
            return Sent(job.cloud_id)
        return Lost()

    async def look(self, job: Job) -> Sent | NotThere | Refused:
        """Look for a job until it is certain whether the cloud has it.

        The outcome has the account of one that is found on another than its own.
        """
        if job.account in self._accounts:
            return await self._look_at(job, self._accounts[job.account].finder)
        return await self._look_everywhere(job)

    async def _look_at(self, job: Job, finder: JobFinder) -> Sent | NotThere | Refused:
        """Look on the job's account.

        The process ended, or the account could not be read, between the call and its answer. A job
        that may stand behind the end of the list is refused after `lost_timeout`.
        """
        since, lost = clock.monotonic(), self._policy.lost_timeout
        for failures in itertools.count(1):
            try:
                cloud_id = await finder.search(job)
            except UnansweredError as error:
                log.warning("unanswered_job_read_failed", error=str(error.__cause__))
                is_cut_off = isinstance(error.__cause__, CloudTruncated)
                if is_cut_off and lost and clock.monotonic() - since >= lost:
                    return Refused(_list_cut_off(job), by_cloud=False)
                await asyncio.sleep(_LOOKS.after(failures))
                continue
            if cloud_id is None:
                log.info("unanswered_job_dismissed")
                return NotThere()
            log.info("unanswered_job_adopted", cloud_job=cloud_id)
            return Sent(cloud_id)
        raise AssertionError("the looks never end")

    async def _look_everywhere(self, job: Job) -> Sent | Refused:
        """Look on all accounts: the settings no longer have the job's own.

        The job is refused after `lost_timeout`.
        """
        since = clock.monotonic()
        for looks in itertools.count(1):
            for name, account in self._accounts.items():
                with suppress(CloudError):
                    cloud_id = await self._cloud_id(job, account)
                    if cloud_id is not None:
                        return Sent(cloud_id, account=name)
            lost = self._policy.lost_timeout
            if lost and clock.monotonic() - since >= lost:
                return Refused(_account_removed(job), by_cloud=False)
            await asyncio.sleep(_LOOKS_ELSEWHERE.after(looks))
        raise AssertionError("the looks never end")

    async def _cloud_id(self, job: Job, account: Searchable) -> str | None:
        """Return the id that a job has on an account. Raises `CloudError`."""
        if not job.cloud_id:
            return await account.finder.find(job)
        return None if await account.cloud.job(job.cloud_id) is None else job.cloud_id


def _list_cut_off(job: Job) -> LocalError:
    return LocalError(
        "JobLost",
        f"The answer to the submission was lost, and the account {job.account} has too many newer "
        "jobs to find this one. It may have run; look at the account's jobs before you run the "
        "workflow again.",
        kind="not_found",
    )


def _account_removed(job: Job) -> LocalError:
    return LocalError(
        "JobLost",
        f"The account {job.account} of this job was removed from the settings, and no other "
        "account has the job; ask an admin of this proxy to add the account again, or to find the "
        "outputs there.",
        kind="not_found",
    )
