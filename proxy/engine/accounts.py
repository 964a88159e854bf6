"""Comfy Cloud accounts: how many jobs each runs, whether it takes any, and submissions to it.

`Slots` and `AccountHealth` decide without I/O and without a clock. The `Submitter` brings a job to
the cloud exactly once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import NAMESPACE_URL, uuid5

import structlog
from msgspec import Struct

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

#: The most jobs at once that any plan runs; learning goes no further.
MOST = 5

#: This many readings in a row must show too many held jobs before the estimate shrinks.
_DOUBTS = 3


class Slots(Struct, eq=False):
    """What an account runs at once, and how many jobs may be there to keep it busy.

    Pure. `fixed` is the number of slots, 0 if it is to be learned; `ahead` jobs more may be on the
    cloud, so that the next one begins without a round trip. What is learned begins with 1, grows
    when everything on the cloud runs at once, and shrinks when jobs keep waiting for a slot.
    """

    fixed: int = 0
    ahead: int = 0
    _learnt: int = 1
    _is_limit: bool = False
    _doubts: int = 0

    @property
    def count(self) -> int:
        """How many jobs run at once, as far as is known."""
        return self.fixed or self._learnt

    @property
    def learning(self) -> bool:
        """Whether nobody has set the number."""
        return not self.fixed

    @property
    def certain(self) -> bool:
        """Whether the number is set, or the cloud has said that more do not run."""
        return not self.learning or self._is_limit

    @property
    def limit(self) -> int:
        """How many jobs may be on the cloud. One more than run, until the limit is certain."""
        return self.count + (self.ahead if self.certain else max(1, self.ahead))

    def free(self, on_cloud: int) -> bool:
        """Whether another job may go there beside `on_cloud` ones."""
        return on_cloud < self.limit

    def restore(self, learnt: int) -> None:
        """Continue with a number that was learned before; the plan may be another one since."""
        self._learnt = max(1, min(learnt, MOST))
        self._is_limit, self._doubts = self._learnt >= MOST, 0

    def running(self, count: int) -> bool:
        """This many jobs of ours run at once now. Says whether more may go there than before."""
        before = self.limit
        if self.learning and count > self._learnt:
            self.restore(count)
        return self.limit > before

    def held(self, count: int, running: int) -> None:
        """A reading: `count` jobs wait for lack of a slot (`concurrency_limit`), `running` run."""
        if not self.learning or not count:
            self._doubts = 0
            return
        if running >= self._learnt:
            self._is_limit, self._doubts = True, 0
            return
        self._doubts += 1
        if self._doubts >= _DOUBTS:
            self._learnt, self._is_limit, self._doubts = max(1, running), True, 0


Reason = Literal["no_credits", "dead_key", "queue_limit", "rate_limited", "unreachable"]

#: How long an account rests. What a person must repair is tried less often.
RESTS: dict[Reason, Backoff] = {
    "no_credits": Backoff(5.0, 300.0),
    "dead_key": Backoff(5.0, 300.0),
    "queue_limit": Backoff(1.0, 60.0),
    "rate_limited": Backoff(1.0, 60.0),
    "unreachable": Backoff(1.0, 30.0),
}

#: What does not pass by itself within any time that a client may be left to wait.
UNABLE = frozenset({"no_credits", "dead_key", "queue_limit"})


class AccountHealth(Struct, eq=False):
    """An account that is well, or rests for a reason until some time.

    `now` is any clock in seconds that does not run backwards. After a rest one job is let through
    to try; if that fails for the same reason, the next rest is twice as long. `refusal` is what the
    last failure tells a client, `unable_since` when the account began to be `UNABLE` to take jobs.
    """

    reason: Reason | None = None
    until: float = 0.0
    refusal: LocalError | None = None
    unable_since: float | None = None
    _failures: int = 0
    _trying: bool = False

    @property
    def well(self) -> bool:
        """Whether nothing is known against the account."""
        return self.reason is None

    def ready(self, now: float) -> bool:
        """Whether a waiting job may go there: well, or rested and nobody tries just now."""
        return self.well or (now >= self.until and not self._trying)

    def sent(self) -> None:
        """A job goes there; of an account that rested it is the one that tries."""
        self._trying = not self.well

    def failed(
        self,
        reason: Reason,
        now: float,
        asked: float | None = None,
        refusal: LocalError | None = None,
    ) -> None:
        """The account refused a job for a reason of its own; `asked` is its `Retry-After`."""
        self.refusal = refusal
        if reason not in UNABLE:
            self.unable_since = None
        elif self.unable_since is None:
            self.unable_since = now
        again = reason == self.reason
        if again and not self._trying and now < self.until:
            return  # jobs that were sent together fail together: that is one failure
        self._failures = self._failures + 1 if again else 1
        self.reason = reason
        self.until = now + max(RESTS[reason].whole(self._failures), asked or 0.0)
        self._trying = False

    def unsettled(self) -> None:
        """The job that tried came back without a word on the account."""
        self._trying = False

    def eased(self, now: float) -> None:
        """A job has left the account: one that had too many may be tried at once."""
        if self.reason in ("queue_limit", "rate_limited"):
            self.until = min(self.until, now)

    def renewed(self) -> None:
        """It has another key, took a job, or refused it for a reason of the job's own: nothing is
        known against it."""
        self.reason = self.refusal = self.unable_since = None
        self.until, self._failures = 0.0, 0
        self._trying = False


@dataclass(slots=True, eq=False)
class Account:
    """An account with its calls.

    `key` is the API key that is lent to partner nodes; it changes with `use_key`. `members` are
    those whose jobs may run on the account, none named is everybody. With `plain_http` the key may
    go over HTTP without TLS.
    """

    name: str
    cloud: CloudClient
    key: str = field(repr=False)
    slots: Slots = field(default_factory=Slots)
    health: AccountHealth = field(default_factory=AccountHealth)
    weight: float = 1.0
    members: tuple[str, ...] = ()
    plain_http: bool = False

    def allows(self, member: str) -> bool:
        """Whether the member's jobs may run here."""
        return not self.members or member in self.members

    def forget(self) -> None:
        """Nothing is known of the account: it was another engine that knew."""
        self.slots.restore(1)
        self.health.renewed()

    def use_key(self, key: str) -> None:
        """Take another key for calls from now on."""
        self.key = key
        self.health.renewed()
        self.cloud.use_key(key)


def best_first(accounts: Iterable[Account], member: str | None = None) -> list[Account]:
    """The accounts, those of which nothing bad is known before the rest.

    With a `member` only those that the member may use.
    """
    usable = [account for account in accounts if member is None or account.allows(member)]
    return sorted(usable, key=lambda account: not account.health.well)


# --- submissions to it ---------------------------------------------------------------------

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


def _repeated() -> SubmissionError:
    told = LocalError(
        "job_id_repeated",
        "Comfy Cloud answered with the id of another job, so this job cannot be followed. If the "
        "job runs, its outputs are only on the cloud. Submit it again, and report this to Comfy "
        "Cloud if it happens again.",
        kind="bad_answer",
    )
    return SubmissionError(told, None)


def _unreadable() -> LocalError:
    return LocalError(
        "cloud_answer_unreadable",
        "Comfy Cloud returned an unknown answer; try again. If the error persists, check the "
        "setting `base_url`.",
        kind="bad_answer",
    )
