"""What members use, counted by day; today's in memory, bytes written now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.members.usage import Usage, end_of_day
from proxy.storage.database import Database, StorageError
from proxy.storage.usage import UsageRepository, UsageRow, day_of

#: 2026-11-24 23:59:50 UTC.
LATE = 1_795_564_790.0
PATIENCE = 60.0
DAY, NEXT = "2026-11-24", "2026-11-25"


@dataclass
class Job:
    prompt_id: str = "one"
    member: str = "alice"
    create_time: int = int(LATE * 1000)


class Clock:
    at = LATE

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repository(database: Database) -> UsageRepository:
    return UsageRepository(database)


async def test_todays_jobs_are_known_at_once(repository: UsageRepository, clock: Clock) -> None:
    usage = Usage(repository, now=clock)
    usage.accepted(Job())
    usage.ended(Job(), "completed", 12.5, 3)
    expected = UsageRow(DAY, "alice", submitted=1, completed=1, running_seconds=12.5, outputs=3)
    assert usage.today("alice") == expected
    (row,) = await usage.days(DAY, DAY)
    assert row == expected


async def test_a_job_that_left_is_taken_back_on_its_day(
    repository: UsageRepository, clock: Clock
) -> None:
    usage = Usage(repository, now=clock)
    usage.accepted(Job())
    usage.discarded(Job("two"))
    assert usage.today("alice") == UsageRow(DAY, "alice", withdrawn=1)
    clock.at += 20
    usage.discarded(Job())
    assert usage.today("alice") == UsageRow(NEXT, "alice")


async def test_counts_of_today_are_there_after_a_restart(
    repository: UsageRepository, clock: Clock
) -> None:
    await repository.add([UsageRow(DAY, "alice", submitted=1)])
    usage = Usage(repository, now=clock)
    await usage.start()
    usage.uploaded("bob", 7)
    await usage.close()
    again = Usage(repository, now=clock)
    await again.start()
    assert again.today("alice").submitted == 1
    today = await again.days(DAY, DAY)
    assert [(one.member, one.submitted, one.bytes_up) for one in today] == [
        ("alice", 1, 0),
        ("bob", 0, 7),
    ]
    again.uploaded("bob", 3)
    await again.close()
    assert [row.bytes_up for row in await again.days(DAY, NEXT, "bob")] == [10]


async def test_bytes_are_booked_on_the_day_on_which_they_came(
    repository: UsageRepository, clock: Clock
) -> None:
    usage = Usage(repository, now=clock)
    usage.uploaded("alice", 1000)
    clock.at += 20
    usage.served("alice", 500)
    first, second = await usage.days(DAY, NEXT)
    assert first == UsageRow(DAY, "alice", bytes_up=1000)
    assert second == UsageRow(NEXT, "alice", bytes_down=500)


class Slow(UsageRepository):
    """Tells when it has written, and goes on only when `released`."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.written, self.released = asyncio.Event(), asyncio.Event()

    async def add(self, rows: Sequence[UsageRow]) -> None:
        await super().add(rows)
        if rows:
            self.written.set()
            await self.released.wait()


@pytest.mark.parametrize("who", ["the process", "the client that asks for the usage"])
async def test_nothing_is_counted_twice_when_somebody_leaves_during_a_write(
    database: Database, clock: Clock, who: str
) -> None:
    slow = Slow(database)
    usage = Usage(slow, now=clock, interval=0.001)
    usage.uploaded("alice", 1)
    work = usage.run() if who == "the process" else usage.flush()
    leaving = asyncio.create_task(work)
    await slow.written.wait()
    leaving.cancel()
    closing = asyncio.create_task(usage.close())
    slow.released.set()
    await asyncio.wait([leaving, closing])
    (row,) = await Usage(UsageRepository(database), now=clock).days("2026-11-23", DAY)
    assert row.bytes_up == 1


class Full(UsageRepository):
    """Refuses to write while `full`."""

    full = True

    async def add(self, rows: Sequence[UsageRow]) -> None:
        if self.full:
            raise StorageError("disk full")
        await super().add(rows)


@given(st.floats(0, 4e9))
def test_a_day_ends_where_the_next_begins(at: float) -> None:
    end = end_of_day(at).timestamp()
    assert 0 < end - at <= 86_400
    assert day_of(end - 0.001) == day_of(at)
    assert day_of(end) > day_of(at)
