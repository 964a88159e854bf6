"""Usage that is added up, the audit record, and observations in bounds."""

from __future__ import annotations

import asyncio

import pytest
from databases import other_connection
from msgspec.structs import replace

from proxy.storage import usage as module
from proxy.storage import usage as storage_usage
from proxy.storage.database import Database
from proxy.storage.usage import (
    FACT,
    AuditRow,
    Observation,
    ObservationRepository,
    UsageRepository,
    UsageRow,
    add_audit,
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


async def test_old_entries_are_removed(
    usage: UsageRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_usage, "CHUNK", 3)
    rows = [AuditRow(at, "job", "anna", b"{}") for at in range(10)]
    await usage.database.write(lambda connection: add_audit(connection, rows))
    await usage.forget(7)
    assert [row.at for row in await usage.record(limit=10)] == [9, 8, 7]


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
