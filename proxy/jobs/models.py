"""What the rooms know of a job: its state, its request, and the messages between api and engine.

A job has exactly one state (`JobState`); `Job.to` is the only way to another one, and it allows
what `TRANSITIONS` has. What the engine keeps of a live job hangs on its one `Job`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from proxy.cloud.resilience import Backoff
from proxy.members.member import Parallelism
from proxy.translate.codec import CREDENTIAL_KEYS, without_credentials
from proxy.translate.graph import label_of
from proxy.translate.snapshot import Snapshot

if TYPE_CHECKING:
    from proxy.jobs.runner import Runner
    from proxy.translate.helpers.rewriting import Rewriting

Number: TypeAlias = int | float
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


_ENDS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

#: Which states may follow a state.
TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.RECEIVED: frozenset(
        {JobState.QUEUED, JobState.SUBMITTING, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.QUEUED: frozenset({JobState.SUBMITTING, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUBMITTING: frozenset(
        {
            JobState.QUEUED,
            JobState.UNKNOWN,
            JobState.SUBMITTED,
            JobState.FAILED,
            JobState.CANCELLED,
        }
    ),
    JobState.UNKNOWN: frozenset(
        {JobState.QUEUED, JobState.SUBMITTED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.SUBMITTED: frozenset({JobState.RUNNING, *_ENDS}),
    JobState.RUNNING: _ENDS,
    **{end: frozenset() for end in _ENDS},
}

#: What each state means; `docs/how-it-works.md` has the same table.
MEANING: Mapping[JobState, str] = {
    JobState.RECEIVED: "The request is checked; the client has no answer yet.",
    JobState.QUEUED: "The job waits in the proxy for its turn and a free slot.",
    JobState.SUBMITTING: "The proxy is sending the files of the job and the job to the account.",
    JobState.UNKNOWN: "The answer to the submission was lost. The proxy looks for the job on the "
    "account before it sends anything again.",
    JobState.SUBMITTED: "The cloud has the job and has not started it.",
    JobState.RUNNING: "The cloud runs the job.",
    JobState.SUCCEEDED: "The job is in the history with its outputs.",
    JobState.FAILED: "The job is in the history with its error.",
    JobState.CANCELLED: "The job was interrupted, or deleted from the queue.",
}


def states_table() -> list[str]:
    """The states in Markdown, as the documents have them."""
    rows = ["| State | Meaning | May become |", "|---|---|---|"]
    for state in JobState:
        order = [f"`{one}`" for one in JobState if one in TRANSITIONS[state]]
        rows.append(f"| `{state}` | {MEANING[state]} | {', '.join(order) or 'nothing'} |")
    return rows


ENDS: Mapping[Outcome, JobState] = {
    "completed": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
    "cancelled": JobState.CANCELLED,
}
#: What the value of an end is called for clients.
OUTCOMES: Mapping[str, Outcome] = {state.value: outcome for outcome, state in ENDS.items()}


class TransitionError(Exception):
    """A job was to take a state that cannot follow its own."""


class JobKey(NamedTuple):
    """What a job is found by: ids are a member's own."""

    member: str
    prompt_id: str


@dataclass(slots=True, eq=False)
class Job:
    """A job that has not ended. Times are ms since 1970.

    `graph` and `extra_data` are what the client sent, credentials removed; those are in
    `credentials`. `order` counts all jobs as they came, 0 before the job is stored. `account` is
    empty while the job waits, `cloud_id` until the cloud has answered the submission. `accepted`
    says that the client may know of the job, `cancel_requested` that it wants it no more though
    it may be on the cloud, `watched` whether it had a socket when it had submitted the job.
    `charge` is what the job has cost the member's share. `one_at_a_time` says that the job
    waits for others of its client, `submitter` which program sent it, if that is known, `label`
    what people call it. `rewriting` is what the cloud runs where the graph has helper nodes.

    In memory alone: `answered` says that the client has its answer, so that messages may flow;
    `reason` and `message` why the job cannot continue, in a word and in a sentence; `over` that the
    cloud has reported the end; `stored` is false once a write has not found it.
    """

    prompt_id: str
    member: str
    number: Number
    graph: dict[str, Any]
    extra_data: dict[str, Any]
    targets: list[str] | None
    client_id: str | None
    create_time: int
    order: int = 0
    outputs_to_execute: list[str] = field(default_factory=list)
    state: JobState = JobState.RECEIVED
    account: str = ""
    cloud_id: str = ""
    started_at: int | None = None
    watched: bool = True
    accepted: bool = False
    cancel_requested: bool = False
    charge: float = 0.0
    one_at_a_time: bool = False
    submitter: str = ""
    label: str = ""
    credentials: dict[str, Any] = field(default_factory=dict, repr=False)
    rewriting: Rewriting | None = field(default=None, repr=False)
    answered: bool = True
    over: bool = False
    stored: bool = True
    reason: str | None = None
    message: str | None = None
    runner: Runner | None = field(default=None, repr=False)

    @property
    def key(self) -> JobKey:
        """The member and the id."""
        return JobKey(self.member, self.prompt_id)

    @property
    def mark(self) -> str:
        """What the job carries in its `extra_data` on the cloud, to be found again."""
        return f"{self.member}/{self.prompt_id}/{self.create_time}"

    @property
    def workflow_id(self) -> str | None:
        """`extra_data.extra_pnginfo.workflow.id`, if the client sent a workflow that has one."""
        value: Any = self.extra_data
        for key in ("extra_pnginfo", "workflow", "id"):
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, str) else None

    @property
    def wants_previews(self) -> bool:
        """Whether the client did not turn them off, as the web interface can for each job."""
        return self.extra_data.get("preview_method") != "none"

    def to(self, state: JobState) -> None:
        """Take the next state. Raises `TransitionError` if it may not follow this one."""
        if state not in TRANSITIONS[self.state]:
            raise TransitionError(f"{self.prompt_id}: {self.state} cannot become {state}")
        self.state = state


def new_job(member: str, request: JobRequest, *, prompt_id: str) -> Job:
    """A job for a request that came just now; the storage numbers it, unless the client has."""
    created = now()
    return Job(
        prompt_id=prompt_id,
        member=member,
        number=0 if request.number is None else request.number,
        graph=request.graph,
        extra_data={**without_credentials(request.extra_data), "create_time": created},
        targets=request.targets,
        client_id=request.client_id,
        create_time=created,
        credentials={
            key: value for key, value in request.extra_data.items() if key in CREDENTIAL_KEYS
        },
        answered=False,
        submitter=request.submitter,
        label=label_of(request.graph, request.extra_data),
    )


def now() -> int:
    """The time in ms since 1970."""
    return time.time_ns() // 1_000_000


# --- requests and answers ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A checked `POST /prompt`. `extra_data` is the client's; `number` wins over `front`.

    `submitter` tells the program that asks from others, `""` where it is not known.
    """

    graph: dict[str, Any]
    client_id: str | None = None
    prompt_id: str | None = None
    number: float | None = None
    front: bool = False
    extra_data: dict[str, Any] = field(default_factory=dict)
    targets: list[str] | None = None
    submitter: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to `POST /prompt`."""

    prompt_id: str
    number: Number
    node_errors: dict[str, Any]


@dataclass(frozen=True, slots=True)
class JobView:
    """A live job as admins see it. Times are ms since 1970.

    `waiting` jobs are with us, `sending` ones on their way, `pending` and `running` ones on the
    `account`. A waiting one has `before` it this many jobs of anyone. `reason` is why it does not
    continue: `turn`, `slot`, `client` (another job of its client has a slot), `limit` (the member's
    own), `disabled` (the member), `no_account`, or what
    the account suffers (`no_credits`, `dead_key`, `queue_limit`, `rate_limited`,
    `unreachable`). `progress` of a running job is from 0 to 1, `node` the one that runs. `label` is
    what people call the job.
    """

    member: str
    prompt_id: str
    number: Number
    state: Literal["waiting", "sending", "pending", "running"]
    create_time: int
    account: str | None = None
    started_at: int | None = None
    before: int | None = None
    reason: str | None = None
    progress: float | None = None
    node: str | None = None
    node_type: str | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account as admins see it: it runs `slots` jobs at once, `used` are there or on their way.

    `reason` is why it takes no jobs until `until` (ms), `events` whether its socket is open.
    """

    name: str
    slots: int
    used: int
    reason: str | None
    until: int | None
    events: bool


# --- settings ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DetailTimeouts:
    """How long to wait between readings of a job's detail, and when to stop (seconds).

    `settle` bounds the wait for the outputs of a completed job, `settle_stopped` the wait for the
    end time of a failed or cancelled one, `lost` that for a job which the cloud does not know.
    """

    first: float = 0.05
    most: float = 2.0
    settle: float = 30.0
    settle_stopped: float = 6.0
    lost: float = 60.0

    def settle_for(self, snapshot: Snapshot) -> float:
        """How long an ended job may lack what its detail should have."""
        return self.settle if snapshot.status == "completed" else self.settle_stopped

    def growing(self) -> Iterable[float]:
        """0, then `first` and ever longer up to `most`."""
        yield 0.0
        backoff = Backoff(self.first, self.most, factor=1.7)
        yield from map(backoff.whole, itertools.count(1))


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of the jobs room. Times are seconds; `history_size` counts entries a member.

    Partner nodes are lent the key of the account that runs them if `send_partner_key`. `fair_by`
    says what a turn costs, `client_parallelism` how many jobs of one client run at once. A job that
    no account can take ends after `unable_timeout`, one on an
    account that can no longer be read after `lost_timeout`; 0 lets it wait for ever.
    """

    send_partner_key: bool = True
    history_size: int = 10_000
    submit_patience: float = 30.0
    adoption_patience: float = 15.0
    unable_timeout: float = 60.0
    lost_timeout: float = 3600.0
    status_interval: float = 5.0
    detail: DetailTimeouts = field(default_factory=DetailTimeouts)
    connected_wait: float = 10.0
    lost_wait: float = 1.5
    fair_by: FairBy = "jobs"
    client_parallelism: Parallelism = "auto"
