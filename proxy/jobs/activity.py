"""How many jobs ran, waited and failed in each interval of the last day, from the times of jobs."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator

import structlog

from proxy.jobs.models import AccountView, JobState
from proxy.storage.activity import AccountRow, ActivityRepository, ActivityRow, JobTimes
from proxy.storage.database import StorageError

log = structlog.get_logger(__name__)

#: An interval, and how far back they are kept, in ms.
INTERVAL = 300_000
KEPT = 86_400_000

#: Seconds between two samples. A sample looks at what it may not have seen yet, so none is missed.
EVERY = 15.0

Span = tuple[int, int]


class Sampler:
    """Writes the intervals while `is_active`: one replica is enough.

    `accounts` tells how the accounts are now, `clock` the time in seconds since 1970.
    """

    def __init__(
        self,
        repository: ActivityRepository,
        accounts: Callable[[], Awaitable[Iterable[AccountView]]],
        *,
        is_active: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._accounts = accounts
        self._is_active = is_active
        self._clock = clock
        self._seen: int | None = None
        self._written: set[ActivityRow | AccountRow] = set()

    async def run(self) -> None:
        """Sample every few seconds, until cancelled."""
        while True:
            if self._is_active():
                try:
                    await self.sample()
                except StorageError as error:
                    log.warning("activity_write_failed", error=str(error))
            await asyncio.sleep(EVERY)

    async def sample(self) -> None:
        """Bring the intervals up to date, from the last one that anybody has written; what is
        written already is not written again. Raises `StorageError`."""
        now = int(self._clock() * 1000)
        current = now - now % INTERVAL
        if self._seen is None:
            self._seen = await self._repository.last() or 0
        start = max(current - KEPT, min(self._seen, current) - INTERVAL)
        times = await self._repository.times(start)
        rows = await asyncio.to_thread(lambda: list(aggregate(times, start, now)))
        accounts = [
            AccountRow(current, view.name, view.slots, view.used, view.reason or "")
            for view in await self._accounts()
        ]
        news = set(rows) | set(accounts)
        if news - self._written:
            await self._repository.put(
                [row for row in rows if row not in self._written],
                [row for row in accounts if row not in self._written],
                forget=current - KEPT,
            )
        self._written, self._seen = news, current


def aggregate(
    jobs: Iterable[JobTimes], start: int, stop: int, interval: int = INTERVAL
) -> Iterator[ActivityRow]:
    """The intervals from `start` (the beginning of one) to `stop` (ms) in which anything was, of
    each member and, under an empty name, of everybody."""
    running: defaultdict[str, list[Span]] = defaultdict(list)
    waiting: defaultdict[str, list[Span]] = defaultdict(list)
    ended: defaultdict[str, defaultdict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for job in jobs:
        end = stop if job.ended_at is None else job.ended_at
        begun = end if job.started_at is None else job.started_at
        for name in (job.member, ""):
            waiting[name].append((max(job.created_at, start), min(begun, stop)))
            running[name].append((max(begun, start), min(end, stop)))
            if job.ended_at is not None and job.ended_at >= start:
                ended[name][job.ended_at - job.ended_at % interval].append(job.state)
    for name in running:
        runs, waits = _most(running[name], interval), _most(waiting[name], interval)
        busy = _busy(running[name], interval)
        for at in sorted({*runs, *waits, *ended[name]}):
            states = ended[name].get(at, ())
            yield ActivityRow(
                at,
                name,
                running=runs.get(at, 0),
                waiting=waits.get(at, 0),
                completed=sum(state == JobState.SUCCEEDED.value for state in states),
                failed=sum(state == JobState.FAILED.value for state in states),
                busy=round(busy.get(at, 0) / 1000, 3),
            )


def _most(spans: Iterable[Span], interval: int) -> dict[int, int]:
    """How many spans there were at once, at most, in each interval."""
    steps = [
        (at, step) for begin, end in spans if begin < end for at, step in ((begin, 1), (end, -1))
    ]
    steps.sort()
    most: dict[int, int] = {}
    level = since = 0
    for at, step in steps:
        if level and at > since:
            for one in range(since - since % interval, at, interval):
                most[one] = max(most.get(one, 0), level)
        level, since = level + step, at
    return most


def _busy(spans: Iterable[Span], interval: int) -> dict[int, int]:
    """The sum of the parts of all spans that lie in each interval, in ms."""
    busy: defaultdict[int, int] = defaultdict(int)
    for begin, end in spans:
        for one in range(begin - begin % interval, end, interval):
            busy[one] += min(end, one + interval) - max(begin, one)
    return busy
