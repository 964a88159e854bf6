"""What members use, may use and have done: usage, limits, metrics and the audit record as one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.members.audit import Audit
from proxy.members.limiter import Limiter
from proxy.members.member import Limits, Member
from proxy.members.usage import Usage
from proxy.metrics import Metrics
from proxy.storage.usage import UsageRepository
from proxy.supervisor import Supervisor


def _unlimited(name: str) -> Member:
    return Member(name, limits=Limits(stored_bytes=None))


class Accounting:
    """Where the handlers account for what they did.

    `member` gives a member by name. Without a repository usage is kept in memory and
    nothing is recorded.
    """

    def __init__(
        self,
        metrics: Metrics | None = None,
        repository: UsageRepository | None = None,
        member: Callable[[str], Member] = _unlimited,
        *,
        audit_days: int = 90,
    ) -> None:
        self.metrics = metrics or Metrics()
        self.usage = Usage(repository)
        self.limiter = Limiter(member, self.usage)
        self.audit = Audit(repository, days=audit_days)

    @asynccontextmanager
    async def running(self, folder: Path, supervisor: Supervisor) -> AsyncIterator[None]:
        """Write what is counted and recorded; enter it before the jobs start.

        `folder` may have an audit record of 0.1.0. Raises `StorageError`.
        """
        supervisor.keep(self.usage.run, "write usage")
        await self.audit.start(folder, supervisor)
        try:
            yield
        finally:
            await self.audit.close()
            await self.usage.close()

    def wrong_token(self, address: str, shown: str) -> None:
        """Record that somebody came with a token that is not valid; `shown` is what may be told."""
        self.audit.note("sign_in_refused", address=address, token=shown)

    def served(self, member: str, count: int) -> None:
        """Count bytes of files that went to a client."""
        if count > 0:
            self.metrics.served.labels(member).inc(count)
            self.usage.served[member] += count

    @asynccontextmanager
    async def uploading(self, member: str, count: int) -> AsyncIterator[None]:
        """Count an upload of `count` bytes, unless the block raises.

        Raises `LocalError` (429), `StorageError`.
        """
        async with self.limiter.uploading(member, count):
            yield
        self.metrics.uploaded.labels(member).inc(count)
