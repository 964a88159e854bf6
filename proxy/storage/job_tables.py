"""The rows of jobs: live ones, what was sent for them, and those that have ended."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Table,
    UniqueConstraint,
    text,
)

from proxy.storage.tables import KEY, AnyText, PlainText, metadata, table_of

#: The number of a job: a client's may be of any size.
Number: TypeAlias = int | float


class JobKey(NamedTuple):
    """What clients know a job by: ids are a member's own."""

    member: str
    prompt_id: str


class StoredJob(Struct, frozen=True):
    """The row of a job that has not ended. Times are in ms since 1970.

    `order` counts all jobs as they arrive; 0 before the job is inserted. `state` is a `JobState`.
    `account` is empty while the job waits here, `cloud_id` until the cloud has answered.
    `outputs_to_execute` are the output nodes that run, `accepted` says that the client may know of
    the job, `watched` that it listened when it had submitted it. `submitter` is a digest of what
    tells programs apart, `token` the id of the token that the job was sent with, if any, `trace`
    the `traceparent` of its request, or empty; a job that is `one_at_a_time` waits for others of
    its client. Of a job that is to end, `cancel_requested` says that it leaves no trace if it has
    not begun, `interrupted` that it ends as an interrupted run.
    `charge` is what the turn has cost the member, `label` the name of the job for people,
    `estimate` its expected cost in millionths of a credit, 0 for a member without budgets: that of
    its `partner_nodes`, and that of its running time, which follows earlier runs of graphs of its
    `shape`. `ceiling` is what it may cost at most since it was sent under a hard budget.
    """

    member: str
    prompt_id: str
    state: PlainText
    number: Number
    created_at: int
    order: int = 0
    client_id: str | None = None
    workflow_id: str | None = None
    account: str = ""
    cloud_id: str = ""
    started_at: int | None = None
    outputs_to_execute: tuple[str, ...] = ()
    watched: bool = True
    accepted: bool = True
    one_at_a_time: bool = False
    submitter: PlainText = ""
    token: PlainText = ""
    trace: PlainText = ""
    cancel_requested: bool = False
    interrupted: bool = False
    charge: float = 0.0
    label: str = ""
    estimate: int = 0
    shape: PlainText = ""
    partner_nodes: int = 0
    ceiling: int = 0

    @property
    def key(self) -> JobKey:
        """The member and the id."""
        return JobKey(self.member, self.prompt_id)


#: Jobs that have not ended. An `order` is never used again.
jobs = table_of(
    StoredJob,
    "jobs",
    Column("order", KEY, primary_key=True, autoincrement=True),
    UniqueConstraint("member", "prompt_id"),
    Index("ix_jobs_cloud_id", "cloud_id"),
    Index("ix_jobs_member_estimate", "member", "estimate"),
    sqlite_autoincrement=True,
)

#: The number that a member's next job gets, how many jobs of the member have ended, and the bytes
#: of the payloads of all that are stored.
job_numbers = Table(
    "job_numbers",
    metadata,
    Column("member", AnyText, primary_key=True),
    Column("next", BigInteger, nullable=False, server_default=text("0")),
    Column("ended", BigInteger, nullable=False, server_default=text("0")),
    Column("payload_bytes", BigInteger, nullable=False, server_default=text("0")),
)


class HistoryRow(Struct, frozen=True):
    """A job that has ended; times are in ms since 1970, bytes are JSON.

    `order` is that of the job. The storage gives `sequence`, the place in the member's history.
    `summary` is what lists show, `result` an object of outputs, status and `meta`, `details` one of
    what the dashboard shows beside, `node_times` one of when each node began and how long it ran
    (ms).
    """

    order: int
    member: str
    prompt_id: str
    state: PlainText
    number: Number
    created_at: int
    started_at: int
    ended_at: int
    outputs_to_execute: tuple[str, ...]
    summary: bytes
    result: bytes = b""
    details: bytes = b"{}"
    node_times: bytes = b"{}"
    label: str = ""
    workflow_id: str | None = None
    client_id: str | None = None
    cloud_id: str = ""
    sequence: int = 0


class HistoryEntry(HistoryRow, frozen=True):
    """A job that has ended, with the `graph` and the `extra_data` of its `Payload`. Searches, whose
    entries are many, leave out these, `result` and `node_times`."""

    graph: bytes = b""
    extra_data: bytes = b""


history = table_of(
    HistoryRow,
    "history",
    Column("order", KEY, primary_key=True, autoincrement=False),
    UniqueConstraint("member", "prompt_id"),
    Index("ix_history_member_sequence", "member", "sequence", unique=True),
    Index(
        "ix_history_listed",
        "member",
        "created_at",
        "state",
        "workflow_id",
        "started_at",
        "ended_at",
        "sequence",
    ),
    Index("ix_history_cloud_id", "cloud_id"),
    Index("ix_history_searched", "ended_at", "member", "label", "prompt_id"),
    Index("ix_history_member_ended_at", "member", "ended_at"),
    Index("ix_history_state_ended_at", "state", "ended_at"),
)
