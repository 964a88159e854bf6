"""Usage that is added up, the audit record, activity that is raised, and observations in bounds."""

from __future__ import annotations

import asyncio

import pytest
from databases import other_connection
from msgspec.structs import replace
from storage.samples import ended

from proxy.storage import usage as module
from proxy.storage.database import Database
from proxy.storage.job_tables import StoredJob
from proxy.storage.jobs import JobRepository
from proxy.storage.payloads import Payload
from proxy.storage.usage import (
    FACT,
    AccountRow,
    ActivityRepository,
    ActivityRow,
    AuditRow,
    JobTimes,
    Observation,
    ObservationRepository,
    UsageRepository,
    UsageRow,
    add_audit,
    forget_audit,
)


@pytest.fixture
def usage(database: Database) -> UsageRepository:
    return UsageRepository(database)


async def test_what_is_added_at_once_is_all_counted(usage: UsageRepository) -> None:
    row = UsageRow("2026-01-01", "anna", submitted=1, running_seconds=0.5, bytes_up=2**40)
    await asyncio.gather(*(usage.add([row, row]) for _ in range(10)))
    await usage.add([UsageRow("2026-01-01", "anna", submitted=-1, withdrawn=1)])
    (found,) = await usage.days("2026-01-01", "2026-01-01")
    assert found == UsageRow(
        "2026-01-01", "anna", 19, withdrawn=1, running_seconds=10.0, bytes_up=20 * 2**40
    )


async def test_what_was_used_with_each_token_is_counted_apart(usage: UsageRepository) -> None:
    rows = [
        UsageRow("2026-01-01", "anna", number, token=token)
        for number, token in ((1, "b"), (2, "a"), (4, ""), (8, "a"))
    ]
    await usage.add(rows)
    found = await usage.days("2026-01-01", "2026-01-01")
    assert [(row.token, row.submitted) for row in found] == [("", 4), ("a", 10), ("b", 1)]


async def test_uploads_with_all_tokens_count_against_the_limit_of_the_day(
    usage: UsageRepository, database: Database
) -> None:
    rows = [UsageRow("2026-01-01", "anna", bytes_up=3, token=str(n)) for n in range(8)]
    async with other_connection(database) as other:
        both = usage, UsageRepository(other)
        added = await asyncio.gather(
            *(both[n % 2].upload(row, limit=10) for n, row in enumerate(rows))
        )
    assert sum(added) == 3
    found = await usage.days("2026-01-01", "2026-01-01")
    assert [row.bytes_up for row in found] == [3, 3, 3]


async def test_days_are_asked_for_from_to_and_by_member(usage: UsageRepository) -> None:
    for day in ("2026-01-01", "2026-01-02", "2026-01-03"):
        await usage.add([UsageRow(day, "ben", 1), UsageRow(day, "anna", 1)])
    found = await usage.days("2026-01-02", "2026-01-03")
    assert [(row.day[-1], row.member) for row in found] == [
        ("2", "anna"),
        ("2", "ben"),
        ("3", "anna"),
        ("3", "ben"),
    ]
    assert len(await usage.days("2026-01-01", "2026-01-03", "ben")) == 3


async def test_the_record_is_read_from_its_end(usage: UsageRepository) -> None:
    rows = [
        AuditRow(at, "login" if at % 2 else "job", "anna" if at < 5 else "ben", b'{"at": 1}')
        for at in range(10)
    ]
    await usage.database.write(lambda connection: add_audit(connection, rows))
    assert await usage.record(limit=3) == [rows[9], rows[8], rows[7]]
    assert await usage.record(limit=2, offset=8) == [rows[1], rows[0]]
    assert await usage.record(limit=2, member="anna") == [rows[4], rows[3]]
    assert await usage.record(limit=1, member="anna", action="job") == [rows[4]]


async def test_old_entries_are_removed(usage: UsageRepository) -> None:
    rows = [AuditRow(at, "job", "anna", b"{}") for at in range(10)]
    await usage.database.write(lambda connection: add_audit(connection, rows))
    assert await usage.database.write(lambda connection: forget_audit(connection, 7)) == 7
    assert [row.at for row in await usage.record(limit=10)] == [9, 8, 7]


ROW = ActivityRow(300, "anna", running=2, waiting=5, completed=3, failed=1, busy=7.5)
ACCOUNT = AccountRow(300, "main", slots=3, used=2)


@pytest.fixture
def repository(database: Database) -> ActivityRepository:
    return ActivityRepository(database)


async def test_an_interval_keeps_the_most(repository: ActivityRepository) -> None:
    await repository.put([ROW], [ACCOUNT], forget=0)
    later = replace(ROW, running=1, failed=2, busy=8.0)
    await repository.put([later], [replace(ACCOUNT, used=0, reason="dead_key")], forget=0)
    await repository.put([ROW], [ACCOUNT], forget=0)
    assert await repository.rows(0, "anna") == [replace(ROW, failed=2, busy=8.0)]
    assert await repository.accounts(0) == [replace(ACCOUNT, reason="dead_key")]


async def test_a_member_reads_its_own_rows_and_old_intervals_are_forgotten(
    repository: ActivityRepository,
) -> None:
    everybody = replace(ROW, member="")
    await repository.put([ROW, everybody, replace(ROW, at=0)], [ACCOUNT], forget=0)
    assert await repository.rows(0) == [everybody]
    assert await repository.rows(1, "anna") == [ROW]
    assert await repository.rows(0, "ben") == []
    await repository.put([], [], forget=300)
    assert await repository.rows(0, "anna") == [ROW]
    await repository.put([], [], forget=301)
    assert (await repository.rows(0, "anna"), await repository.accounts(0)) == ([], [])


async def test_the_times_of_jobs_that_live_and_have_ended(
    database: Database, repository: ActivityRepository
) -> None:
    jobs = JobRepository(database)
    payload = Payload(b"{}", b"{}")
    for id_, end in (("old", 1000), ("new", 3000)):
        one = await jobs.insert(StoredJob("anna", id_, "queued", 0, 500, 500), payload)
        await jobs.finish(ended(one, "failed", end, started_at=700), keep=10)
    for id_, accepted in (("waits", True), ("unanswered", False)):
        one = StoredJob("ben", id_, "queued", 0, 2000, 2000, accepted=accepted)
        await jobs.insert(one, payload)
    assert await repository.times(2000) == [
        JobTimes("anna", "failed", 500, 700, 3000),
        JobTimes("ben", "queued", 2000, None, None),
    ]


EVENT = Observation("cloud", "event", "job_exploded: type", b'{"a": 1}', 1, 1000, 1000)


@pytest.fixture
def observed(database: Database) -> ObservationRepository:
    return ObservationRepository(database)


async def test_a_fact_is_replaced(observed: ObservationRepository) -> None:
    fact = Observation("cloud", FACT, "prompt_id", b'"minted"', 1, 1000, 1000)
    await observed.add([fact])
    await observed.add([replace(fact, value=b'"honoured"', last_at=2000)])
    assert await observed.load() == [replace(fact, value=b'"honoured"', last_at=2000)]


async def test_replicas_count_the_same_anomaly_together_and_keep_the_first_example(
    observed: ObservationRepository,
) -> None:
    await observed.add([EVENT])
    later = replace(EVENT, value=b'{"a": 2}', count=3, last_at=2000)
    await asyncio.gather(*(observed.add([later]) for _ in range(4)))
    assert await observed.load() == [replace(EVENT, count=13, last_at=2000)]


async def test_observations_are_read_by_account(observed: ObservationRepository) -> None:
    await observed.add([EVENT, replace(EVENT, identity="cloud b")])
    assert [row.identity for row in await observed.load(["cloud b"])] == ["cloud b"]


async def test_an_account_fills_no_disk(
    observed: ObservationRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_OBSERVATIONS", 3)
    await observed.add([replace(EVENT, name=str(number)) for number in range(2)])
    await observed.add([replace(EVENT, name=str(number), last_at=2000) for number in range(9)])
    rows = await observed.load()
    assert [(row.name, row.count) for row in rows] == [("0", 2), ("1", 2), ("2", 1)]
