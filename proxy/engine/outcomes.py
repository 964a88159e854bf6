"""The outcome of a step in the life of a job, and the next step.

Decides without I/O and without a clock. `JobLife` carries the steps out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from msgspec import Struct

from proxy.engine.accounts import PASSING, Reason
from proxy.jobs.models import Job
from proxy.translate.errors import LocalError
from proxy.translate.packs import Failure

# --- outcomes ------------------------------------------------------------------------------


class Sent(Struct, frozen=True):
    """The cloud has the job under `cloud_id`; it runs without the nodes in `node_errors`, which are
    those of the member.

    `account` is named where that is another one than the job's own.
    """

    cloud_id: str
    node_errors: Mapping[str, Any] = {}
    account: str = ""


class Refused(Struct, frozen=True):
    """The job cannot run, whichever account it goes to.

    `by_cloud` says that the account has answered so.
    """

    refusal: LocalError
    by_cloud: bool = True


class FailedBefore(Struct, frozen=True):
    """A node has failed that the proxy runs itself, before the job was sent."""

    failure: Failure


class WrongAccount(Struct, frozen=True):
    """The account does not have what the job names."""


class Elsewhere(Struct, frozen=True):
    """The account cannot take the job because of `fault`; another account may.

    `retry_after` is what the cloud asked for, in seconds; `by_cloud` says that the account has
    answered the submission, `silent` that nothing came back at all: the job then waits.
    """

    refusal: LocalError
    fault: Reason
    retry_after: float | None = None
    by_cloud: bool = True
    silent: bool = False


class OverBudget(Struct, frozen=True):
    """The job would exceed a hard budget of its member now."""


class OutOfMemory(Struct, frozen=True):
    """The other jobs of the member hold its share of the memory."""


class NotNow(Struct, frozen=True):
    """The proxy could not send the job.

    Without a `refusal` its storage failed, and with one the proxy itself.
    """

    refusal: LocalError | None = None


class Lost(Struct, frozen=True):
    """Nobody knows whether the cloud has the job; a new job's client gets the `refusal`."""

    refusal: LocalError | None = None


class NotThere(Struct, frozen=True):
    """The cloud does not have the job, which was looked for."""


class Withdrawn(Struct, frozen=True):
    """The client no longer wants the job, and the cloud does not have it."""


Outcome: TypeAlias = (
    Sent
    | Refused
    | FailedBefore
    | WrongAccount
    | Elsewhere
    | OverBudget
    | OutOfMemory
    | NotNow
    | Lost
    | NotThere
    | Withdrawn
)

# --- steps ---------------------------------------------------------------------------------


class Follow(Struct, frozen=True):
    """Follow the job to its end."""

    sent: Sent


class LookFor(Struct, frozen=True):
    """Find out whether the cloud has the job."""


class Wait(Struct, frozen=True):
    """Let the job wait for its next turn; with `pause` no other job is sent for a moment."""

    pause: bool = False


class TryOther(Struct, frozen=True):
    """Send the job to another account, if one has a slot for it; else let it wait."""


class Fail(Struct, frozen=True):
    """End the job as failed, with a history entry."""

    cause: LocalError | Failure


class Interrupt(Struct, frozen=True):
    """End the job as an interrupted run, with a history entry."""


class Discard(Struct, frozen=True):
    """Forget the job; a new job's client gets the `refusal`."""

    refusal: LocalError | None = None


Step: TypeAlias = Follow | LookFor | Wait | TryOther | Fail | Interrupt | Discard


def next_step(job: Job, outcome: Outcome, *, has_other: bool = False) -> Step:
    """Return what to do with a job after an outcome.

    A job that is not `accepted` has a client that waits for its answer, and is refused rather
    than kept waiting, unless the cloud is silent. `has_other` says that another account that takes
    the job is well.
    """
    match outcome:
        case Sent():
            return Follow(outcome)
        case Lost():
            return LookFor()
        case Withdrawn() if not (job.accepted and job.interrupted):
            return Discard(withdrawn())
        case _ if job.cancel_requested:
            return Discard(withdrawn())
        case Refused(refusal=refusal):
            return Fail(refusal) if job.accepted else Discard(refusal)
        case FailedBefore(failure=failure):
            return Fail(failure)
        case _ if job.accepted and job.interrupted:
            return Interrupt()
        case NotThere() | WrongAccount():
            return Wait() if job.accepted else Discard()
        case OverBudget() | OutOfMemory():
            return Wait()
        case Elsewhere(refusal=refusal, fault=fault, silent=silent):
            if not job.accepted and has_other:
                return TryOther()
            waits = job.accepted or silent or fault in PASSING
            return Wait() if waits else Discard(refusal)
        case NotNow(refusal=refusal):
            if job.accepted or refusal is None:
                return Wait(pause=True)
            return Discard(refusal)
    raise AssertionError(outcome)


def withdrawn() -> LocalError:
    """Return the answer to a client whose job was cancelled, and is not on the cloud."""
    return LocalError(
        "submission_withdrawn",
        "The job was cancelled before the cloud took it. It will not run.",
        kind="unavailable",
    )


def value_refused() -> LocalError:
    """Return the answer to a client whose job has something that the database does not take."""
    return LocalError(
        "value_refused",
        "The proxy cannot store this job: its database refuses a name, a text or a number in it, "
        "and the log says which. Change the workflow, and submit it again.",
    )


def submission_failed() -> LocalError:
    """Return the answer to a client whose job the proxy could not send, through its own fault."""
    return LocalError(
        "submission_failed",
        "The proxy could not store the job. It will not run; the log has the reason.",
        kind="internal",
    )
