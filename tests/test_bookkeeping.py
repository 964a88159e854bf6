"""What a crash kept from being counted is counted at the next start, and nothing twice."""

from __future__ import annotations

from proxy.bookkeeping import recount
from proxy.jobs.keeper import HISTORY, LIVE
from proxy.jobs.record import EndedJob, JobRecord
from proxy.members.usage import MARKS, USAGE, Row, Usage
from proxy.store.base import Delete, Put
from proxy.store.sqlite import SqliteStore

#: 2026-11-24 18:00 UTC in seconds since 1970.
NOW = 1_795_543_200.0
DAY = "2026-11-24"


def live(prompt_id: str, *, accepted: bool = True) -> JobRecord:
    return JobRecord(
        prompt_id=prompt_id,
        member="alice",
        number=0,
        graph={},
        extra_data={},
        targets=None,
        client_id=None,
        create_time=int(NOW * 1000),
        accepted=accepted,
    )


def ended(prompt_id: str) -> EndedJob:
    summary = {
        "create_time": int(NOW * 1000),
        "execution_start_time": int(NOW * 1000),
        "execution_end_time": int(NOW * 1000) + 1500,
        "outputs_count": 2,
    }
    return EndedJob(prompt_id, "alice", "", 0, "completed", summary, None, b"{}")


async def put(store: SqliteStore, *jobs: JobRecord | EndedJob) -> None:
    for job in jobs:
        collection = HISTORY if isinstance(job, EndedJob) else LIVE
        await store.put(collection, job.key, job.to_bytes())


async def counted(store: SqliteStore) -> Row:
    """What a start finds."""
    usage = Usage(store, now=lambda: NOW)
    await recount(usage, store)
    rows = await usage.days(DAY, DAY)
    return rows[0].used if rows else Row()


async def test_the_history_from_before_there_was_a_usage_is_counted_once(
    store: SqliteStore,
) -> None:
    await put(store, ended("one"), live("two"), live("three", accepted=False))
    once = Row(submitted=2, completed=1, running_seconds=1.5, outputs=2)
    assert await counted(store) == once
    assert await counted(store) == once


async def test_an_end_that_was_not_counted_is_found(store: SqliteStore) -> None:
    usage = Usage(store, now=lambda: NOW)
    usage.accepted(live("one"))
    await usage.flush()
    await put(store, ended("one"))
    assert await counted(store) == Row(submitted=1, completed=1, running_seconds=1.5, outputs=2)


async def test_a_job_that_left_unseen_is_taken_back(store: SqliteStore) -> None:
    usage = Usage(store, now=lambda: NOW)
    usage.accepted(live("one"))
    await usage.flush()
    assert await counted(store) == Row(withdrawn=1)


async def test_an_id_that_is_used_again_is_another_job(store: SqliteStore) -> None:
    await put(store, ended("one"))
    await counted(store)
    await put(store, live("one"))
    assert (await counted(store)).submitted == 2
    await store.write([Delete(LIVE, live("one").key), Put(HISTORY, ended("one").key, b"?")])
    assert (await counted(store)).submitted == 2


async def test_marks_of_jobs_that_are_kept_no_longer_are_dropped(store: SqliteStore) -> None:
    await put(store, ended("one"))
    before = await counted(store)
    await store.delete(HISTORY, ended("one").key)
    assert await counted(store) == before
    assert [key async for key, _ in store.scan(MARKS)] == []
    assert [key async for key, _ in store.scan(USAGE)] == [f"{DAY}/alice"]
