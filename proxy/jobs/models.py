"""What the rooms know of a job: its state, and its shape in memory.

A job has exactly one state (`JobState`); `TRANSITIONS` has those that may follow. A live job is one
`Job`, which the engine changes and handlers read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from proxy.costs.job_cost import JobCost
from proxy.storage.job_tables import JobKey, Number
from proxy.translate import codec
from proxy.translate.outputs import normalized
from proxy.translate.plans import AccountPlan
from proxy.translate.trace_context import trace_headers
from proxy.translate.workflow_metadata import FIELD

if TYPE_CHECKING:
    from proxy.translate.packs import Failure, Rewriting

Outcome = Literal["completed", "failed", "cancelled"]
FairBy = Literal["jobs", "time"]


class JobState(StrEnum):
    """How far a job is."""

    RECEIVED = "received"
    QUEUED = "queued"
    SUBMITTING = "submitting"
    UNKNOWN = "unknown"
    SUBMITTED = "submitted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more becomes of the job."""
        return not TRANSITIONS[self]


#: Which states may follow a state; `docs/how-it-works.md` has the same table, and says what each
#: means.
TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState(state): frozenset(map(JobState, following.split()))
    for state, following in {
        "received": "queued submitting failed cancelled",
        "queued": "submitting failed cancelled",
        "submitting": "queued unknown submitted failed cancelled",
        "unknown": "queued submitted failed cancelled",
        "submitted": "running succeeded failed cancelled",
        "running": "succeeded failed cancelled",
        "succeeded": "",
        "failed": "",
        "cancelled": "",
    }.items()
}

ENDS: Mapping[Outcome, JobState] = {
    "completed": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
    "cancelled": JobState.CANCELLED,
}
#: What the value of an end is called for clients.
OUTCOMES: Mapping[str, Outcome] = {state.value: outcome for outcome, state in ENDS.items()}


class TransitionError(Exception):
    """Raised when a job is to take a state that cannot follow its own."""


class JobRequest(msgspec.Struct, frozen=True):
    """A checked `POST /prompt`. `extra_data` is the client's; `number` wins over `front`.

    `submitter` tells the program that asks from others, `token` is the id of its token, `trace` the
    `traceparent` of the request; each is `""` where it is not known.
    """

    graph: dict[str, Any]
    client_id: str | None = None
    prompt_id: str | None = None
    number: float | None = None
    front: bool = False
    extra_data: dict[str, Any] = {}
    targets: list[str] | None = None
    submitter: str = ""
    token: str = ""
    trace: str = ""


@dataclass(slots=True, eq=False)
class JobContent:
    """What a client sent for a job, of any size: in memory only where it is used.

    `graph` and `extra_data` are without credentials; those are in `credentials`. `rewriting` is
    what the cloud runs instead of the graph, if that differs. `size` is about how many bytes all of
    it takes in memory, and `run_size` what a run needs of it.
    """

    graph: dict[str, Any]
    extra_data: dict[str, Any]
    targets: list[str] | None = None
    credentials: dict[str, Any] = field(default_factory=dict, repr=False)
    rewriting: Rewriting | None = field(default=None, repr=False)
    size: int = 0
    run_size: int = 0

    def keep_for_run(self) -> None:
        """Forget what nothing needs any more once the cloud has the job."""
        metadata, without_previews = self.extra_data.get(FIELD), not self.wants_previews
        self.extra_data = {} if metadata is None else {FIELD: metadata}
        if without_previews:
            self.extra_data["preview_method"] = "none"
        self.credentials, self.targets, self.size = {}, None, self.run_size

    @property
    def wants_previews(self) -> bool:
        """Whether the client did not turn them off, as the web interface can for each job."""
        return self.extra_data.get("preview_method") != "none"

    @property
    def cloud_graph(self) -> dict[str, Any]:
        """The graph that the cloud runs."""
        return self.graph if self.rewriting is None else self.rewriting.graph

    @property
    def failure(self) -> Failure | None:
        """Why the job fails without the cloud, if it does."""
        return None if self.rewriting is None else self.rewriting.failure


class NotLoadedError(Exception):
    """Raised when the content of a job is used while it is in the storage alone."""


class Wish(StrEnum):
    """What is to become of a job that has not ended; one that is to be cancelled is no longer to be
    interrupted."""

    NONE = ""
    #: It ends as an interrupted run.
    INTERRUPT = "interrupt"
    #: It leaves no trace, if it has not begun.
    CANCEL = "cancel"

    @classmethod
    def of(cls, *, cancel_requested: bool, interrupted: bool) -> Wish:
        """Return the wish that a row has."""
        if cancel_requested:
            return cls.CANCEL
        return cls.INTERRUPT if interrupted else cls.NONE


@dataclass(slots=True, eq=False)
class Job:
    """A job that has not ended. Times are ms since 1970.

    Its fields are those of its row (`StoredJob`), which says what they mean, the `content`, what
    the client sent, `None` while the job waits, and three that are not stored. `reason` is why the
    job does not continue: `turn`, `slot`, `client` (another job of its client has a slot), `model`
    (the accounts that have its models are busy), `limit`, `budget`, `ceiling` and `memory` (the
    member's own; `ceiling` is what its jobs under way may cost at most, `memory` what of them is
    in memory), `disabled` (the member), `restored` (an admin must release it), `no_account`,
    `unanswered` (it is looked for on its account, since the answer to its submission is no use), or
    what the account suffers (`no_credits`, `dead_key`, `queue_limit`, `rate_limited`,
    `unreachable`); `message` is a sentence about it. `finishing` says that the client has all
    outputs.

    Three fields are no states, for they hold in several: `accepted` is the promise to the client
    (a job without it is refused, one with it waits or fails), `watched` says that a socket of its
    client listens, and the `wish` is what a job on its way to the cloud meets at its next step.
    """

    prompt_id: str
    member: str
    number: Number
    content: JobContent | None = field(repr=False)
    client_id: str | None
    created_at: int
    workflow_id: str | None = None
    order: int = 0
    outputs_to_execute: tuple[str, ...] = ()
    state: JobState = JobState.RECEIVED
    account: str = ""
    cloud_id: str = ""
    started_at: int | None = None
    watched: bool = True
    accepted: bool = False
    wish: Wish = Wish.NONE
    charge: float = 0.0
    one_at_a_time: bool = False
    submitter: str = ""
    token: str = ""
    trace: str = ""
    label: str = ""
    estimate: int = 0
    shape: str = ""
    partner_nodes: int = 0
    ceiling: int = 0
    reason: str | None = None
    message: str | None = None
    finishing: bool = False

    @property
    def log_fields(self) -> dict[str, str]:
        """What log lines about the job have."""
        return {"job": self.prompt_id, "member": self.member, **trace_headers(self.trace)}

    @property
    def cancel_requested(self) -> bool:
        """Whether the job is to leave no trace."""
        return self.wish is Wish.CANCEL

    @property
    def interrupted(self) -> bool:
        """Whether the job is to end as an interrupted run."""
        return self.wish is Wish.INTERRUPT

    @property
    def key(self) -> JobKey:
        """The member and the id."""
        return JobKey(self.member, self.prompt_id)

    @property
    def mark(self) -> str:
        """What the job carries in its `extra_data` on the cloud, to be found again."""
        return f"{self.member}/{self.prompt_id}/{self.created_at}"

    @property
    def is_on_cloud(self) -> bool:
        """Whether the cloud has the job under its `cloud_id`."""
        return self.state in (JobState.SUBMITTED, JobState.RUNNING)

    @property
    def loaded(self) -> JobContent:
        """What the client sent. Raises `NotLoadedError`."""
        if self.content is None:
            raise NotLoadedError(self.prompt_id)
        return self.content

    @property
    def graph(self) -> dict[str, Any]:
        """The graph of the client. Raises `NotLoadedError`."""
        return self.loaded.graph

    @property
    def wants_previews(self) -> bool:
        """Whether the client did not turn them off."""
        return self.loaded.wants_previews


#: The class of live jobs, which has more fields in the engine.
AnyJob = TypeVar("AnyJob", bound=Job)


def is_shown(job: Job) -> bool:
    """Return whether clients may know of a job; one that runs is there until its end."""
    known = job.accepted or job.state == JobState.UNKNOWN
    return known and (not job.cancel_requested or job.state == JobState.RUNNING)


class JobEnd(msgspec.Struct, frozen=True):
    """How a job has ended (times in ms since 1970), of which its `HistoryEntry` is made.

    `node_times` has of each node when it began and how long it ran; of a job that was not
    `followed` from its first node some may be missing. `prices` is what nodes report
    that they have cost (millionths of a credit), `executed_by` what ran the job, as far as the
    cloud tells. `cost` is what the job has cost as a whole.
    """

    outcome: Outcome
    outputs: dict[str, Any]
    status: dict[str, Any]
    meta: dict[str, Any]
    started_at: int
    ended_at: int
    node_times: Mapping[str, tuple[int, int]] = {}
    followed: bool = False
    prices: Mapping[str, int] = {}
    executed_by: Mapping[str, Any] = {}
    cost: JobCost = JobCost()

    @property
    def ms(self) -> int:
        """How long the job ran, in ms."""
        return self.ended_at - self.started_at

    @property
    def error(self) -> dict[str, Any] | None:
        """The data of the `execution_error` of a failed job, if it has one."""
        if self.outcome != "failed":
            return None
        messages = self.status["messages"]
        return next((data for type_, data in messages if type_ == "execution_error"), None)


# --- what admins see -----------------------------------------------------------------------

#: `waiting` jobs are with us, `sending` ones on their way, the others on the account.
Shown = Literal["waiting", "sending", "pending", "running"]
_SHOWN: Mapping[str, Shown] = {
    JobState.RECEIVED: "waiting",
    JobState.QUEUED: "waiting",
    JobState.SUBMITTED: "pending",
    JobState.RUNNING: "running",
    **dict.fromkeys(ENDS.values(), "running"),
}


def shown_state(job: Job) -> Shown:
    """Return how far a live job is, in the words of admins."""
    return _SHOWN.get(job.state, "sending")


#: Comfy Cloud, or a deployment of it with own nodes.
AccountKind: TypeAlias = Literal["cloud", "deployment"]


class AccountView(msgspec.Struct, frozen=True):
    """An account as admins see it: it runs `slots` jobs at once, `used` are there or on their way.

    `reason` is why it takes no jobs until `until` (ms), `events` whether its socket is open,
    `refused` the status with which the cloud has refused the socket. `plan` is what the account
    tells of itself. Until it is `known` how the account does, nothing may only mean that no
    job has tried it.
    """

    name: str
    slots: int
    used: int
    reason: str | None
    until: int | None
    events: bool
    refused: int | None = None
    plan: AccountPlan = AccountPlan()
    known: bool = True
    kind: AccountKind = "cloud"


class JobRecord(Struct, frozen=True):
    """A live or an ended job.

    `listed` is what a list shows of a live one, `summary` the same of an ended one, as JSON. So
    are its `graph` and `extra_data` and, once it has ended, its `result`. Clients and the cloud
    choose their size: parse them in a thread.
    """

    graph: bytes
    extra_data: bytes
    listed: dict[str, Any] = {}
    summary: bytes = b""
    result: bytes = b""

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return bool(self.result)

    @property
    def size(self) -> int:
        """The number of bytes."""
        return sum(map(len, (self.graph, self.extra_data, self.summary, self.result)))

    def outputs(self) -> dict[str, Any]:
        """Return the outputs; none of a live job."""
        return normalized(codec.loads(self.result)["outputs"]) if self.ended else {}

    def described(self) -> dict[str, Any]:
        """Return the answer of `GET /api/jobs/{id}` without the workflow."""
        if not self.ended:
            return self.listed
        summary, result = codec.loads(self.summary), codec.loads(self.result)
        outputs = {"outputs": normalized(result["outputs"]), "execution_status": result["status"]}
        return {**summary, **outputs}

    def workflow(self) -> dict[str, Any]:
        """Return what the client sent: the graph as `prompt`, and the `extra_data`."""
        return {"prompt": codec.loads(self.graph), "extra_data": codec.loads(self.extra_data)}

    def whole(self) -> dict[str, Any]:
        """Return the answer of `GET /api/jobs/{id}`."""
        return {**self.described(), "workflow": self.workflow()}
