"""Jobs of the tests of this folder, and how they end."""

from __future__ import annotations

from typing import Any

from proxy.storage.job_tables import HistoryEntry, StoredJob
from proxy.storage.jobs import JobRepository
from proxy.storage.payloads import Payload

#: What an entry of the history has from the job.
_KEPT = (
    *("order", "member", "prompt_id", "number", "created_at"),
    *("label", "workflow_id", "client_id", "cloud_id"),
)

PAYLOAD = Payload(b'{"1": {}}', b'{"a": 1}', b'["9"]')


def job(id_: str = "a", member: str = "anna", **values: Any) -> StoredJob:
    values = {"state": "queued", "number": 0, "created_at": 1000, **values}
    return StoredJob(member=member, prompt_id=id_, **values)


def ended(job: StoredJob, state: str = "succeeded", at: int = 3000, **values: Any) -> HistoryEntry:
    """How a job has ended."""
    known = {name: getattr(job, name) for name in _KEPT}
    return HistoryEntry(
        **{
            **known,
            "state": state,
            "started_at": 2000,
            "ended_at": at,
            "summary": b'{"id": "a"}',
            "result": b'{"outputs": {}}',
            "outputs_to_execute": ("9",),
            **values,
        }
    )


async def run(jobs: JobRepository, one: StoredJob, **end: Any) -> int:
    """A job that comes and ends."""
    stored = await jobs.insert(one, PAYLOAD)
    summary = one.prompt_id.encode(errors="replace")
    await jobs.finish(ended(stored, **{"summary": summary, **end}), keep=1000)
    return stored.order


async def entries(jobs: JobRepository, **part: Any) -> list[HistoryEntry]:
    return [entry async for some in jobs.history.entries("anna", **part) for entry in some]


async def ids(jobs: JobRepository, **part: Any) -> list[str]:
    return [entry.prompt_id for entry in await entries(jobs, **part)]
