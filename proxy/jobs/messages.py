"""What the engine tells of jobs, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, TypedDict

from msgspec import Struct

from proxy.jobs.models import AccountView, JobProgress
from proxy.storage.job_tables import JobKey, StoredJob
from proxy.translate.errors import LocalError
from proxy.translate.events import Message


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


# --- answers -----------------------------------------------------------------------------


class OverviewAnswered(Struct, frozen=True):
    """What runs first, then what waits in the order of turns; and the accounts.

    Of many that wait the first are described; `waiting` is how many there are of each member, and
    `held` how many of all wait for an admin.
    """

    jobs: tuple[JobChanged, ...]
    accounts: tuple[AccountView, ...]
    waiting: Mapping[str, int] = {}
    held: int = 0


class RunAnswered(Struct, frozen=True):
    """How far a job is, `None` for one that does not run.

    `preview` names the last one: another preview has another name. `image` is of the media type
    `image_type`, empty if it was not asked for.
    """

    found: RunFound | None
    preview: str = ""
    image: bytes = b""
    image_type: str = ""


# --- news --------------------------------------------------------------------------------


class JobAnswered(Struct, frozen=True):
    """A job was taken in, without the nodes that the cloud found wrong, or it was refused."""

    key: JobKey
    node_errors: Mapping[str, Any] | None = None
    error: LocalError | None = None


class JobChanged(Struct, frozen=True):
    """A job is in the queue in the state of this row, which is its own now.

    With `tell` the member's sockets hear how many jobs are left.
    """

    job: StoredJob
    progress: JobProgress = JobProgress()
    tell: bool = False


class JobLeft(Struct, frozen=True):
    """A job is no longer in the queue. With `more` others leave with it, and the last one tells how
    many are left."""

    key: JobKey
    order: int
    more: bool = False


class JobsAhead(Struct, frozen=True):
    """This many jobs of others go before the member's last waiting one.

    With `tell` the member's sockets hear how many jobs are left.
    """

    member: str
    count: int
    tell: bool = False


class JobRecorded(Struct, frozen=True):
    """A job is in the history, and the oldest entries are `forgotten` with their files."""

    key: JobKey
    forgotten: tuple[str, ...] = ()


class JobMessage(Struct, frozen=True):
    """A message (of `proxy.translate.events`) for the client of a job.

    `watched` says whether this client listened when it had submitted the job.
    """

    key: JobKey
    client_id: str | None
    watched: bool
    message: Message


#: What the engine tells of jobs, in the order in which it happens.
JobNews: TypeAlias = JobAnswered | JobChanged | JobsAhead | JobRecorded | JobLeft | JobMessage


class JobListener(Protocol):
    """Who hears what becomes of jobs."""

    def hear(self, news: JobNews) -> None:
        """Take news of a job, without waiting and without failing."""
