"""Makes the books (usage, limits, audit record), and counts what a crash has left uncounted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from proxy.api.books import Books
from proxy.jobs.keeper import HISTORY, LIVE
from proxy.jobs.record import EndedJob, JobRecord
from proxy.members.audit import Audit
from proxy.members.directory import Directory
from proxy.members.limiter import Limiter
from proxy.members.usage import Usage
from proxy.metrics import Metrics
from proxy.settings import Settings
from proxy.storage.usage import UsageRepository
from proxy.store.base import Store

log = structlog.get_logger(__name__)


@asynccontextmanager
async def kept(
    settings: Settings,
    folder: Path,
    store: Store,
    members: Directory,
    metrics: Metrics,
    repository: UsageRepository,
) -> AsyncIterator[Books]:
    """The books of the data folder, closed behind the block. Enter it before the jobs start.

    Raises `StoreError`.
    """
    usage = Usage(store)
    await usage.start()
    record = Audit(repository, days=settings.audit_days)
    await record.start(folder)
    try:
        await recount(usage, store)
        limiter = Limiter(lambda name: members.get(name).limits, usage)
        yield Books(metrics, usage, limiter, record)
    finally:
        await record.close()
        await usage.close()


async def recount(usage: Usage, store: Store) -> None:
    """Count what is on disk and was not counted: the last moments before a crash, or, the first
    time, the whole history. Raises `StoreError`."""
    marks = await usage.marks()
    live = set()
    async for key, data in store.scan(LIVE):
        live.add(key)
        if key not in marks or marks[key].ended:
            try:
                record = JobRecord.from_bytes(data)
            except (ValueError, TypeError):
                continue  # the jobs room says so
            if record.accepted:
                usage.accepted(record)
    ended = set()
    async for key, data in store.scan(HISTORY):
        ended.add(key)
        if key not in live and (key not in marks or not marks[key].ended):
            try:
                _count_end(usage, EndedJob.from_bytes(data), known=key in marks)
            except (ValueError, TypeError, KeyError):
                continue
    for key, mark in marks.items():
        if key not in live and key not in ended and not mark.ended:
            usage.withdrawn(key, mark)
    await usage.flush()
    await usage.forget_marks([key for key in marks if key not in live and key not in ended])


def _count_end(usage: Usage, job: EndedJob, *, known: bool) -> None:
    summary = job.summary
    began, end = summary["execution_start_time"], summary["execution_end_time"]
    record = JobRecord(
        prompt_id=job.prompt_id,
        member=job.member,
        number=0,
        graph={},
        extra_data={},
        targets=None,
        client_id=None,
        create_time=summary["create_time"],
    )
    if not known:
        usage.accepted(record)
    count = int(summary.get("outputs_count", 0))
    usage.ended(record, job.outcome, (end - began) / 1000, count, at=end / 1000)
