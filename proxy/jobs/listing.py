"""`GET /api/jobs` and `GET /api/jobs/{id}` in local form, from the proxy's own records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from proxy.jobs.models import ENDS, Job, JobState, Outcome
from proxy.jobs.protocol import LiveJob

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")

#: Output keys whose items a client can show, in ComfyUI's words.
_PREVIEWABLE = frozenset({"images", "video", "videos", "audio", "gifs", "3d", "text"})


@dataclass(frozen=True, slots=True)
class JobQuery:
    """What `GET /api/jobs` was asked; `statuses` and `workflow_id` of `None` mean all."""

    statuses: frozenset[str] | None = None
    workflow_id: str | None = None
    sort_by: str = "created_at"
    descending: bool = True
    limit: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Listed:
    """A job as a list shows it."""

    job: dict[str, Any]
    workflow_id: str | None


def workflow_id(extra_data: dict[str, Any]) -> str | None:
    """`extra_data.extra_pnginfo.workflow.id`, if the client sent a workflow that has one."""
    value: Any = extra_data
    for key in ("extra_pnginfo", "workflow", "id"):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


def ended_states(statuses: frozenset[str] | None) -> set[str]:
    """The states of ended jobs that have one of the statuses, as they are stored."""
    return {
        state.value for outcome, state in ENDS.items() if statuses is None or outcome in statuses
    }


def of_queue(record: LiveJob) -> Listed:
    """A pending or running job."""
    found = record.workflow_id
    job = {
        "id": record.prompt_id,
        "status": "pending" if record.state is not JobState.RUNNING else "in_progress",
        "priority": record.number,
        "create_time": record.create_time,
        "execution_start_time": record.started_at,
        "outputs_count": 0,
        "workflow_id": found,
    }
    return Listed(_without_nulls(job), found)


def of_history(
    record: Job,
    outcome: Outcome,
    outputs: dict[str, Any],
    status: dict[str, Any],
    started_at: int,
    ended_at: int,
) -> Listed:
    """An ended job. `execution_error` is the whole event, of failed jobs only."""
    found = workflow_id(record.extra_data)
    count, previewable, preview = _summary(outputs)
    error = None
    if outcome == "failed":
        error = next(
            (data for type_, data in status["messages"] if type_ == "execution_error"), None
        )
    job = {
        "id": record.prompt_id,
        "status": outcome,
        "priority": record.number,
        "create_time": record.create_time,
        "execution_start_time": started_at,
        "execution_end_time": ended_at,
        "outputs_count": count,
        "previewable_outputs_count": previewable,
        "preview_output": preview,
        "execution_error": error,
        "workflow_id": found,
    }
    return Listed(_without_nulls(job), found)


def select(jobs: Iterable[Listed], query: JobQuery, *, unread: int = 0) -> dict[str, Any]:
    """The answer of `GET /api/jobs`: `{"jobs": […], "pagination": {…}}`.

    `unread` more jobs come behind all of these.
    """
    found = [
        listed.job
        for listed in jobs
        if (query.statuses is None or listed.job["status"] in query.statuses)
        and (query.workflow_id is None or listed.workflow_id == query.workflow_id)
    ]
    order = _duration if query.sort_by == "execution_duration" else _created
    found.sort(key=order, reverse=query.descending)
    stop = None if query.limit is None else query.offset + query.limit
    page = found[query.offset : stop]
    return {
        "jobs": page,
        "pagination": {
            "offset": query.offset,
            "limit": query.limit,
            "total": len(found) + unread,
            "has_more": query.offset + len(page) < len(found) + unread,
        },
    }


def _created(job: dict[str, Any]) -> int:
    return int(job["create_time"])


def _duration(job: dict[str, Any]) -> int:
    return int(job.get("execution_end_time", 0)) - int(job.get("execution_start_time", 0))


def _summary(outputs: dict[str, Any]) -> tuple[int, int, dict[str, Any] | None]:
    """How many items there are, how many can be shown, and the one that stands for the job."""
    count = previewable = 0
    preview: dict[str, Any] | None = None
    for node_id, output in outputs.items():
        for media, items in output.items() if isinstance(output, dict) else ():
            if media == "animated" or not isinstance(items, list):
                continue
            count += len(items)
            if media not in _PREVIEWABLE:
                continue
            previewable += len(items)
            for item in items:
                if isinstance(item, dict) and _better(item, preview):
                    preview = {**item, "nodeId": node_id, "mediaType": media}
    return count, previewable, preview


def _better(item: dict[str, Any], than: dict[str, Any] | None) -> bool:
    """The first saved file, or else the first temporary one."""
    if than is None:
        return True
    return item.get("type") == "output" and than.get("type") != "output"


def _without_nulls(job: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in job.items() if value is not None}
