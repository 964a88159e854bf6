"""Who used what: jobs, running time, outputs and bytes of each member and day (UTC).

Every job is counted once, bytes are counted in memory and written every few seconds. A job leaves
a mark beside its count, in the same transaction, so that what a crash kept from being counted is
found at the next start (`Usage.marks`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar

import msgspec
import structlog

from proxy.store.base import Delete, Put, Store, StoreError

log = structlog.get_logger(__name__)

USAGE = "usage"
MARKS = "usage_marks"

#: Seconds between two writes of what is counted in bytes; a crash loses no more than that.
INTERVAL = 5.0

Outcome = Literal["completed", "failed", "cancelled"]


class Job(Protocol):
    """What is counted by, of a job. `create_time` is in ms since 1970."""

    member: str
    prompt_id: str
    create_time: int


@dataclass(slots=True)
class Row:
    """What was used. `submitted` jobs are booked on the day of their submission, without those
    that were taken out of the queue again (`withdrawn`); all else on the day on which it was."""

    submitted: int = 0
    withdrawn: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    running_seconds: float = 0.0
    outputs: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    def add(self, more: Row) -> None:
        """Add what another row counts."""
        for field in fields(Row):
            setattr(self, field.name, getattr(self, field.name) + getattr(more, field.name))


@dataclass(frozen=True, slots=True)
class MemberDay:
    """A member's usage on a day, as `YYYY-MM-DD`."""

    day: str
    member: str
    used: Row


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a job has been counted: its submission, or its end too."""

    create_time: int
    ended: bool


T = TypeVar("T")
Counted = TypeVar("Counted", Row, Mark)


class Usage:
    """Counts, and is an observer of the jobs. `now` gives seconds since 1970.

    `on_submitted` is called when a submission has been counted.
    """

    def __init__(
        self, store: Store, *, now: Callable[[], float] = time.time, interval: float = INTERVAL
    ) -> None:
        self._store = store
        self._now = now
        self._interval = interval
        self._unwritten: dict[str, Row] = {}
        self._unwritten_marks: dict[str, Mark | None] = {}
        self._day, self._day_ends = "", 0.0
        self._today: dict[str, Row] = {}
        self._flushing = asyncio.Lock()
        self._urgent = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self.on_submitted: Callable[[Job], None] = lambda _: None

    async def start(self) -> None:
        """Read today's counts, and write from now on. Raises `StoreError`."""
        async for key, data in self._store.scan(USAGE, f"{self._current_day()}/"):
            self._today[key.partition("/")[2]] = _read(_ROW, key, data) or Row()
        self._writer = asyncio.create_task(self._write_now_and_then(), name="write usage")

    async def close(self) -> None:
        """Write what is not written yet."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])
        try:
            await self.flush()
        except StoreError as error:
            log.error("usage_lost", error=str(error))

    # --- counting --------------------------------------------------------------------------

    def accepted(self, job: Job) -> None:
        """A job was taken in."""
        self._count(job.member, Row(submitted=1), at=job.create_time / 1000)
        self._mark(job, Mark(job.create_time, ended=False))
        self.on_submitted(job)

    def dispatched(self, job: Job, waited: float) -> None:
        """A job is on the cloud, which changes no count."""

    def ended(
        self,
        job: Job,
        outcome: Outcome,
        running_seconds: float,
        output_count: int,
        *,
        at: float | None = None,
    ) -> None:
        """A job has ended, now or `at` (seconds since 1970)."""
        row = Row(running_seconds=max(0.0, running_seconds), outputs=output_count)
        setattr(row, outcome, 1)
        self._count(job.member, row, at=at)
        self._mark(job, Mark(job.create_time, ended=True))

    def discarded(self, job: Job) -> None:
        """A waiting job has left without a trace: it does not count as submitted."""
        mark = Mark(job.create_time, ended=False)
        self.withdrawn(f"{job.member}/{job.prompt_id}", mark)

    def withdrawn(self, key: str, mark: Mark) -> None:
        """The same of a job of which only the mark is left."""
        row = Row(submitted=-1, withdrawn=1)
        self._count(key.partition("/")[0], row, at=mark.create_time / 1000)
        self._unwritten_marks[key] = None
        self._urgent.set()

    def uploaded(self, member: str, count: int, *, at: float | None = None) -> None:
        """Bytes of files that came from a client; less than 0 takes some back."""
        self._count(member, Row(bytes_up=count), at=at)

    def served(self, member: str, count: int) -> None:
        """Bytes of files that went to a client."""
        day = self._current_day()
        self._unwritten.setdefault(f"{day}/{member}", Row()).bytes_down += count
        self._today.setdefault(member, Row()).bytes_down += count

    def _count(self, member: str, row: Row, *, at: float | None = None) -> None:
        day = self._current_day() if at is None else day_of(at)
        self._unwritten.setdefault(f"{day}/{member}", Row()).add(row)
        if day == self._current_day():
            self._today.setdefault(member, Row()).add(row)

    def _mark(self, job: Job, mark: Mark | None) -> None:
        self._unwritten_marks[f"{job.member}/{job.prompt_id}"] = mark
        self._urgent.set()

    def _current_day(self) -> str:
        now = self._now()
        if now >= self._day_ends:
            self._day, self._day_ends, self._today = day_of(now), end_of_day(now).timestamp(), {}
        return self._day

    # --- asking ----------------------------------------------------------------------------

    def today(self, member: str) -> Row:
        """What the member has used today; not to be changed."""
        self._current_day()
        return self._today.get(member) or Row()

    async def days(self, first: str, last: str, member: str | None = None) -> list[MemberDay]:
        """The usage from day to day, both included, of everybody or one member.

        By day, then by name; today's alone comes from memory. Raises `StoreError`.
        """
        today = self._current_day()
        if self._writer is not None and first == last == today:
            return [
                MemberDay(today, name, replace(row))
                for name, row in sorted(self._today.items())
                if member in (None, name)
            ]
        await self.flush()
        prefix = f"{first}/" if first == last else ""
        found = {key: data async for key, data in self._store.scan(USAGE, prefix)}
        return select(found, first, last, member)

    async def marks(self) -> dict[str, Mark]:
        """How far each job has been counted, by member and id (`member/prompt_id`)."""
        read = {key: _read(_MARK, key, data) async for key, data in self._store.scan(MARKS)}
        return {key: mark for key, mark in read.items() if mark is not None}

    async def forget_marks(self, keys: list[str]) -> None:
        """Drop the marks of jobs that are kept no longer."""
        await self._store.write([Delete(MARKS, key) for key in keys])

    # --- writing ---------------------------------------------------------------------------

    async def flush(self) -> None:
        """Write what was counted, to the end also if the caller is cancelled.

        Raises `StoreError`; then it is written with the next.
        """
        await finish(self._flush())

    async def _flush(self) -> None:
        async with self._flushing:
            rows, self._unwritten = self._unwritten, {}
            marks, self._unwritten_marks = self._unwritten_marks, {}
            try:
                await self._write(rows, marks)
            except StoreError:
                for key, row in rows.items():
                    self._unwritten.setdefault(key, Row()).add(row)
                self._unwritten_marks = {**marks, **self._unwritten_marks}
                raise

    async def _write(self, rows: Mapping[str, Row], marks: Mapping[str, Mark | None]) -> None:
        changes: list[Put | Delete] = []
        for key, row in rows.items():
            stored = await self._store.get(USAGE, key)
            total = None if stored is None else _read(_ROW, key, stored)
            total = total or Row()
            total.add(row)
            changes.append(Put(USAGE, key, msgspec.json.encode(total)))
        for key, mark in marks.items():
            gone = Delete(MARKS, key)
            changes.append(gone if mark is None else Put(MARKS, key, msgspec.json.encode(mark)))
        await self._store.write(changes)

    async def _write_now_and_then(self) -> None:
        """Jobs at once, bytes after a while."""
        failing = False
        while True:
            if failing:
                await asyncio.sleep(self._interval)
            else:
                await self._wait_for_jobs()
            self._urgent.clear()
            try:
                await self.flush()
                failing = False
            except StoreError as error:
                if not failing:
                    log.error("usage_write_failed", error=str(error))
                failing = True

    async def _wait_for_jobs(self) -> None:
        try:
            async with asyncio.timeout(self._interval):
                await self._urgent.wait()
        except TimeoutError:
            pass


_ROW = msgspec.json.Decoder(Row)
_MARK = msgspec.json.Decoder(Mark)


def _read(decoder: msgspec.json.Decoder[Counted], key: str, data: bytes) -> Counted | None:
    """A stored document; `None` if it is damaged, which must not keep the others from use."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("usage_read_failed", key=key, reason=str(error))
        return None


def select(
    documents: Mapping[str, bytes], first: str, last: str, member: str | None = None
) -> list[MemberDay]:
    """Stored documents as usage from day to day, both included, by day and name."""
    chosen = []
    for key in sorted(documents):
        day, _, name = key.partition("/")
        if first <= day <= last and member in (None, name):
            used = _read(_ROW, key, documents[key])
            if used is not None:
                chosen.append(MemberDay(day, name, used))
    return chosen


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


def day_of(at: float) -> str:
    """The day (UTC) of a time in seconds since 1970."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def end_of_day(at: float) -> datetime:
    """The first moment of the next day (UTC)."""
    day = 86_400
    return datetime.fromtimestamp((at // day + 1) * day, UTC)
