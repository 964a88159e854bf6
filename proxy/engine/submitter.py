"""Brings a job to the cloud exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import structlog

from proxy.cloud.client import CloudClient, Submission
from proxy.cloud.resilience import (
    Backoff,
    CloudAmbiguous,
    CloudDown,
    CloudError,
    CloudRefused,
    CloudUnreachable,
    unanswered,
)
from proxy.engine.accounts import Reason
from proxy.jobs.models import Job
from proxy.translate.errors import (
    LocalError,
    from_cloud,
    is_billing,
    is_retryable,
    is_throttling,
    type_of,
)

log = structlog.get_logger(__name__)

#: The key of our own in `extra_data`, by which a job is found again among the account's.
MARK = "comfy_cloud_proxy"

#: Answers of a gateway, or of a failure half-way: the job may be there.
_MAY_HAVE_WORKED = frozenset({500, 502, 504})

#: How many of the account's newest jobs are looked at when one is sought.
_RECENT = 100

#: Of how many jobs the mark is remembered.
_REMEMBERED = 2000


class UnansweredError(LocalError):
    """The call was sent, no clear answer came, and the account does not tell what it came to."""

    def __init__(self) -> None:
        super().__init__(
            "submission_unanswered",
            "Comfy Cloud did not confirm the job, so the proxy does not know whether it arrived. "
            "It stays in the queue until that is known; if it leaves the queue without a history "
            "entry, submit it again.",
            kind="unconfirmed",
        )


class SubmissionError(Exception):
    """The cloud does not take the job, and does not have it.

    `refusal` is the answer to the client, `fault` what is wrong with the account (`None`: with the
    job), `retry_after` the seconds that the cloud asked for.
    """

    def __init__(
        self, refusal: LocalError, fault: Reason | None, retry_after: float | None = None
    ) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.fault = fault
        self.retry_after = retry_after


#: Refusals with a status of the account's that are about what the job wants.
_OF_THE_JOB = frozenset(
    {"PARTNER_NODE_PAYMENT_REQUIRED", "MODEL_PAYMENT_REQUIRED", "PARTNER_NODE_DISABLED"}
)

_FAULTS: dict[int, Reason] = {401: "dead_key", 402: "no_credits", 403: "dead_key"}


def fault_of(status: int, body: object) -> Reason | None:
    """What a refusal of a submission says of the account, `None` if it is about the job."""
    if type_of(body) in _OF_THE_JOB:
        return None
    if status == 429:
        if is_billing(body):
            return "no_credits"
        return "rate_limited" if is_throttling(body) else "queue_limit"
    return "unreachable" if status >= 500 else _FAULTS.get(status)


#: Between two tries while the cloud says "not now".
_NOT_NOW = Backoff(first=0.5, longest=8.0)


@dataclass(eq=False, repr=False)
class Submitter:
    """Submits jobs.

    `patience` bounds, in seconds, the wait while the cloud says "not now"; `looks` are the waits
    before each look for a job whose submission was not answered. `known` tells which ids of the
    cloud are of jobs that need not be looked at; events that come before the answer to a
    submission wait while `expecting` lasts.
    """

    cloud: CloudClient
    known: Callable[[Iterable[str]], Awaitable[set[str]]]
    expecting: Callable[[], AbstractContextManager[None]]
    patience: float = 30.0
    looks: tuple[float, ...] = (0.0, 0.5, 1.5)
    _marks: dict[str, object] = field(default_factory=dict)
    #: The marks of jobs by the ids that the cloud gave them.
    _issued: dict[str, str] = field(default_factory=dict)

    async def submit(
        self,
        job: Job,
        graph: dict[str, Any],
        extra_data: dict[str, Any],
        *,
        beside: Callable[[], dict[str, Any]] = dict,
        patience: float | None = None,
    ) -> Submission:
        """Submit until the cloud has taken or refused the job.

        `beside` is asked directly before each call for what goes beside `extra_data`: by then the
        account may have another key, and another replica the lease. After an answer that got lost
        the account's jobs are searched for this one's mark before anything is sent again.
        `patience` replaces the usual one. Raises `SubmissionError`, or `UnansweredError` if nobody
        can tell.
        """
        patience = self.patience if patience is None else min(patience, self.patience)
        wanted = _wanted_id(job) if self._honours_ids else None
        tries, spent = 0, 0.0
        with self.expecting():
            while True:
                unclear, repeated = None, False
                try:
                    taken = await self.cloud.submit(
                        graph,
                        extra_data={**extra_data, **beside(), MARK: job.mark},
                        partial_execution_targets=job.targets,
                        prompt_id=wanted,
                    )
                    if wanted not in (None, taken.cloud_id):
                        self.cloud.observations.learn("prompt_id", "minted")
                    if await self._is_its_own(job, taken.cloud_id):
                        return taken
                    log.error("job_id_repeated", cloud_job=taken.cloud_id)
                    refusal, least, lost, repeated = _repeated(), 0.0, True, True
                except CloudAmbiguous as error:
                    refusal, least, lost, unclear = _silent(error), 0.0, True, error
                    log.warning("submission_answer_lost", error=str(error))
                except CloudDown as error:
                    raise _silent(error) from error
                except CloudUnreachable as error:
                    refusal, least, lost = _silent(error), 0.0, False
                    log.warning("submission_send_failed", error=str(error))
                except CloudRefused as error:
                    refusal = _refused(error)
                    if tries and wanted is not None and await self._has(wanted):
                        return Submission(wanted, {})
                    least, lost = error.retry_after or 0.0, error.status in _MAY_HAVE_WORKED
                    if not lost and not is_retryable(error.status, error.body):
                        raise refusal from error
                except CloudError as error:
                    refusal, least, lost = SubmissionError(_unreadable(), "unreachable"), 0.0, True
                    log.warning("submission_answer_rejected", error=str(error))
                if lost and (cloud_id := await self._find_patiently(job)) is not None:
                    log.info("submission_adopted", cloud_job=cloud_id)
                    return Submission(cloud_id, {})
                if repeated:
                    raise refusal
                if unclear is not None and unclear.taken:
                    raise UnansweredError
                if unclear is not None and unclear.refused is not None:
                    raise _refused(unclear.refused)
                tries += 1
                wait = least or _NOT_NOW.whole(tries)
                spent += wait
                if spent > patience:
                    raise refusal
                log.info("submission_delayed", seconds=round(wait, 2))
                await asyncio.sleep(wait)

    async def find(self, job: Job) -> str | None:
        """The cloud id of a job whose submission was not answered, or `None` if it is not there.

        Where the cloud lets us choose ids, one look tells of a job that is there. Raises
        `CloudError` when the account cannot be read.
        """
        if self._honours_ids and await self.cloud.job(wanted := _wanted_id(job)) is not None:
            return wanted
        recent = [entry.cloud_id for entry in await self.cloud.jobs(limit=_RECENT)]
        known = await self.known(recent)
        for cloud_id in recent:
            if cloud_id not in known and await self._mark_of(cloud_id) == job.mark:
                return cloud_id
        return None

    @property
    def _honours_ids(self) -> bool:
        """Whether the cloud was seen to give a job the id that the submission asks for."""
        return self.cloud.observations.facts.get("prompt_id") == "honoured"

    @property
    def _may_repeat(self) -> bool:
        """Whether the cloud was seen to make no second job with the same id."""
        again = self.cloud.observations.facts.get("prompt_id_again")
        return self._honours_ids and again in ("refused", "the same job")

    async def _is_its_own(self, job: Job, cloud_id: str) -> bool:
        """Whether no other job has the id that the cloud gave to this one."""
        if self._issued.setdefault(cloud_id, job.mark) != job.mark:
            return False
        while len(self._issued) > _REMEMBERED:
            del self._issued[next(iter(self._issued))]
        return cloud_id not in await self.known([cloud_id])

    async def _has(self, cloud_id: str) -> bool:
        try:
            return await self.cloud.job(cloud_id) is not None
        except CloudError as error:
            raise UnansweredError from error

    async def _mark_of(self, cloud_id: str) -> object:
        """The mark of a job. One that was read never changes; one that lags is read again."""
        if cloud_id not in self._marks:
            detail = await self.cloud.job(cloud_id)
            if detail is None or detail.extra_data is None:
                return None
            self._marks[cloud_id] = detail.extra_data.get(MARK)
            while len(self._marks) > _REMEMBERED:
                del self._marks[next(iter(self._marks))]
        return self._marks[cloud_id]

    async def _find_patiently(self, job: Job) -> str | None:
        """Look several times: a job that has just been taken may not be listed yet.

        Once is enough where a second submission does no harm.
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


def _wanted_id(job: Job) -> str:
    """The id that the job is to have on the cloud; the same each time that it is sent."""
    return str(uuid5(NAMESPACE_URL, f"{MARK}:{job.mark}"))


def _silent(error: CloudError) -> SubmissionError:
    told = unanswered(error, "The job was not submitted", "submit it again")
    return SubmissionError(told, "unreachable", error.retry_after)


def _refused(error: CloudRefused) -> SubmissionError:
    told = from_cloud(error.status, error.body, error.retry_after)
    return SubmissionError(told, fault_of(error.status, error.body), error.retry_after)


def _unreadable() -> LocalError:
    return LocalError(
        "cloud_answer_unreadable",
        "Comfy Cloud returned an unknown answer; try again. If the error persists, check the "
        "setting `base_url`.",
        kind="bad_answer",
    )


def _repeated() -> SubmissionError:
    told = LocalError(
        "job_id_repeated",
        "Comfy Cloud answered with the id of another job, so this job cannot be followed. If the "
        "job runs, its outputs are only on the cloud. Submit it again, and report this to Comfy "
        "Cloud if it happens again.",
        kind="bad_answer",
    )
    return SubmissionError(told, None)
