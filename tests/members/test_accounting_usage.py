"""What members use, counted by day: bytes written now and then, all told from the storage."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from databases import other_connection
from hypothesis import given
from hypothesis import strategies as st
from stopped_clock import StoppedClock, stopped

from proxy.costs.budgets import renewal
from proxy.members import accounting
from proxy.members.accounting import Usage
from proxy.storage.database import Database
from proxy.storage.leases import Batch
from proxy.storage.usage import UsageRepository, UsageRow, day_of

#: 2026-11-24 23:59:50 UTC.
LATE = 1_795_564_790.0
TIMEOUT = 60.0
DAY, NEXT = "2026-11-24", "2026-11-25"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    return stopped(monkeypatch, LATE)


@pytest.fixture
def repository(database: Database) -> UsageRepository:
    return UsageRepository(database)


async def test_what_one_replica_counts_the_others_tell(
    repository: UsageRepository, database: Database, clock: StoppedClock
) -> None:
    usage = Usage(repository)
    async with other_connection(database) as other:
        there = Usage(UsageRepository(other))
        await repository.add([UsageRow(DAY, "alice", submitted=1)])
        usage.uploaded("bob", 7)
        await usage.unwritten.flush()
        there.uploaded("bob", 3)
        expected = [UsageRow(DAY, "alice", submitted=1), UsageRow(DAY, "bob", bytes_up=10)]
        assert await there.days(DAY, DAY) == await usage.days(DAY, DAY) == expected
        assert await usage.today("bob") == expected[1]
        assert await usage.today("carl") == UsageRow(DAY, "carl")


async def test_bytes_that_are_not_written_yet_are_reported(
    repository: UsageRepository, clock: StoppedClock
) -> None:
    usage = Usage(repository)
    usage.served("bob", 7)
    assert (await usage.today("bob")).bytes_down == 7
    await usage.unwritten.close()
    assert await Usage(repository).today("bob") == UsageRow(DAY, "bob", bytes_down=7)


async def test_an_upload_counts_on_its_day_within_its_bound(
    repository: UsageRepository, clock: StoppedClock
) -> None:
    usage = Usage(repository)
    assert await usage.upload("bob", 60, at=clock.at, max_bytes=100)
    usage.uploaded("bob", -10)
    assert not await usage.upload("bob", 51, at=clock.at, max_bytes=100)
    assert await usage.upload("bob", 50, at=clock.at, max_bytes=100)
    assert (await usage.today("bob")).bytes_up == 100
    assert await usage.upload("bob", 1000, at=clock.at, max_bytes=None)


async def test_bytes_are_booked_on_the_day_on_which_they_came(
    repository: UsageRepository, clock: StoppedClock
) -> None:
    usage = Usage(repository)
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

    async def add(self, rows: Sequence[UsageRow], batch: Batch | None = None) -> None:
        await super().add(rows, batch)
        if rows:
            self.written.set()
            await self.released.wait()


@pytest.mark.parametrize("who", ["the process", "the client that asks for the usage"])
async def test_nothing_is_counted_twice_when_somebody_leaves_during_a_write(
    database: Database, clock: StoppedClock, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(database)
    monkeypatch.setattr(accounting, "WRITE_INTERVAL", 0.001)
    usage = Usage(slow)
    usage.uploaded("alice", 1)
    work = usage.unwritten.run() if who == "the process" else usage.unwritten.flush()
    leaving = asyncio.create_task(work)
    await slow.written.wait()
    leaving.cancel()
    closing = asyncio.create_task(usage.unwritten.close())
    slow.released.set()
    await asyncio.wait([leaving, closing])
    (row,) = await Usage(UsageRepository(database)).days("2026-11-23", DAY)
    assert row.bytes_up == 1


@given(st.floats(0, 4e9))
def test_a_day_ends_where_the_next_begins(at: float) -> None:
    end = renewal("day", at).timestamp()
    assert 0 < end - at <= 86_400
    assert day_of(end - 0.001) == day_of(at)
    assert day_of(end) > day_of(at)
