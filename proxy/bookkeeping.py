"""Makes the books: usage, limits and the audit record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.api.books import Books
from proxy.members.audit import Audit
from proxy.members.directory import Directory
from proxy.members.limiter import Limiter
from proxy.members.usage import Usage
from proxy.metrics import Metrics
from proxy.settings import Settings
from proxy.storage.usage import UsageRepository
from proxy.supervisor import Supervisor


@asynccontextmanager
async def kept(
    settings: Settings,
    folder: Path,
    repository: UsageRepository,
    members: Directory,
    supervisor: Supervisor,
    metrics: Metrics,
) -> AsyncIterator[Books]:
    """The books of the data folder, closed behind the block. Enter it before the jobs start.

    Raises `StorageError`.
    """
    usage = Usage(repository)
    await usage.start()
    supervisor.keep(usage.run, "write usage")
    record = Audit(repository, days=settings.audit_days)
    await record.start(folder, supervisor)
    try:
        limiter = Limiter(lambda name: members.get(name).limits, usage)
        yield Books(metrics, usage, limiter, record)
    finally:
        await record.close()
        await usage.close()
