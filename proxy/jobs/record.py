"""What is kept of a job, in memory and in the store."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from proxy.translate import codec

Number: TypeAlias = int | float
Outcome = Literal["completed", "failed", "cancelled"]


@dataclass(slots=True)
class JobRecord:
    """A job that has not ended. Times are ms since 1970.

    `graph` and `extra_data` are what the client sent, credentials removed. `account` is empty while
    the job waits with us, `cloud_id` until the cloud has answered the submission. `order` counts
    all jobs as they came. `accepted` says that the client may know of the job, `cancelled` that it
    wants it no more though it may be on the cloud, `watched` whether it had a socket when it had
    submitted the job. `charge` is what the turn has cost the member. `one_at_a_time` says that the
    job waits for others of its client, `submitter` which program sent it, if that is known.
    """

    prompt_id: str
    member: str
    number: Number
    graph: dict[str, Any]
    extra_data: dict[str, Any]
    targets: list[str] | None
    client_id: str | None
    create_time: int
    outputs_to_execute: list[str] = field(default_factory=list)
    cloud_id: str = ""
    started_at: int | None = None
    watched: bool = True
    account: str = ""
    order: int = 0
    accepted: bool = False
    cancelled: bool = False
    charge: float = 0.0
    one_at_a_time: bool = False
    submitter: str = ""

    @property
    def key(self) -> str:
        """The key in the store."""
        return store_key(self.member, self.prompt_id)

    @staticmethod
    def key_of(member: str, prompt_id: str) -> str:
        """The key of a job in the store."""
        return store_key(member, prompt_id)

    @property
    def waits(self) -> bool:
        """Whether the job is accepted and has not gone to an account."""
        return self.accepted and not self.account and not self.cloud_id

    @property
    def wants_previews(self) -> bool:
        """Whether the client did not turn them off, as the web interface can for each job."""
        return self.extra_data.get("preview_method") != "none"

    def queue_item(self) -> list[Any]:
        """`[number, prompt_id, prompt, extra_data, outputs_to_execute]`, as `/queue` shows it."""
        return [
            self.number,
            self.prompt_id,
            self.graph,
            self.extra_data,
            self.outputs_to_execute,
        ]

    def to_bytes(self) -> bytes:
        """The record as it is stored."""
        return codec.dump_bytes({each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> JobRecord:
        """Read a stored record; raises `ValueError` or `TypeError` if it is not one."""
        return cls(**codec.loads(data))


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that has ended: what lists need as values, the whole history entry ready to send."""

    prompt_id: str
    member: str
    cloud_id: str
    sequence: int
    outcome: Outcome
    summary: dict[str, Any]
    workflow_id: str | None
    entry: bytes

    @property
    def key(self) -> str:
        """The key in the store."""
        return store_key(self.member, self.prompt_id)

    def to_bytes(self) -> bytes:
        """A line with what must be decoded at start, then the entry, which need not be."""
        head = {
            "prompt_id": self.prompt_id,
            "member": self.member,
            "cloud_id": self.cloud_id,
            "sequence": self.sequence,
            "outcome": self.outcome,
            "summary": self.summary,
            "workflow_id": self.workflow_id,
        }
        return codec.dump_bytes(head) + b"\n" + self.entry

    @classmethod
    def from_bytes(cls, data: bytes) -> EndedJob:
        """Read a stored record; raises `ValueError` or `TypeError` if it is not one."""
        head, _, entry = data.partition(b"\n")
        return cls(**codec.loads(head), entry=entry)


def store_key(member: str, prompt_id: str) -> str:
    """Member first, so that a member's records lie together."""
    return f"{member}/{prompt_id}"
