"""How many jobs ran, waited and failed in each interval of the last week, and how accounts were."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field

import structlog
from msgspec.structs import replace

from proxy import clock
from proxy.jobs.models import AccountView, JobState
from proxy.storage.database import StorageError
from proxy.storage.usage import AccountRow, ActivityRepository, ActivityRow, JobTimes

log = structlog.get_logger(__name__)

#: An interval, and how far back they are kept, in ms.
INTERVAL = 300_000
KEPT = 7 * 86_400_000

#: Seconds between two samples. A sample looks at what it may not have seen yet, so none is missed.
EVERY = 15.0

Span = tuple[int, int]


@dataclass(eq=False, repr=False)
class Sampler:
    """The writer of the intervals, at work while `is_active`: one replica is enough.

    `accounts` tells how the accounts are now, `clock` the time in seconds since 1970.
    """

    repository: ActivityRepository
    accounts: Callable[[], Awaitable[Iterable[AccountView]]]
    is_active: Callable[[], bool]
    clock: Callable[[], float] = clock.time
    _seen: int | None = field(init=False, default=None)
    _written: set[ActivityRow | AccountRow] = field(init=False, default_factory=set)

    async def run(self) -> None:
        """Sample every few seconds, until cancelled."""
        while True:
            if self.is_active():
                try:
                    await self.sample()
                except StorageError as error:
                    log.warning("activity_write_failed", error=str(error))
            await asyncio.sleep(EVERY)

    async def sample(self) -> None:
        """Bring the intervals up to date, from the last one that anybody has written; what is
        written already is not written again. Raises `StorageError`."""
        now = int(self.clock() * 1000)
        current = now - now % INTERVAL
        if self._seen is None:
            self._seen = await self.repository.last() or 0
        start = max(current - KEPT, min(self._seen, current) - INTERVAL)
        times = await self.repository.times(start)
        rows = await asyncio.to_thread(lambda: list(aggregate(times, start, now)))
        accounts = [
            AccountRow(current, view.name, view.slots, view.used, view.reason or "")
            for view in await self.accounts()
        ]
        news = set(rows) | set(accounts)
        if news - self._written:
            await self.repository.put(
                [row for row in rows if row not in self._written],
                [row for row in accounts if row not in self._written],
                forget=current - KEPT,
            )
        self._written, self._seen = news, current


def aggregate(
    jobs: Iterable[JobTimes], start: int, stop: int, interval: int = INTERVAL
) -> Iterator[ActivityRow]:
    """Yield the intervals from `start` (the beginning of one) to `stop` (ms) in which anything
    happened, of each member and, under an empty name, of everybody."""
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
        runs, waits = _max_level(running[name], interval), _max_level(waiting[name], interval)
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


def _max_level(spans: Iterable[Span], interval: int) -> dict[int, int]:
    """Return for each interval how many spans there were at once, at most."""
    steps = [
        (at, step) for begin, end in spans if begin < end for at, step in ((begin, 1), (end, -1))
    ]
    steps.sort()
    highest: dict[int, int] = {}
    level = since = 0
    for at, step in steps:
        if level and at > since:
            for begin in range(since - since % interval, at, interval):
                highest[begin] = max(highest.get(begin, 0), level)
        level, since = level + step, at
    return highest


def _busy(spans: Iterable[Span], interval: int) -> dict[int, int]:
    """Return for each interval the sum of the parts of all spans that lie in it, in ms."""
    busy: defaultdict[int, int] = defaultdict(int)
    for begin, end in spans:
        for at in range(begin - begin % interval, end, interval):
            busy[at] += min(end, at + interval) - max(begin, at)
    return busy


def folded(rows: Iterable[ActivityRow], interval: int) -> list[ActivityRow]:
    """Return a member's rows in longer intervals: the most that ran and waited, and the sums."""
    found: dict[int, ActivityRow] = {}
    for row in rows:
        at = row.at - row.at % interval
        whole = found.get(at, ActivityRow(at, row.member))
        found[at] = replace(
            whole,
            running=max(whole.running, row.running),
            waiting=max(whole.waiting, row.waiting),
            completed=whole.completed + row.completed,
            failed=whole.failed + row.failed,
            busy=round(whole.busy + row.busy, 3),
        )
    return list(found.values())


def folded_accounts(rows: Iterable[AccountRow], interval: int) -> list[AccountRow]:
    """Return the rows of accounts in longer intervals: the most slots, and the last reason why one
    took no jobs."""
    found: dict[tuple[int, str], AccountRow] = {}
    for row in rows:
        key = row.at - row.at % interval, row.account
        whole = found.get(key, AccountRow(*key, 0, 0))
        found[key] = replace(
            whole,
            slots=max(whole.slots, row.slots),
            used=max(whole.used, row.used),
            reason=row.reason or whole.reason,
        )
    return list(found.values())
