"""What the cloud says of a job at one moment, from any of the answers that tell it.

Sources: `GET /api/jobs` (entries), `GET /api/jobs/{id}` (detail). Both forms of what the
documents dispute are accepted: ms and seconds, `execution_error` and a JSON `error_message`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from proxy.translate import codec

T = TypeVar("T")

Status = Literal["pending", "in_progress", "completed", "failed", "cancelled"]

#: Friendly statuses (`/api/jobs`) and raw ones (`/api/job/{id}/status`, and events) to the five.
STATUSES: dict[str, Status] = {
    "pending": "pending",
    "submitted": "pending",
    "waiting_to_dispatch": "pending",
    "queued_limited": "pending",
    "queued_waiting": "pending",
    "allocated": "pending",
    "preparing": "pending",
    "pending_execution": "pending",
    "in_progress": "in_progress",
    "executing": "in_progress",
    "executed": "in_progress",
    "retryable_error": "in_progress",
    "completed": "completed",
    "success": "completed",
    "failed": "failed",
    "error": "failed",
    "erroring": "failed",
    "non_retryable_error": "failed",
    "lost": "failed",
    "cancelled": "cancelled",
    "canceled": "cancelled",
    "cancel_requested": "cancelled",
    "cancel_pending": "cancelled",
    "cancelling_preparing": "cancelled",
}

#: Statuses of the job itself that are not its last, though their friendly name sounds like it.
UNSETTLED = frozenset({"erroring", "cancel_requested", "cancel_pending", "cancelling_preparing"})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job as the cloud sees it. Times are milliseconds since 1970.

    `settled` is true when the run has ended for good: a friendly `failed` or `cancelled` may
    come while the cloud is still tidying up, and then lacks its end time.
    `queue_reason` is why a pending job waits (`concurrency_limit`: for a slot of the plan).
    `outputs` is `None` where the answer does not carry them (lists), `{}` where there are none.
    `unlisted` names what of the answer is in no document: fields of another type, the status.
    """

    cloud_id: str
    status: Status
    settled: bool
    create_time: int | None = None
    start_time: int | None = None
    end_time: int | None = None
    outputs: dict[str, Any] | None = None
    outputs_count: int | None = None
    execution_status: dict[str, Any] | None = None
    execution_error: dict[str, Any] | None = None
    meta: dict[str, Any] | None = None
    extra_data: dict[str, Any] | None = None
    queue_reason: str | None = None
    unlisted: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the status is one of the three last ones, settled or not."""
        return self.status in ("completed", "failed", "cancelled")

    def message(self, type_: str) -> dict[str, Any] | None:
        """The first message of this type among the worker's own, or `None`."""
        messages = (self.execution_status or {}).get("messages")
        for message in messages if isinstance(messages, list) else []:
            match message:
                case [str(name), dict(data)] if name == type_:
                    return data
        return None

    def ended_at(self, started_at: int, now: int) -> int:
        """The end as many ms after `started_at` as the cloud's clock has between its two.

        Where the cloud tells no end it is `now`; it never is before the start.
        """
        if self.end_time is None:
            return max(started_at, now)
        if self.start_time is None:
            return max(started_at, self.end_time)
        return started_at + max(0, self.end_time - self.start_time)


def milliseconds(value: object) -> int | None:
    """A time in seconds or milliseconds, told apart by its size (over 1e11 is ms).

    `None` for what is no time since 1970: NaN, infinity, negative or beyond the year 5000.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e14:
        return None
    return int(value) if value > 1e11 else int(value * 1000)


def from_job(job: dict[str, Any]) -> Snapshot:
    """Read an entry of `GET /api/jobs` or the answer of `GET /api/jobs/{id}`.

    An unknown status counts as in flight. Raises `KeyError` when there is no `id`.
    """
    raw = str(job.get("status", ""))
    status = STATUSES.get(raw.lower(), "in_progress")
    start_time = milliseconds(job.get("execution_start_time"))
    end_time = milliseconds(job.get("execution_end_time"))
    error = _execution_error(job)
    workflow = _as(dict, job.get("workflow")) or {}
    return Snapshot(
        cloud_id=str(job["id"]),
        status=status,
        settled=_is_settled(raw.lower(), status, start_time, end_time, error),
        create_time=milliseconds(job.get("create_time")),
        start_time=start_time,
        end_time=end_time,
        outputs=_as(dict, job.get("outputs")),
        outputs_count=_as(int, job.get("outputs_count")),
        execution_status=_as(dict, job.get("execution_status")),
        execution_error=error,
        meta=_as(dict, job.get("execution_meta")),
        extra_data=_as(dict, workflow.get("extra_data")),
        queue_reason=_as(str, job.get("queue_reason")),
        unlisted=_unlisted(job, raw.lower()),
    )


#: Types of fields in the documents; `null` stands for an absent one.
_TYPES: dict[str, type | tuple[type, ...]] = {
    "create_time": (int, float),
    "execution_start_time": (int, float),
    "execution_end_time": (int, float),
    "outputs": dict,
    "outputs_count": int,
    "execution_status": dict,
    "execution_error": (dict, str),
    "execution_meta": dict,
    "workflow": dict,
    "queue_reason": str,
}


def _unlisted(job: dict[str, Any], status: str) -> tuple[str, ...]:
    odd = [] if status in STATUSES else ["status"]
    for name, kind in _TYPES.items():
        value = job.get(name)
        if value is not None and not isinstance(value, kind):
            odd.append(name)
    return tuple(odd)


def _as(kind: type[T], value: object) -> T | None:
    """The value if it is of the kind."""
    return value if isinstance(value, kind) else None


def _is_settled(
    raw: str,
    status: Status,
    start_time: int | None,
    end_time: int | None,
    error: dict[str, Any] | None,
) -> bool:
    """Whether nothing more will happen.

    The friendly `failed` also stands for `erroring`, and `cancelled` for a run that is still
    being stopped (and may yet complete): they are final with an end time, or with an error, or
    where the run never began.
    """
    if raw in UNSETTLED:
        return False
    if raw == "failed":
        return end_time is not None or error is not None
    if raw == "cancelled":
        return end_time is not None or start_time is None
    return status in ("completed", "failed", "cancelled")


def _execution_error(job: dict[str, Any]) -> dict[str, Any] | None:
    error = job.get("execution_error")
    if isinstance(error, dict):
        return error
    text = job.get("error_message") or (error if isinstance(error, str) else None)
    if not isinstance(text, str) or not text:
        return None
    try:
        parsed = codec.loads_text(text)
    except ValueError:
        parsed = None
    return parsed if isinstance(parsed, dict) else {"exception_message": text}
