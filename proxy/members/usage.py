"""Who used what: jobs, running time, outputs and bytes of each member and day (UTC).

Jobs are counted where they are recorded, in the same transaction. Here today's numbers are kept
in memory, for limits and the dashboard, and bytes are counted and written every few seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar

import structlog

from proxy.storage.database import StorageError
from proxy.storage.usage import UsageRepository, UsageRow, day_of

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Seconds between two writes of what is counted in bytes; a crash loses no more than that.
INTERVAL = 5.0

Outcome = Literal["completed", "failed", "cancelled"]


class Job(Protocol):
    """What is counted by, of a job. `create_time` is in ms since 1970."""

    @property
    def member(self) -> str:
        """Whose it is."""

    @property
    def create_time(self) -> int:
        """When it was submitted."""


class Usage:
    """Today's counts, and an observer of the jobs. `now` gives seconds since 1970.

    `on_submitted` is called when a submission has been counted.
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
        self._unwritten: dict[tuple[str, str], UsageRow] = {}
        self._day, self._day_ends = "", 0.0
        self._today: dict[str, UsageRow] = {}
        self._flushing = asyncio.Lock()
        self.on_submitted: Callable[[Job], None] = lambda _: None

    async def start(self) -> None:
        """Read today's counts. Raises `StorageError`."""
        day = self._current_day()
        if self._repository is not None:
            for row in await self._repository.days(day, day):
                self._today[row.member] = row

    async def close(self) -> None:
        """Write what is not written yet."""
        try:
            await self.flush()
        except StorageError as error:
            log.error("usage_write_failed", error=str(error))

    # --- counting --------------------------------------------------------------------------

    def accepted(self, job: Job) -> None:
        """A job was taken in."""
        self._count(job.member, at=job.create_time / 1000, submitted=1)
        self.on_submitted(job)

    def dispatched(self, job: Job, waited: float) -> None:
        """A job is on the cloud, which changes no count."""

    def ended(self, job: Job, outcome: Outcome, running_seconds: float, output_count: int) -> None:
        """A job has ended now."""
        seconds = max(0.0, running_seconds)
        self._count(job.member, running_seconds=seconds, outputs=output_count, **{outcome: 1})

    def discarded(self, job: Job) -> None:
        """A waiting job has left without a trace: it does not count as submitted."""
        self._count(job.member, at=job.create_time / 1000, submitted=-1, withdrawn=1)

    def uploaded(self, member: str, count: int, *, at: float | None = None) -> None:
        """Bytes of files that came from a client; less than 0 takes some back."""
        self._count(member, at=at, bytes_up=count)
        self._write_later(member, at).bytes_up += count

    def served(self, member: str, count: int) -> None:
        """Bytes of files that went to a client."""
        self._count(member, bytes_down=count)
        self._write_later(member, None).bytes_down += count

    def _count(self, member: str, *, at: float | None = None, **counts: Any) -> None:
        today = self._current_day()
        if at is None or day_of(at) == today:
            row = self._today.setdefault(member, UsageRow(today, member))
            row.add(UsageRow(today, member, **counts))

    def _write_later(self, member: str, at: float | None) -> UsageRow:
        day = self._current_day() if at is None else day_of(at)
        return self._unwritten.setdefault((day, member), UsageRow(day, member))

    def _current_day(self) -> str:
        now = self._now()
        if now >= self._day_ends:
            self._day, self._day_ends, self._today = day_of(now), end_of_day(now).timestamp(), {}
        return self._day

    # --- asking ----------------------------------------------------------------------------

    def today(self, member: str) -> UsageRow:
        """What the member has used today; not to be changed."""
        today = self._current_day()
        return self._today.get(member) or UsageRow(today, member)

    async def days(self, first: str, last: str, member: str | None = None) -> list[UsageRow]:
        """The usage from day to day, both included, of everybody or one member.

        By day, then by name; today's alone comes from memory. Raises `StorageError`.
        """
        today = self._current_day()
        if first == last == today or self._repository is None:
            return [
                replace(row) for name, row in sorted(self._today.items()) if member in (None, name)
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
