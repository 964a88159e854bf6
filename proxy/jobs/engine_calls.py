"""What is asked of the engine, and what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias, TypedDict, TypeVar

from msgspec import Struct

from proxy.jobs.models import AccountView, Job
from proxy.storage.database import StorageError
from proxy.storage.job_tables import JobKey
from proxy.translate.errors import LocalError

#: What a submission comes to: the nodes that the cloud found wrong, or why the job is refused.
Submitted: TypeAlias = Mapping[str, Any] | LocalError

_TakenJob = TypeVar("_TakenJob", bound=Job, contravariant=True)


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


class JobSeen(Struct, frozen=True):
    """A live job as admins see it.

    A waiting one has `before` it this many jobs of anyone, and a `reason`; a running one has done a
    `share` from 0 to 1, will run for `remaining` ms, as earlier runs of the same graph say, and
    `node` is the one that runs.
    """

    job: Job
    reason: str | None = None
    before: int = 0
    share: float | None = None
    remaining: int | None = None
    node: str | None = None
    node_type: str | None = None


class OverviewAnswered(Struct, frozen=True):
    """What runs first, then what waits in the order of turns; and the accounts.

    Of many that wait the first are described; `waiting` is how many there are of each member, and
    `held` how many of all wait for an admin.
    """

    jobs: tuple[JobSeen, ...]
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


class RunningEngine(Protocol[_TakenJob]):
    """The engine that runs the jobs."""

    def submit(self, job: _TakenJob) -> asyncio.Future[Submitted]:
        """Take in a checked job, which is in the storage; the result is what its client is told."""

    def release(self, key: JobKey, *, watched: bool) -> None:
        """Let a job's messages flow: its client has the answer, and a socket if `watched`."""

    def cancel(
        self, keys: Iterable[JobKey], *, interrupt: bool = False, cleared: bool = False
    ) -> asyncio.Task[bool | LocalError | StorageError]:
        """End jobs, also if nobody waits for that any more; the result is whether any was by this,
        or why not: a `StorageError` if what is to be promised cannot be written.

        With `interrupt` they end as interrupted runs, also those that have not begun; else what has
        not begun leaves no trace. With `cleared` the sockets hear once how many jobs are left.
        """

    def overview(self, member: str | None) -> OverviewAnswered:
        """Return all live jobs, or those of one member, and the accounts."""

    def run(self, key: JobKey, *, with_preview: bool) -> RunAnswered:
        """Return how far a job is, `with_preview` with its last preview."""

    def running_node(self, member: str, client_id: str) -> str | None:
        """Return the node of a client that runs, if one does."""

    def account_views(self) -> tuple[AccountView, ...]:
        """Return the accounts as they are now."""

    async def stop(self) -> None:
        """Change no job any more; the jobs continue on the cloud. Each end that is stored has been
        told."""
