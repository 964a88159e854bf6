"""What a simulated deployment holds: its jobs, its inputs, and what it can be told to do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import uuid4

#: Statuses after which nothing follows.
ENDED = frozenset({"succeeded", "failed", "canceled", "expired"})


@dataclass(slots=True)
class DeploymentSwitches:
    """What documents leave open, and what a deployment may be like.

    `state` is that of the control plane. `workers` run jobs; more than `queue_limit` waiting ones
    are refused. `retry_after` stands in each 429. `polled_progress` says whether a job that is read
    has its progress. With `outputs_late` the stream reports outputs after the end, with
    `streams_hang` it stays open then. `streams` is how many there may be at once. `frames` is the
    time between two frames of a stream, in seconds. With `strips_metadata` uploads are stored with
    other bytes than those that came.

    A submission `checks` nothing but loaders, or classes and values as the documents show their
    errors, or as ComfyUI does. Without `names_nodes` outputs have no node, without `tracebacks`
    errors none. `filters` is whether a list knows labels, `closed_extra_data` whether unknown keys
    are refused, `outputs_as_inputs` whether an output can be referred to. With `one_record` known
    bytes keep their first record. More than `read_limit` reads within a second are
    refused.
    """

    state: Literal["ready", "starting", "stopped"] = "ready"
    workers: int = 2
    queue_limit: int = 100
    retry_after: int = 1
    credits: bool = True
    labels: bool = True
    lists: bool = True
    streams: int = 32
    streaming: bool = True
    frames: float = 0.05
    polled_progress: bool = True
    outputs_late: bool = False
    streams_hang: bool = False
    keepalive: float = 15.0
    release: int = 1
    job_life: float = 86_400.0
    input_life: float | None = None
    strips_metadata: bool = False
    checks: Literal["nothing", "documented", "comfyui"] = "nothing"
    names_nodes: bool = True
    tracebacks: bool = True
    filters: bool = True
    closed_extra_data: bool = True
    outputs_as_inputs: bool = True
    one_record: bool = False
    expires_in: bool = True
    upload_limit: int = 256_000_000
    read_limit: int | None = None
    pace: float = 0.0
    lose_answers: int = 0


@dataclass(eq=False, slots=True)
class DeploymentJob:
    """A job. `changed` wakes its streams, `version` counts the changes."""

    graph: dict[str, Any]
    extra_data: dict[str, Any]
    metadata: dict[str, str]
    release: int
    life: float
    id: str = field(default_factory=lambda: str(uuid4()))
    status: str = "queued"
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: datetime | None = None
    completed: datetime | None = None
    progress: dict[str, Any] | None = None
    preview: dict[str, Any] | None = None
    outputs: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    done: set[str] = field(default_factory=set)
    version: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return self.status in ENDED

    def notify(self) -> None:
        """Wake the streams of the job."""
        self.version += 1
        self.changed.set()
        self.changed = asyncio.Event()

    def move(self, status: str) -> None:
        """Take on a status."""
        now = datetime.now(UTC)
        self.status = status
        if status == "running" and self.started is None:
            self.started = now
        if status in ENDED:
            self.completed = now
        self.notify()

    def shown(self, prefix: str, position: int | None, *, progress: bool) -> dict[str, Any]:
        """Return the job as `GET` has it; its links begin with `prefix`."""
        ran = None
        if self.started is not None and self.completed is not None:
            ran = int((self.completed - self.started).total_seconds() * 1000)
        links = {name: f"{prefix}/jobs/{self.id}/{name}" for name in ("events", "cancel", "logs")}
        return {
            "id": self.id,
            "status": self.status,
            "created_at": self.created.isoformat(),
            "started_at": self.started and self.started.isoformat(),
            "completed_at": self.completed and self.completed.isoformat(),
            "expires_at": (self.created + timedelta(seconds=self.life)).isoformat(),
            "queue_position": position,
            "progress": self.progress if progress and self.status == "running" else None,
            "outputs": self.outputs,
            "error": self.error,
            "metrics": {} if ran is None else {"execution_ms": ran},
            "metadata": self.metadata,
            "release_version": self.release,
            "urls": {"self": f"{prefix}/jobs/{self.id}", **links},
        }

    def record(self) -> dict[str, Any]:
        """Return the job as the list has it."""
        return {
            "id": self.id,
            "status": self.status,
            "create_time": self.created.isoformat(),
            "deployment_id": "dep-simulated",
            "metadata": self.metadata,
        }


@dataclass(eq=False, slots=True)
class DeploymentAsset:
    """A file: its bytes are in the storage under `stored`."""

    stored: str
    digest: str
    size: int
    content_type: str
    file_path: str
    expires: datetime | None = None
    job_id: str | None = None
    id: str = field(default_factory=lambda: str(uuid4()))
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    def shown(self, url: str, **more: object) -> dict[str, Any]:
        """Return the asset as `GET` has it, with a signed URL."""
        return {
            "id": self.id,
            "hash": f"blake3:{self.digest}",
            "size_bytes": self.size,
            "content_type": self.content_type,
            "file_path": self.file_path,
            "created_at": self.created.isoformat(),
            "url": url,
            "url_expires_at": (datetime.now(UTC) + timedelta(minutes=5)).isoformat(),
            "expires_at": self.expires and self.expires.isoformat(),
            "job_id": self.job_id,
            **more,
        }


def references(value: Any) -> list[Mapping[str, Any]]:
    """Return all references to assets in a graph."""
    if isinstance(value, dict):
        if value.get("__type") == "core/ASSET" and isinstance(value.get("info"), dict):
            return [value["info"]]
        return [found for inner in value.values() for found in references(inner)]
    if isinstance(value, list):
        return [found for inner in value for found in references(inner)]
    return []


def resolved(value: Any, names: Mapping[str, str]) -> Any:
    """Return a graph with the names that nodes read in the place of references."""
    if isinstance(value, dict):
        if value.get("__type") == "core/ASSET" and isinstance(value.get("info"), dict):
            return names[value["info"]["id"]]
        return {key: resolved(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [resolved(inner, names) for inner in value]
    return value
