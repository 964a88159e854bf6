"""Usage that is added up, and the audit record."""

from __future__ import annotations

import asyncio

import pytest

from proxy.storage.database import Database
from proxy.storage.usage import AuditRow, UsageRepository, UsageRow


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
    await usage.note(rows)
    assert await usage.record(limit=3) == [rows[9], rows[8], rows[7]]
    assert await usage.record(limit=2, offset=8) == [rows[1], rows[0]]
    assert await usage.record(limit=2, member="anna") == [rows[4], rows[3]]
    assert await usage.record(limit=1, member="anna", action="job") == [rows[4]]


async def test_old_entries_are_removed(usage: UsageRepository) -> None:
    await usage.note([AuditRow(at, "job", "anna", b"{}") for at in range(10)])
    assert await usage.forget_audit(7) == 7
    assert [row.at for row in await usage.record(limit=10)] == [9, 8, 7]
