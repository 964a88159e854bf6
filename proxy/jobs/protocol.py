"""What api and engine say to each other on the bus.

| Topic | Brings |
|---|---|
| `engine` | what the api wants: `JobReceived`, `JobReleased` and the like |
| `answers.…` | the answer to one of these |
| `jobs.MEMBER` | what becomes of a member's jobs and history |
| `events.MEMBER.CLIENT` | messages for a client, heard where its socket is (`topic_of`) |
| `events.MEMBER` | messages about jobs without a client |
| `sockets` | `SocketOpened` and the like, and `NewsMissed` |
| `logs` | `LogsWanted` |
| `terms` | `TermBegan`, `LeaseReleased` |
| `members` | `MembersChanged` |
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Literal, Self, TypeVar

import msgspec

from proxy.bus.base import BusMessage, EventBus
from proxy.jobs.models import AccountView, Job, JobKey, JobState, JobView, Number, now
from proxy.storage.jobs import StoredJob
from proxy.translate import codec, events
from proxy.translate.errors import LocalError

T = TypeVar("T")


class LiveJob(msgspec.Struct, frozen=True):
    """A job that has not ended, as lists and the queue show it; the graph is in the storage.

    The fields are those of `proxy.jobs.models.Job`; `changed_at` (ms) is when this was so.
    """

    member: str
    prompt_id: str
    order: int
    number: Number
    state: JobState
    create_time: int
    client_id: str | None = None
    workflow_id: str | None = None
    account: str = ""
    started_at: int | None = None
    outputs_to_execute: tuple[str, ...] = ()
    accepted: bool = True
    watched: bool = True
    submitter: str = ""
    reason: str | None = None
    message: str | None = None
    label: str = ""
    changed_at: int = 0

    @property
    def key(self) -> JobKey:
        """The member and the id."""
        return JobKey(self.member, self.prompt_id)


# --- the api asks --------------------------------------------------------------------------


class JobReceived(BusMessage, frozen=True):
    """api → engine: a checked job is in the storage. The answer is a `JobAnswered`.

    `found` are the node errors of a graph that can run in part. `job` is the job itself where the
    engine is in the same process, and need not read it. With `promised` the client may know of it.
    """

    key: JobKey
    order: int
    found: Any = None
    job: Any = None
    promised: bool = False

    def to_wire(self) -> Self:
        """Without the job, and with the node errors as JSON."""
        return msgspec.structs.replace(self, job=None, found=_packed(self.found))

    def from_wire(self) -> Self:
        """With the node errors."""
        return msgspec.structs.replace(self, found=_unpacked(self.found))


class JobReleased(BusMessage, frozen=True):
    """api → engine: the client has its answer. `watched` says whether it listens."""

    key: JobKey
    watched: bool


class CancelRequested(BusMessage, frozen=True):
    """api → engine: end these jobs. The `CancelAnswered` comes on `answers.{request}`."""

    request: str
    keys: tuple[JobKey, ...]


class OverviewRequested(BusMessage, frozen=True):
    """api → engine: all jobs, or a member's. The answer comes on `answers.{request}`."""

    request: str
    member: str | None


# --- the engine answers --------------------------------------------------------------------


class JobAnswered(BusMessage, frozen=True):
    """engine → api: the job was taken in, with the nodes that were left out, or refused."""

    key: JobKey
    node_errors: Any = None
    error: Any = None

    def to_wire(self) -> Self:
        """With the errors as JSON."""
        return msgspec.structs.replace(
            self, node_errors=_packed(self.node_errors), error=_packed_error(self.error)
        )

    def from_wire(self) -> Self:
        """With the errors."""
        return msgspec.structs.replace(
            self, node_errors=_unpacked(self.node_errors), error=_unpacked_error(self.error)
        )


class CancelAnswered(BusMessage, frozen=True):
    """engine → api: whether any job was cancelled by this, or why (a `LocalError`) it could not
    be."""

    cancelled: bool = False
    error: Any = None

    def to_wire(self) -> Self:
        """With the error as JSON."""
        return msgspec.structs.replace(self, error=_packed_error(self.error))

    def from_wire(self) -> Self:
        """With the error."""
        return msgspec.structs.replace(self, error=_unpacked_error(self.error))


class OverviewAnswered(BusMessage, frozen=True):
    """engine → api: what runs first, then what waits in the order of turns; and the accounts."""

    jobs: tuple[JobView, ...]
    accounts: tuple[AccountView, ...]


# --- the engine tells ----------------------------------------------------------------------


class JobChanged(BusMessage, frozen=True):
    """engine → api: a job is in the queue in this state."""

    job: LiveJob


class JobLeft(BusMessage, frozen=True):
    """engine → api: a job is in the queue no more."""

    job: LiveJob


class JobsAhead(BusMessage, frozen=True):
    """engine → api: this many jobs of others go before the member's last waiting one.

    With `tell` the member's sockets hear how many jobs are left.
    """

    member: str
    count: int
    tell: bool = False


class QueueChanged(BusMessage, frozen=True):
    """api → api: a client has its answer, and the member's sockets hear how many jobs are left."""

    member: str


class HistoryChanged(BusMessage, frozen=True):
    """This entry of the history is another one now, and the oldest are `forgotten` with their
    files."""

    member: str
    prompt_id: str
    forgotten: tuple[str, ...] = ()


class HistoryForgotten(BusMessage, frozen=True):
    """A client has deleted entries of its history, all without `prompt_ids`."""

    member: str
    prompt_ids: tuple[str, ...] | None


class JobMessage(BusMessage, frozen=True):
    """engine → api: a message (of `proxy.translate.events`) for the client of a job, which has
    the `order`."""

    member: str
    client_id: str | None
    prompt_id: str
    watched: bool
    message: Any
    order: int = 0

    def to_wire(self) -> Self:
        """With the message as a tuple."""
        return msgspec.structs.replace(self, message=events.packed(self.message))

    def from_wire(self) -> Self:
        """With the message."""
        return msgspec.structs.replace(self, message=events.unpacked(self.message))


class NodeRuns(BusMessage, frozen=True):
    """engine → api: the messages about the running job to a client whose `socket` has just
    opened."""

    member: str
    client_id: str
    socket: str
    node: str


# --- the replicas tell each other ----------------------------------------------------------


class SocketOpened(BusMessage, frozen=True):
    """A client has opened a socket, which has its messages from now on; `at` is ms since 1970."""

    member: str
    client_id: str
    socket: str
    at: int


class SocketKnown(BusMessage, frozen=True):
    """A client has this socket since `at` (ms since 1970); `several` says that it tells the
    messages of several jobs apart."""

    member: str
    client_id: str
    socket: str
    at: int
    several: bool


class SocketClosed(BusMessage, frozen=True):
    """The client's socket is closed."""

    member: str
    client_id: str
    socket: str


class LogsWanted(BusMessage, frozen=True):
    """A client wants to hear the log lines about its member, or no more."""

    member: str
    client_id: str
    wanted: bool


class NewsMissed(BusMessage, frozen=True):
    """A replica has started or lost messages: tell again what no storage knows."""


class TermBegan(BusMessage, frozen=True):
    """An engine runs the jobs now, which has read them from the storage."""

    epoch: int


class MembersChanged(BusMessage, frozen=True):
    """Members, tokens or sessions are others."""


class LeaseReleased(BusMessage, frozen=True):
    """No engine runs the jobs; anyone who can may take the lease."""


def topic_of(member: str, client_id: str | None) -> str:
    """Where messages about jobs of a client are brought, or of jobs without one."""
    if client_id is None:
        return f"events.{member}"
    # A client's id may have any characters and any length.
    digest = blake2b(client_id.encode(errors="surrogatepass"), digest_size=16)
    return f"events.{member}.{digest.hexdigest()}"


@contextmanager
def hearing(bus: EventBus, topic: str, kind: type[T]) -> Iterator[asyncio.Future[T]]:
    """What the engine answers on `topic`."""
    answered: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def hear(said: object) -> None:
        if isinstance(said, kind) and not answered.done():
            answered.set_result(said)

    with bus.subscribe(topic, hear):
        yield answered


def _packed(value: Any) -> str | None:
    """JSON, which numbers of any size fit into."""
    return None if value is None else codec.dumps(value)


def _unpacked(text: str | None) -> Any:
    return None if text is None else codec.loads(text)


def _packed_error(error: LocalError | None) -> str | None:
    return None if error is None else codec.dumps(error.fields())


def _unpacked_error(text: str | None) -> LocalError | None:
    return None if text is None else LocalError(**codec.loads(text))


def live_of(job: Job) -> LiveJob:
    """A job of the engine as lists show it."""
    return LiveJob(
        member=job.member,
        prompt_id=job.prompt_id,
        order=job.order,
        number=job.number,
        state=job.state,
        create_time=job.create_time,
        client_id=job.client_id,
        workflow_id=job.workflow_id,
        account=job.account,
        started_at=job.started_at,
        outputs_to_execute=tuple(job.outputs_to_execute),
        accepted=job.accepted,
        watched=job.watched,
        submitter=job.submitter,
        reason=job.reason,
        message=job.message,
        label=job.label,
        changed_at=now(),
    )


def view_of(job: LiveJob) -> JobView:
    """A live job as admins see it."""
    return JobView(
        member=job.member,
        prompt_id=job.prompt_id,
        number=job.number,
        state=_SHOWN.get(job.state, "sending"),
        create_time=job.create_time,
        account=job.account or None,
        started_at=job.started_at,
        reason=job.reason,
        label=job.label,
    )


_SHOWN: Mapping[JobState, Literal["waiting", "sending", "pending", "running"]] = {
    JobState.RECEIVED: "waiting",
    JobState.QUEUED: "waiting",
    JobState.SUBMITTED: "pending",
    JobState.RUNNING: "running",
}


def live_of_stored(stored: StoredJob) -> LiveJob:
    """A stored job as lists show it. Raises `ValueError` if it cannot be read."""
    return LiveJob(
        member=stored.member,
        prompt_id=stored.id,
        order=stored.key,
        number=stored.number,
        state=JobState(stored.state),
        create_time=stored.created_at,
        client_id=stored.client_id,
        workflow_id=stored.workflow_id,
        account=stored.account,
        started_at=stored.started_at,
        outputs_to_execute=tuple(stored.outputs_to_execute),
        accepted=stored.accepted,
        watched=stored.watched,
        submitter=stored.submitter,
        label=stored.label,
        changed_at=stored.changed_at,
    )
