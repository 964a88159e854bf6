"""Exports of assets: one for equal requests, found by id and name, bounded, in each database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.storage.database import Database
from proxy.storage.exports import KEPT, MOST_EXPORTS, STALE, Export, ExportRepository

NEW = Export("anna", "e1", "k", "created", "assets.zip", b'{"a": 1}', 1000, 1000)


@pytest.fixture
def exports(database: Database) -> ExportRepository:
    return ExportRepository(database)


async def test_a_new_export_comes_back_as_it_was_written(exports: ExportRepository) -> None:
    assert await exports.begin(NEW) == (NEW, True)
    assert await exports.get("anna", "e1") == NEW
    assert await exports.get("ben", "e1") is None
    assert await exports.get("anna", "e2") is None


async def test_an_equal_request_gets_the_export_that_is_under_way(
    exports: ExportRepository,
) -> None:
    await exports.begin(NEW)
    again = replace(NEW, id="e2", created_at=1500, updated_at=1500)
    assert await exports.begin(again) == (NEW, False)
    other = replace(again, key="other")
    assert await exports.begin(other) == (other, True)
    of_ben = replace(again, member="ben")
    assert await exports.begin(of_ben) == (of_ben, True)


async def test_one_that_has_ended_or_stopped_is_not_under_way(exports: ExportRepository) -> None:
    await exports.begin(NEW)
    late = replace(NEW, id="e2", created_at=1001 + STALE, updated_at=1001 + STALE)
    assert await exports.begin(late) == (late, True)
    assert NEW.is_stale(late.created_at)
    await exports.note("anna", "e2", late.created_at + 1, status="completed", ended_at=1)
    last = replace(late, id="e3")
    assert await exports.begin(last) == (last, True)


async def test_a_note_is_news_of_the_export_alone(exports: ExportRepository) -> None:
    await exports.begin(NEW)
    await exports.begin(replace(NEW, member="ben"))
    await exports.note("anna", "e1", 5000, status="running", result=b'{"done": 3}')
    noted = replace(NEW, status="running", updated_at=5000, result=b'{"done": 3}')
    assert await exports.get("anna", "e1") == noted
    assert not noted.is_stale(5000 + STALE)
    assert await exports.get("ben", "e1") == replace(NEW, member="ben")


async def test_an_archive_is_found_by_its_name_when_it_is_available(
    exports: ExportRepository,
) -> None:
    await exports.begin(NEW)
    assert await exports.named("anna", "assets.zip") is None
    await exports.note("anna", "e1", 2000, status="completed", entries=b"[]", ended_at=2000)
    found = await exports.named("anna", "assets.zip")
    assert found is not None
    assert (found.id, found.entries, found.ended_at) == ("e1", b"[]", 2000)
    assert await exports.named("ben", "assets.zip") is None


async def test_a_member_keeps_no_more_than_the_newest(exports: ExportRepository) -> None:
    await exports.begin(replace(NEW, member="ben"))
    for number in range(MOST_EXPORTS + 2):
        at = 1000 + number
        await exports.begin(
            replace(NEW, id=f"e{number}", key=f"k{number}", created_at=at, updated_at=at)
        )
    kept = [
        number
        for number in range(MOST_EXPORTS + 2)
        if await exports.get("anna", f"e{number}") is not None
    ]
    assert kept == [*range(2, MOST_EXPORTS + 2)]
    assert await exports.get("ben", "e1") is not None


async def test_what_is_older_than_a_day_goes_with_the_next(exports: ExportRepository) -> None:
    await exports.begin(NEW)
    later = 1001 + KEPT
    await exports.begin(replace(NEW, id="e2", created_at=later, updated_at=later))
    assert await exports.get("anna", "e1") is None
