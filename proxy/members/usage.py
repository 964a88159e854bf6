"""Who used what: jobs, running time, outputs and bytes of each member and day (UTC).

Jobs are counted where they are recorded, in the same transaction. Here bytes are counted, and
written every few seconds. What is asked for comes from the storage, so that all replicas say it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog

from proxy.storage.database import StorageError
from proxy.storage.jobs import day_of
from proxy.storage.usage import UsageRepository, UsageRow

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Seconds between two writes of what is counted in bytes; a crash loses no more than that.
INTERVAL = 5.0


class Usage:
    """What was used, by day. `now` gives seconds since 1970. Without a repository nothing is kept
    beyond the process.

    `served` are bytes of files that went to each member's clients since the last write.
    """

    def __init__(
        self,
        repository: UsageRepository | None = None,
        *,
        now: Callable[[], float] = time.time,
        interval: float = INTERVAL,
    ) -> None:
        self._repository = repository
        self._now = now
        self._interval = interval
        self.served: Counter[str] = Counter()
        self._unwritten: dict[tuple[str, str], UsageRow] = {}
        self._flushing = asyncio.Lock()

    async def close(self) -> None:
        """Write what is not written yet."""
        try:
            await self.flush()
        except StorageError as error:
            log.error("usage_write_failed", error=str(error))

    # --- counting --------------------------------------------------------------------------

    async def upload(self, member: str, count: int, *, at: float, most: int | None) -> bool:
        """Count bytes of files that come from a client, unless they would be more than `most` on
        the day then, also at other replicas; whether they are counted. Raises `StorageError`.
        """
        if most is None or self._repository is None:
            self.uploaded(member, count, at=at)
            return True
        await self.flush()
        return await self._repository.upload(
            UsageRow(day_of(at), member, bytes_up=count), most=most
        )

    def uploaded(self, member: str, count: int, *, at: float | None = None) -> None:
        """Bytes of files that came from a client; less than 0 takes some back."""
        self._row(member, at).bytes_up += count

    def _row(self, member: str, at: float | None) -> UsageRow:
        day = day_of(self._now() if at is None else at)
        return self._unwritten.setdefault((day, member), UsageRow(day, member))

    def _take_served(self) -> None:
        served, self.served = self.served, Counter()
        for member, count in served.items():
            self._row(member, None).bytes_down += count

    # --- asking ----------------------------------------------------------------------------

    async def today(self, member: str) -> UsageRow:
        """What the member has used today. Raises `StorageError`."""
        day = day_of(self._now())
        return next(iter(await self.days(day, day, member)), UsageRow(day, member))

    async def days(self, first: str, last: str, member: str | None = None) -> list[UsageRow]:
        """The usage from day to day, both included, of everybody or one member.

        By day, then by name. Raises `StorageError`.
        """
        if self._repository is None:
            self._take_served()
            return [
                replace(row)
                for (day, name), row in sorted(self._unwritten.items())
                if first <= day <= last and member in (None, name)
            ]
        await self.flush()
        return await self._repository.days(first, last, member)

    # --- writing ---------------------------------------------------------------------------

    async def flush(self) -> None:
        """Write what was counted, to the end also if the caller is cancelled.

        Raises `StorageError`; then it is written with the next.
        """
        if self._repository is not None:
            await finish(self._flush(self._repository))

    async def _flush(self, repository: UsageRepository) -> None:
        async with self._flushing:
            self._take_served()
            rows, self._unwritten = self._unwritten, {}
            try:
                await repository.add(list(rows.values()))
            except StorageError:
                for key, row in rows.items():
                    self._unwritten.setdefault(key, UsageRow(*key)).add(row)
                raise

    async def run(self) -> None:
        """Write bytes every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.flush()
            except StorageError as error:
                log.error("usage_write_failed", error=str(error))


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; a cancellation of the caller is raised when it has come to its end.

    A write that is cancelled halfway leaves nobody who knows whether it was made.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # the caller, who is gone, does not fetch it
        raise


def end_of_day(at: float) -> datetime:
    """The first moment of the next day (UTC)."""
    day = 86_400
    return datetime.fromtimestamp((at // day + 1) * day, UTC)
