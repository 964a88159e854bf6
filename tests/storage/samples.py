"""Jobs of the tests of this folder, and how they end."""

from __future__ import annotations

from typing import Any

from proxy.storage.history import EndedJob, HistoryEntry
from proxy.storage.jobs import JobRepository, Payload, StoredJob

PAYLOAD = Payload(b'{"1": {}}', b'{"a": 1}', b'["9"]')


def job(id_: str = "a", member: str = "anna", **values: Any) -> StoredJob:
    values = {"state": "queued", "number": 0, "created_at": 1000, "changed_at": 1000, **values}
    return StoredJob(member=member, id=id_, **values)


def ended(state: str = "succeeded", at: int = 3000, **values: Any) -> EndedJob:
    return EndedJob(
        **{
            "state": state,
            "started_at": 2000,
            "ended_at": at,
            "summary": b'{"id": "a"}',
            "result": b'{"outputs": {}}',
            "outputs_to_execute": ["9"],
            **values,
        }
    )


async def run(jobs: JobRepository, one: StoredJob, end: EndedJob | None = None) -> int:
    """A job that comes and ends."""
    key = (await jobs.insert(one, PAYLOAD)).key
    summary = one.id.encode(errors="replace")
    await jobs.finish(key, end or ended(summary=summary), keep=1000)
    return key


async def entries(jobs: JobRepository, **part: Any) -> list[HistoryEntry]:
    return [entry async for some in jobs.history.entries("anna", **part) for entry in some]


async def ids(jobs: JobRepository, **part: Any) -> list[str]:
    return [entry.id for entry in await entries(jobs, **part)]
