"""Brings a job to the cloud exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import count

import structlog
from msgspec import Struct
from msgspec.structs import replace

from proxy.cloud.connections import checked
from proxy.cloud.errors import (
    CloudAmbiguous,
    CloudDown,
    CloudError,
    CloudFilesGone,
    CloudRefused,
    CloudUnreachable,
    unanswered,
)
from proxy.cloud.upstream import Prompt, Upstream
from proxy.engine.accounts import PASSING, Reason
from proxy.engine.finder import JobFinder, UnansweredError
from proxy.engine.live_job import LiveJob
from proxy.engine.outcomes import (
    Elsewhere,
    Lost,
    NotNow,
    Outcome,
    Refused,
    Sent,
    Withdrawn,
    submission_failed,
    value_refused,
)
from proxy.engine.preparation import Preparation, WithdrawnError
from proxy.engine.resources import JobResources
from proxy.engine.table import JobTable
from proxy.runtime.backoff import Backoff
from proxy.storage.database import StorageError, ValueRefusedError
from proxy.translate.errors import (
    WITHOUT_NODES,
    LocalError,
    fill_node_errors,
    from_cloud,
    is_billing,
    is_retryable,
    is_throttling,
    type_of,
)

log = structlog.get_logger(__name__)

#: Statuses of gateways and of interrupted requests: the job may be there.
_MAY_HAVE_WORKED = frozenset({500, 502, 504})

#: Refusals with a status of account trouble that are about what the job wants.
_OF_THE_JOB = frozenset(
    {"PARTNER_NODE_PAYMENT_REQUIRED", "MODEL_PAYMENT_REQUIRED", "PARTNER_NODE_DISABLED"}
)

_FAULTS: dict[int, Reason] = {401: "dead_key", 402: "no_credits", 403: "dead_key"}

#: Refusals whose type says what is with the account, whatever their status.
_FAULTS_BY_TYPE: dict[str, Reason] = {
    "DEPLOYMENT_STOPPED": "stopped",
    WITHOUT_NODES: "no_nodes",
    "DEPLOYMENT_STARTING": "starting",
    "DEPLOYMENT_BUSY": "busy",
}

#: Seconds for which a silent cloud is tried again before the job goes into the queue, and any cloud
#: once the client has its answer.
_QUEUE_AFTER = 2.0

#: Between two tries while the cloud cannot take the job for a moment.
_RETRY = Backoff(first=0.5, longest=8.0)


def fault_of(status: int, body: object) -> Reason | None:
    """Return what a refusal says of the account, `None` if it is about the job."""
    type_ = type_of(body) or ""
    if type_ in _OF_THE_JOB:
        return None
    if type_ in _FAULTS_BY_TYPE:
        return _FAULTS_BY_TYPE[type_]
    if status == 429:
        if is_billing(body):
            return "no_credits"
        return "rate_limited" if is_throttling(body) else "queue_limit"
    return "unreachable" if status >= 500 else _FAULTS.get(status)


class _Try(Struct, frozen=True):
    """One call that has not succeeded: the `outcome` if no other one is made.

    With `lost` the cloud may have the job; `retry_after` is what it asked for, in seconds. A `last`
    try is followed by no other.
    """

    outcome: Outcome
    lost: bool = False
    last: bool = False
    retry_after: float = 0.0


@dataclass(eq=False, repr=False)
class Submitter:
    """Submits the jobs of one account.

    The account's events wait while `expecting` lasts: one may be of the job whose answer is under
    way.
    """

    cloud: Upstream
    finder: JobFinder
    table: JobTable
    preparation: Preparation
    resources: JobResources
    expecting: Callable[[], AbstractContextManager[None]]

    async def send(self, job: LiveJob, *, max_wait: float) -> Outcome:
        """Send a job that has a slot; its intent is on disk before. The cloud may put it off for
        `max_wait` seconds."""
        try:
            try:
                outcome = await self._send(job, max_wait)
            except CloudFilesGone:
                log.info("inputs_expired")
                outcome = await self._send(job, max_wait)
        except CloudFilesGone as error:
            return _refused(error)
        except (WithdrawnError, UnansweredError, LocalError, StorageError) as error:
            return unsent(error)
        except Exception:
            log.exception("send_failed")
            return NotNow(submission_failed())
        if not isinstance(outcome, Sent) or outcome.node_errors:
            with self.expecting():
                outcome = await self._of_member(job, outcome)
        return outcome

    async def _send(self, job: LiveJob, max_wait: float) -> Outcome:
        """Prepare and submit a job. Raises `CloudFilesGone` if an input is gone by then."""
        prompt = await self.preparation.prepare(job)
        with self.expecting():
            outcome = await self._try(job, prompt)
            if isinstance(outcome, _Try):
                outcome = await self._try_again(job, prompt, outcome, max_wait)
        return outcome

    async def _try_again(
        self, job: LiveJob, prompt: Prompt, tried: _Try, max_wait: float
    ) -> Outcome:
        """Submit until the cloud has taken or refused the job.

        After an answer that got lost the account's jobs are searched for this one before anything
        is sent again. Raises `UnansweredError` if that cannot be done.
        """
        spent, bound = 0.0, False
        for tries in count(1):
            # Looked for only once, it may still be on its way to this account.
            bound = bound or (tried.lost and not tried.last and self.cloud.may_repeat)
            if tried.lost and (cloud_id := await self._found(job)) is not None:
                log.info("submission_adopted", cloud_job=cloud_id)
                return Sent(cloud_id)
            wait = tried.retry_after or _RETRY.whole(tries)
            spent += wait
            silent = isinstance(tried.outcome, Elsewhere) and tried.outcome.silent
            if silent or job.accepted:
                max_wait = min(max_wait, _QUEUE_AFTER)
            if tried.last or spent > max_wait:
                break
            log.info("submission_delayed", seconds=round(wait, 2))
            await asyncio.sleep(wait)
            outcome = await self._try(job, prompt, again=True)
            if not isinstance(outcome, _Try):
                return _bound(outcome) if bound else outcome
            tried = outcome
        return _bound(tried.outcome) if bound else tried.outcome

    async def _found(self, job: LiveJob) -> str | None:
        """Return the id of a job whose answer is no use, if the cloud has it; meanwhile it shows
        that it is looked for. Raises `UnansweredError`."""
        self.table.show(job, reason="unanswered")
        try:
            return await self.finder.search(job, again=True)
        finally:
            self.table.show(job, reason=None)

    async def _try(self, job: LiveJob, prompt: Prompt, *, again: bool = False) -> Outcome | _Try:
        """Call the cloud once; return the outcome, or what to do about it."""
        lent = self.preparation.lent(prompt.extra_data)
        extra_data = {**prompt.extra_data, **lent}
        try:
            with checked(self.preparation.check):
                submission = await self.cloud.submit(
                    replace(prompt, extra_data=extra_data, again=again)
                )
        except CloudFilesGone:
            raise
        except CloudError as error:
            error.title = self.cloud.title
            return _failed(error)
        if not self.finder.claim(submission.cloud_id):
            log.error("job_id_repeated", cloud_job=submission.cloud_id)
            return _Try(Refused(_repeated(self.cloud.title)), lost=True, last=True)
        return Sent(submission.cloud_id, submission.node_errors)

    async def _of_member(self, job: LiveJob, outcome: Outcome) -> Outcome:
        """Return an outcome whose node errors are those of the graph that the member has sent."""
        rewriting = job.loaded.rewriting
        if isinstance(outcome, Sent) and outcome.node_errors:
            errors = outcome.node_errors
            if rewriting is not None:
                errors = self.resources.packs.view(job, rewriting).node_errors(errors)
            errors = fill_node_errors(errors)
            with suppress(StorageError):  # else they have the cloud's names, but the job goes on
                errors = await self.resources.files.reveal(job.member, errors, job.prompt_id)
            return Sent(outcome.cloud_id, errors)
        if isinstance(outcome, Refused | Elsewhere) and outcome.refusal.node_errors and rewriting:
            refusal = outcome.refusal
            view = self.resources.packs.view(job, rewriting)
            refusal.node_errors = view.node_errors(refusal.node_errors)
        return outcome


def unsent(error: Exception) -> Outcome:
    """Return the outcome for a job that could not be sent, or of which nobody knows it."""
    match error:
        case WithdrawnError():
            return Withdrawn()
        case UnansweredError():
            return Lost(_unconfirmed())
        case LocalError():
            if error.is_passing:
                return Elsewhere(error, "unreachable", by_cloud=False)
            return Refused(error, by_cloud=False)
    log.error("send_save_failed", error=str(error))
    if isinstance(error, ValueRefusedError):
        return Refused(value_refused(), by_cloud=False)
    return NotNow()


def _failed(error: CloudError) -> Outcome | _Try:
    """Return the outcome of a call that has not brought an id, or what to do about it."""
    match error:
        case CloudAmbiguous():
            log.warning("submission_answer_lost", error=str(error))
            if error.taken:
                return _Try(Lost(_unconfirmed(error.title)), lost=True, last=True)
            if error.refused is not None:
                return _Try(_refused(error.refused), lost=True, last=True)
            return _Try(_silent(error), lost=True)
        case CloudDown():
            return _silent(error)
        case CloudUnreachable():
            log.warning("submission_send_failed", error=str(error))
            return _Try(_silent(error))
        case CloudRefused():
            lost = error.status in _MAY_HAVE_WORKED
            refused = _refused(error)
            if isinstance(refused, Elsewhere) and refused.fault in PASSING:
                return refused
            if not lost and not is_retryable(error.status, error.body):
                return refused
            return _Try(refused, lost=lost, retry_after=error.retry_after or 0.0)
    log.warning("submission_answer_rejected", error=str(error))
    return _Try(Elsewhere(_unreadable(error.title), "unreachable"), lost=True)


def _bound(outcome: Outcome) -> Outcome:
    """Return the outcome of a job that the account may have already, so that no other gets it."""
    return Lost(_unconfirmed()) if isinstance(outcome, Elsewhere) else outcome


# --- what the client is answered -----------------------------------------------------------


def _silent(error: CloudError) -> Elsewhere:
    answer = unanswered(error, "The job was not submitted", "submit it again")
    return Elsewhere(answer, "unreachable", error.retry_after, silent=True)


def _refused(error: CloudRefused) -> Refused | Elsewhere:
    answer = from_cloud(error.status, error.body, error.retry_after)
    fault = fault_of(error.status, error.body)
    return Refused(answer) if fault is None else Elsewhere(answer, fault, error.retry_after)


def _unconfirmed(title: str = "The account") -> LocalError:
    return LocalError(
        "submission_unanswered",
        f"{title} did not confirm the job, so the proxy does not know whether it arrived. "
        "It stays in the queue until that is known; if it leaves the queue without a history "
        "entry, submit it again.",
        kind="unconfirmed",
    )


def _unreadable(title: str) -> LocalError:
    return LocalError(
        "cloud_answer_unreadable",
        f"{title} returned an unknown answer; try again. If the error persists, check the "
        "setting `base_url`.",
        kind="bad_answer",
    )


def _repeated(title: str) -> LocalError:
    return LocalError(
        "job_id_repeated",
        f"{title} answered with the id of another job, so this job cannot be followed. If the "
        "job runs, its outputs are only there. Submit it again, and report this to Comfy "
        "Cloud if it happens again.",
        kind="bad_answer",
    )
