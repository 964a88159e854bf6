"""The messages between api and engine, and between replicas.

| Topic of the bus | Brings |
|---|---|
| `engine` | what the api asks of an engine elsewhere: `JobReceived`, `JobReleased` and the like |
| `answers.…` | the answer to one of these; that to `JobReceived` comes on `jobs` |
| `jobs` | what becomes of jobs, between replicas: `JobNews`, `JobsMissed` |
| `history` | `HistoryChanged` |
| `events.MEMBER.CLIENT` | messages for a client, delivered where its socket is (`topic_of`) |
| `events.MEMBER` | messages about jobs without a client, between replicas |
| `sockets` | `SocketKnown`, `SocketClosed` and `NewsMissed` |
| `logs` | `LogsWanted` |
| `terms` | `LeaseReleased` and `EngineOffered` |
| `members` | `MembersChanged` |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeAlias, TypedDict

import msgspec

from proxy.bus import BusMessage
from proxy.jobs.models import AccountView, JobProgress
from proxy.storage.job_tables import JobKey, StoredJob
from proxy.translate import codec, events
from proxy.translate.errors import LocalError


class NodeRun(TypedDict):
    """How far a node is: `value` of `max` steps."""

    state: str
    value: float | int
    max: float | int
    began: int | None
    ran: float | int | None


class RunFound(TypedDict):
    """How far a running job is: `progress` from 0 to 1, `remaining` in ms, and the `node` that
    runs; all is null of one that does not run."""

    progress: float | None
    remaining: int | None
    node: str | None
    nodes: dict[str, NodeRun]


if TYPE_CHECKING:
    PackedError: TypeAlias = LocalError
    PackedErrors: TypeAlias = Mapping[str, Any]
    PackedRun: TypeAlias = RunFound
    PackedMessage: TypeAlias = events.Message
else:  # of these msgspec decodes what `to_wire` has made
    PackedError = PackedErrors = PackedRun = PackedMessage = Any


class _PackedMessage(BusMessage, frozen=True):
    """A message with fields for which MessagePack has no form: those of `_PACKED`."""

    def to_wire(self) -> Self:
        """Return the message with these fields in types of MessagePack."""
        return self._with(0)

    def from_wire(self) -> Self:
        """Return the message that `to_wire` was called on."""
        return self._with(1)

    def _with(self, way: int) -> Self:
        fields = {
            name: _PACKED[name][way](value)
            for name in _packed_fields(type(self))
            if (value := getattr(self, name)) is not None
        }
        return msgspec.structs.replace(self, **fields)


@cache
def _packed_fields(kind: type[_PackedMessage]) -> tuple[str, ...]:
    return tuple(name for name in kind.__struct_fields__ if name in _PACKED)


#: For fields by their names: what they are on the wire, and back. JSON has numbers of any size.
_PACKED: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "found": (codec.dumps, codec.loads),
    "node_errors": (codec.dumps, codec.loads),
    "error": (
        lambda error: codec.dumps(error.fields()),
        lambda text: LocalError(**codec.loads(text)),
    ),
    "message": (events.packed, events.unpacked),
}


# --- the api asks ------------------------------------------------------------------------


class JobReceived(BusMessage, frozen=True):
    """api → engine: a checked job is in the storage. The answer is a `JobAnswered`.

    With `promised` the client may know of it.
    """

    key: JobKey
    order: int
    promised: bool = False


class JobReleased(BusMessage, frozen=True):
    """api → engine: the client has its answer. `watched` says whether it listens."""

    key: JobKey
    watched: bool


class CancelRequested(BusMessage, frozen=True):
    """api → engine: end these jobs. The `CancelAnswered` comes on `answers.{request}`.

    With `interrupt` they end as interrupted runs, also those that have not begun; else what has not
    begun leaves no trace. With `cleared` the sockets hear once how many jobs are left.
    """

    request: str
    keys: tuple[JobKey, ...]
    interrupt: bool = False
    cleared: bool = False


class StepsReceived(NamedTuple):
    """How much of a live job a replica has received: the last step and the epoch that it is of."""

    key: JobKey
    order: int
    epoch: int
    number: int


class StepsMissed(BusMessage, frozen=True):
    """api → engine: publish the steps after these again, if there are any."""

    received: tuple[StepsReceived, ...]


class OverviewRequested(BusMessage, frozen=True):
    """api → engine: all jobs, or a member's. The answer comes on `answers.{request}`."""

    request: str
    member: str | None


class RunRequested(BusMessage, frozen=True):
    """api → engine: how far a job is, with its nodes and its last preview. The answer comes on
    `answers.{request}`, with the picture itself if that is wanted."""

    request: str
    key: JobKey
    picture: bool = False


# --- the engine answers ------------------------------------------------------------------


class JobAnswered(_PackedMessage, frozen=True):
    """engine → api: the job was taken in, without the nodes that the cloud found wrong, or it was
    refused."""

    key: JobKey
    node_errors: PackedErrors | None = None
    error: PackedError | None = None


class CancelAnswered(_PackedMessage, frozen=True):
    """engine → api: whether any job was cancelled by this, or why (a `LocalError`) it could not
    be."""

    cancelled: bool = False
    error: PackedError | None = None


class OverviewAnswered(BusMessage, frozen=True):
    """engine → api: what runs first, then what waits in the order of turns; and the accounts.

    Of many that wait the first are described; `waiting` is how many there are of each member, and
    `held` how many of all wait for an admin.
    """

    jobs: tuple[JobChanged, ...]
    accounts: tuple[AccountView, ...]
    waiting: Mapping[str, int] = {}
    held: int = 0


class RunAnswered(_PackedMessage, frozen=True):
    """engine → api: how far a job is, `None` for one that does not run.

    `preview` names the last one: another preview has another name. `image` is of the media type
    `image_type`, empty if it was not asked for.
    """

    found: PackedRun | None
    preview: str = ""
    image: bytes = b""
    image_type: str = ""


# --- the engine tells --------------------------------------------------------------------


class JobChanged(BusMessage, frozen=True):
    """engine → api: a job is in the queue in the state of this row, which is its own now.

    With `tell` the member's sockets hear how many jobs are left.
    """

    job: StoredJob
    progress: JobProgress = JobProgress()
    tell: bool = False


class JobLeft(BusMessage, frozen=True):
    """engine → api: a job is no longer in the queue. With `more` others leave with it, and the last
    one tells how many are left. One that is `withdrawn` leaves no trace: no end of it is told.

    A replica that has read an end which the engine may never publish publishes it as well, so that
    no other replica shows the job once a client has heard of the end.
    """

    key: JobKey
    order: int
    more: bool = False
    withdrawn: bool = False


class JobsMissed(BusMessage, frozen=True):
    """engine → api: an engine has taken the jobs over; read them, for the bus may not bring what
    became of some."""


class JobsAhead(BusMessage, frozen=True):
    """engine → api: this many jobs of others go before the member's last waiting one.

    With `tell` the member's sockets hear how many jobs are left.
    """

    member: str
    count: int
    tell: bool = False


class JobRecorded(BusMessage, frozen=True):
    """engine → api: a job is in the history, and the oldest entries are `forgotten` with their
    files. `ordinal` counts the ends of the member, 0 where that is not known."""

    key: JobKey
    order: int
    client_id: str | None
    ordinal: int
    forgotten: tuple[str, ...] = ()


class HistoryChanged(BusMessage, frozen=True):
    """api → api: these entries of the history are gone, all without `prompt_ids`."""

    member: str
    prompt_ids: tuple[str, ...] | None


class JobMessage(_PackedMessage, frozen=True):
    """engine → api: a message (of `proxy.translate.events`) for the client of a job.

    `watched` says whether this client listened when it had submitted the job. Between replicas
    `epoch`, `number` and the name of the `step` are the position of the message among those of the
    job (see `proxy.jobs.message_order`). A step that the engine could not keep has no message when
    it is repeated.
    """

    key: JobKey
    order: int
    client_id: str | None
    watched: bool
    message: PackedMessage
    epoch: int = 0
    number: int = 0
    step: str | None = None


class ClientMessage(_PackedMessage, frozen=True):
    """A message for a client beside those of its jobs; for this `socket` of it alone, if given."""

    member: str
    client_id: str
    message: PackedMessage
    socket: str | None = None


#: What the engine tells of jobs, in the order in which it happens.
JobNews: TypeAlias = (
    JobAnswered | JobChanged | JobsAhead | JobRecorded | JobLeft | JobMessage | ClientMessage
)


class JobListener(Protocol):
    """Who hears what becomes of jobs: the api's half of this process, or those of all replicas."""

    def hear(self, news: JobNews) -> None:
        """Take news of a job, without waiting and without failing."""


# --- the replicas tell each other --------------------------------------------------------


class SocketKnown(BusMessage, frozen=True):
    """A client has this socket since `at` (ms since 1970), and its messages; `several` says that it
    tells the messages of several jobs apart, `opens` that this is now."""

    member: str
    client_id: str
    socket: str
    at: int
    several: bool = False
    opens: bool = False


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


class MembersChanged(BusMessage, frozen=True):
    """Members, tokens or sessions are others."""


class LeaseReleased(BusMessage, frozen=True):
    """No engine runs the jobs; anyone who can may take the lease."""


class EngineOffered(BusMessage, frozen=True):
    """The engine cannot reach the cloud; a replica that can may ask for the lease."""


#: Characters of a client's id whose topic is remembered: those of a UUID, and some more.
_USUAL = 64


def topic_of(member: str, client_id: str | None) -> str:
    """Return the topic of messages about jobs of a client, or of jobs without one."""
    if client_id is None:
        return f"events.{member}"
    if len(client_id) <= _USUAL:
        return _remembered_topic(member, client_id)
    return _topic(member, client_id)


def _topic(member: str, client_id: str) -> str:
    # A client's id may have any characters and any length.
    digest = blake2b(client_id.encode(errors="surrogatepass"), digest_size=16)
    return f"events.{member}.{digest.hexdigest()}"


_remembered_topic = lru_cache(maxsize=1024)(_topic)
