"""What the cloud says of a job at one moment, from any of the answers that describe it.

Sources: `GET /api/jobs` (entries), `GET /api/jobs/{id}` (detail). Both forms of what the
documents dispute are accepted: ms and seconds, `execution_error` and a JSON `error_message`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from proxy.translate import codec
from proxy.translate.reading import field_of, list_of

Status = Literal["pending", "in_progress", "completed", "failed", "cancelled"]

#: Friendly statuses (`/api/jobs`) and raw ones (`/api/job/{id}/status`, and events) of each.
_WORDS: dict[Status, tuple[str, ...]] = {
    "pending": (
        *("pending", "submitted", "waiting_to_dispatch", "queued_limited", "queued_waiting"),
        *("allocated", "preparing", "pending_execution"),
    ),
    "in_progress": ("in_progress", "executing", "executed", "retryable_error"),
    "completed": ("completed", "success"),
    "failed": ("failed", "error", "erroring", "non_retryable_error", "lost"),
    "cancelled": (
        *("cancelled", "canceled"),
        *("cancel_requested", "cancel_pending", "cancelling_preparing"),
    ),
}
STATUSES = {word: status for status, words in _WORDS.items() for word in words}

#: Statuses of the job itself that are not its last, though their friendly name sounds like it.
UNSETTLED = frozenset({"erroring", "cancel_requested", "cancel_pending", "cancelling_preparing"})


class Snapshot(Struct, frozen=True):
    """A job as the cloud sees it. Times are milliseconds since 1970.

    `settled` is true when the run has ended for good: a friendly `failed` or `cancelled` may
    come while the cloud is still tidying up, and then lacks its end time.
    `queue_reason` is why a pending job waits (`concurrency_limit`: for a slot of the plan).
    `outputs` is `None` where the answer does not carry them (lists), `{}` where there are none.
    `executed_by` is where the job ran: `executor` and `deployment`, as far as the cloud tells.
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
    queue_reason: str | None = None
    executed_by: Mapping[str, Any] = {}
    unlisted: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the status is one of the three last ones, settled or not."""
        return self.status in ("completed", "failed", "cancelled")

    def message(self, type_: str) -> dict[str, Any] | None:
        """Return the first message of this type among the worker's own, or `None`."""
        for message in list_of(field_of(self.execution_status, "messages")):
            match message:
                case [str(name), dict(data)] if name == type_:
                    return data
        return None

    def ended_at(self, started_at: int, now: int) -> int:
        """Return the end: as many ms after `started_at` as lie between the cloud's own two times.

        Where the cloud tells no end it is `now`; it never is before the start.
        """
        if self.end_time is None:
            return max(started_at, now)
        if self.start_time is None:
            return max(started_at, self.end_time)
        return started_at + max(0, self.end_time - self.start_time)


def milliseconds(value: object) -> int | None:
    """Return a time given in seconds or milliseconds, distinguished by its size (over 1e11 is ms).

    `None` for what is no time since 1970: NaN, infinity, negative or beyond the year 5000.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e14:
        return None
    return int(value) if value > 1e11 else int(value * 1000)


def from_job(job: dict[str, Any]) -> Snapshot:
    """Read an entry of `GET /api/jobs` or the answer of `GET /api/jobs/{id}`.

    An unknown status counts as in flight, unless the answer tells an end (`unlisted_end`). Raises
    `KeyError` when there is no `id`.
    """
    raw = str(job.get("status", "")).lower()
    known = {name: job[name] for name, types in _TYPES.items() if isinstance(job.get(name), types)}
    odd = [name for name in _TYPES if name not in known and job.get(name) is not None]
    start_time = milliseconds(known.get("execution_start_time"))
    end_time = milliseconds(known.get("execution_end_time"))
    error = None
    if job.get("execution_error") is not None or job.get("error_message"):
        error = _execution_error(job)
    status = STATUSES.get(raw, "in_progress")
    if raw not in STATUSES and (end_time is not None or "execution_status" in known):
        status = unlisted_end(known.get("outputs") or known.get("outputs_count"))
        if status == "failed":
            error = error or {
                "exception_type": "UnknownStatus",
                "exception_message": unlisted_message(raw),
            }
    return Snapshot(
        cloud_id=str(job["id"]),
        status=status,
        settled=status == "completed"
        or (raw in STATUSES and _is_stopped(raw, status, start_time, end_time, error)),
        create_time=milliseconds(known.get("create_time")),
        start_time=start_time,
        end_time=end_time,
        outputs=known.get("outputs"),
        outputs_count=known.get("outputs_count"),
        execution_status=known.get("execution_status"),
        execution_error=error,
        meta=known.get("execution_meta"),
        queue_reason=known.get("queue_reason"),
        executed_by=_executed_by(job) if "executor" in job or "deployment" in job else {},
        unlisted=tuple(odd if raw in STATUSES else ["status", *odd]),
    )


def unlisted_end(outputs: object) -> Status:
    """Return how a job has ended whose status no document lists: as a success if it has outputs,
    which its client then gets."""
    return "completed" if outputs else "failed"


def unlisted_message(status: str) -> str:
    """Return the error of a job that has ended with such a status, without outputs."""
    return f'The job has ended with the status "{status[:_MAX_STATUS]}" and without outputs.'


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


#: Characters of a status that is quoted.
_MAX_STATUS = 40
#: Characters of a text and texts of `deployment` that are passed on.
_MAX_TEXT, _MAX_TEXTS = 256, 16


def _executed_by(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return `executor`, a word, and `deployment`, an object of texts: both optional and new."""
    found: dict[str, Any] = {}
    executor, deployment = job.get("executor"), job.get("deployment")
    if isinstance(executor, str) and len(executor) <= _MAX_TEXT:
        found["executor"] = executor
    if isinstance(deployment, dict) and len(deployment) <= _MAX_TEXTS:
        texts = {
            name: value
            for name, value in deployment.items()
            if isinstance(value, str | int | float) and len(f"{name}{value}") <= _MAX_TEXT
        }
        found |= {"deployment": texts} if texts else {}
    return found


def _is_stopped(
    raw: str,
    status: Status,
    start_time: int | None,
    end_time: int | None,
    error: dict[str, Any] | None,
) -> bool:
    """Return whether the job has failed or was cancelled for good.

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
    return status in ("failed", "cancelled")


def _execution_error(job: dict[str, Any]) -> dict[str, Any] | None:
    """Return the error of a run, which may be JSON in a text."""
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
