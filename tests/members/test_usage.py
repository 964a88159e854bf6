"""What members use, counted by day and kept on disk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.members.usage import Mark, Row, Usage, day_of, end_of_day
from proxy.store.base import Delete, Put, StoreError
from proxy.store.sqlite import SqliteStore

#: 2026-11-24 23:59:50 UTC.
LATE = 1_795_564_790.0
PATIENCE = 60.0


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


async def test_a_job_is_counted_on_the_days_on_which_things_happened(
    store: SqliteStore, clock: Clock
) -> None:
    usage = Usage(store, now=clock)
    usage.accepted(Job())
    usage.uploaded("alice", 1000)
    clock.at += 20
    usage.ended(Job(), "completed", 12.5, 3)
    usage.served("alice", 500)
    first, second = await usage.days("2026-11-24", "2026-11-25")
    assert (first.day, first.used) == ("2026-11-24", Row(submitted=1, bytes_up=1000))
    assert second.used == Row(completed=1, running_seconds=12.5, outputs=3, bytes_down=500)
    assert usage.today("alice") == second.used


async def test_a_job_that_left_is_taken_back_on_its_day(store: SqliteStore, clock: Clock) -> None:
    usage = Usage(store, now=clock)
    usage.accepted(Job())
    clock.at += 20
    usage.discarded(Job())
    (row,) = await usage.days("2026-11-24", "2026-11-25")
    assert (row.day, row.used) == ("2026-11-24", Row(withdrawn=1))
    assert await usage.marks() == {}


@pytest.mark.parametrize(
    "damaged", [b"", b"{", b"null", b"[]", b"\xff\x00", b'{"outputs": "\xff"}']
)
async def test_a_damaged_count_is_left_out_and_counted_anew(
    store: SqliteStore, clock: Clock, damaged: bytes
) -> None:
    for key in "2026-11-23/bob", "2026-11-24/alice":
        await store.put("usage", key, damaged)
    await store.put("usage_marks", "alice/none", damaged)
    usage = Usage(store, now=clock)
    await usage.start()
    assert await usage.marks() == {}
    usage.accepted(Job())
    await usage.close()
    (row,) = await usage.days("2026-11-23", "2026-11-24")
    assert (row.member, row.used) == ("alice", Row(submitted=1))
    assert await usage.marks() == {"alice/one": Mark(Job().create_time, ended=False)}


async def test_counts_of_today_are_there_after_a_restart(store: SqliteStore, clock: Clock) -> None:
    usage = Usage(store, now=clock)
    await usage.start()
    usage.accepted(Job())
    usage.uploaded("bob", 7)
    await usage.close()
    again = Usage(store, now=clock)
    await again.start()
    assert again.today("alice").submitted == 1
    today = await again.days("2026-11-24", "2026-11-24")
    assert [(one.member, one.used.submitted, one.used.bytes_up) for one in today] == [
        ("alice", 1, 0),
        ("bob", 0, 7),
    ]
    again.uploaded("bob", 3)
    await again.close()
    assert [row.used.bytes_up for row in await again.days("2026-11-24", "2026-11-24", "bob")] == [
        10
    ]


async def test_jobs_are_written_at_once_and_bytes_after_a_while(
    store: SqliteStore, clock: Clock
) -> None:
    usage = Usage(store, now=clock, interval=3600)
    await usage.start()
    usage.accepted(Job())
    await until_written(store, "usage", b'"submitted":1')
    assert await usage.marks() == {"alice/one": Mark(int(LATE * 1000), ended=False)}
    await usage.close()
    quick = Usage(store, now=clock, interval=0.001)
    await quick.start()
    quick.served("alice", 9)
    await until_written(store, "usage", b'"bytes_down":9')
    await quick.close()


async def until_written(store: SqliteStore, collection: str, part: bytes) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if any([part in value async for _, value in store.scan(collection)]):
                return
            await asyncio.sleep(0)


class FullDisk(SqliteStore):
    """Refuses to write while `full`."""

    full = False

    async def write(self, changes: list[Put | Delete]) -> None:  # type: ignore[override]
        if self.full:
            raise StoreError("disk full")
        await super().write(changes)


class SlowDisk(SqliteStore):
    """Tells when it has written, and goes on only when `released`."""

    written: asyncio.Event
    released: asyncio.Event

    async def write(self, changes: list[Put | Delete]) -> None:  # type: ignore[override]
        await super().write(changes)
        self.written.set()
        await self.released.wait()


@pytest.mark.parametrize("who", ["the process", "the client that asks for the usage"])
async def test_nothing_is_counted_twice_when_somebody_leaves_during_a_write(
    tmp_path: Path, clock: Clock, who: str
) -> None:
    store = await SlowDisk.open(tmp_path / "slow.sqlite")
    assert isinstance(store, SlowDisk)
    store.written, store.released = asyncio.Event(), asyncio.Event()
    usage = Usage(store, now=clock)
    if who == "the process":
        await usage.start()
        usage.accepted(Job())
        await store.written.wait()
        leaving = asyncio.create_task(usage.close())
    else:
        usage.accepted(Job())
        leaving = asyncio.create_task(usage.flush())
        await store.written.wait()
        leaving.cancel()
    await asyncio.sleep(0)
    store.released.set()
    await asyncio.wait([leaving])
    (row,) = await usage.days("2026-11-24", "2026-11-24")
    assert row.used.submitted == 1
    again = Usage(store, now=clock)
    (row,) = await again.days("2026-11-23", "2026-11-24")
    assert row.used.submitted == 1
    await store.close()


async def test_nothing_is_lost_or_doubled_while_the_disk_refuses(
    tmp_path: Path, clock: Clock
) -> None:
    store = await FullDisk.open(tmp_path / "full.sqlite")
    assert isinstance(store, FullDisk)
    usage = Usage(store, now=clock)
    store.full = True
    usage.accepted(Job())
    with pytest.raises(StoreError):
        await usage.flush()
    usage.accepted(Job("two"))
    store.full = False
    (row,) = await usage.days("2026-11-24", "2026-11-24")
    assert row.used.submitted == 2
    assert sorted(await usage.marks()) == ["alice/one", "alice/two"]
    await store.close()


@given(st.floats(0, 4e9))
def test_a_day_ends_where_the_next_begins(at: float) -> None:
    end = end_of_day(at).timestamp()
    assert 0 < end - at <= 86_400
    assert day_of(end - 0.001) == day_of(at)
    assert day_of(end) > day_of(at)
