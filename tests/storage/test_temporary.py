"""Pictures of helper nodes and exports of assets: kept for a while, within bounds."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from proxy.storage import temporary
from proxy.storage.database import Database
from proxy.storage.temporary import (
    KEPT,
    MAX_EXPORTS,
    STALE,
    Export,
    ExportRepository,
    PackPicture,
    PackPictureRepository,
)

SECOND = 1000
MINUTE = 60 * SECOND
DAY = 24 * 60 * MINUTE
MAX_BYTES = 1000


@pytest.fixture
def pictures(database: Database, monkeypatch: pytest.MonkeyPatch) -> PackPictureRepository:
    monkeypatch.setattr(temporary, "_ROOM", 100)
    return PackPictureRepository(database)


def picture(id_: str, *, at: int = 0, size: int = 60, member: str = "ann") -> PackPicture:
    return PackPicture(member, id_, "image/png", at, size, bytes(size))


async def test_a_known_id_keeps_its_picture(pictures: PackPictureRepository) -> None:
    first = picture("a")
    assert await pictures.put(first, max_bytes=MAX_BYTES) is True
    assert await pictures.put(replace(first, data=b"other", size=5), max_bytes=MAX_BYTES) is False
    found = await pictures.get("ann", "a", now=1, use=False)
    assert found is not None
    assert found.data == first.data


async def test_each_member_has_ids_of_their_own(pictures: PackPictureRepository) -> None:
    await pictures.put(picture("a"), max_bytes=MAX_BYTES)
    assert await pictures.size("ben", "a") is None
    assert await pictures.get("ben", "a", now=1, use=True) is None
    assert await pictures.put(picture("a", member="ben"), max_bytes=MAX_BYTES) is True


async def test_old_ones_are_forgotten_when_there_is_too_much(
    pictures: PackPictureRepository,
) -> None:
    await pictures.put(picture("old", at=0), max_bytes=MAX_BYTES)
    await pictures.put(picture("new", at=9 * MINUTE), max_bytes=MAX_BYTES)
    await pictures.get("ann", "new", now=10 * MINUTE, use=False)
    assert await pictures.size("ann", "old") is not None  # ten minutes are not yet over
    await pictures.get("ann", "new", now=10 * MINUTE + 1, use=False)
    assert await pictures.size("ann", "old") is None
    assert await pictures.size("ann", "new") is not None


async def test_one_that_was_fetched_is_forgotten_after_a_minute(
    pictures: PackPictureRepository,
) -> None:
    for id_ in ("fetched", "waiting"):
        await pictures.put(picture(id_), max_bytes=MAX_BYTES)
    await pictures.get("ann", "fetched", now=SECOND, use=False)
    await pictures.get("ann", "waiting", now=MINUTE + 1, use=False)
    assert await pictures.size("ann", "fetched") is None
    assert await pictures.size("ann", "waiting") is not None


async def test_one_that_a_graph_has_loaded_is_young_again(
    pictures: PackPictureRepository,
) -> None:
    for id_ in ("loaded", "waiting"):
        await pictures.put(picture(id_), max_bytes=MAX_BYTES)
    await pictures.get("ann", "loaded", now=10 * MINUTE, use=True)
    await pictures.get("ann", "loaded", now=10 * MINUTE + 1, use=False)
    assert await pictures.size("ann", "loaded") is not None
    assert await pictures.size("ann", "waiting") is None


async def test_within_the_room_nothing_is_forgotten_for_a_day(
    pictures: PackPictureRepository,
) -> None:
    await pictures.put(picture("a", at=0), max_bytes=MAX_BYTES)
    await pictures.get("ann", "a", now=DAY - 1, use=False)
    await pictures.put(picture("b", at=DAY), max_bytes=MAX_BYTES)
    assert await pictures.size("ann", "a") is not None
    await pictures.put(picture("c", at=DAY + 1), max_bytes=MAX_BYTES)
    assert await pictures.size("ann", "a") is None


async def test_a_member_keeps_no_more_than_the_most(pictures: PackPictureRepository) -> None:
    for number in range(16):
        assert await pictures.put(picture(str(number), at=number), max_bytes=MAX_BYTES) is True
    assert await pictures.put(picture("one more", at=16), max_bytes=MAX_BYTES) is None
    assert await pictures.put(picture("ben's", at=16, member="ben"), max_bytes=MAX_BYTES) is True
    assert await pictures.put(picture("later", at=11 * MINUTE), max_bytes=MAX_BYTES) is True


async def test_a_result_is_stored_again_under_its_id_until_another_run_replaces_it(
    pictures: PackPictureRepository,
) -> None:
    def result(id_: str, position: int) -> PackPicture:
        return PackPicture(
            "ann",
            id_,
            "image/png",
            0,
            5,
            account="main",
            cloud_name="x.png",
            cloud_type="temp",
            encoding="PNG",
            signature="s",
            position=position,
        )

    await pictures.keep_results("s", [result("b", 1), result("a", 0)])
    assert [stored.id for stored in await pictures.results("ann", ["s"])] == ["a", "b"]
    assert await pictures.results("ben", ["s"]) == []
    await pictures.keep_results("s", [result("a", 0)])
    assert [stored.id for stored in await pictures.results("ann", ["s"])] == ["a"]
    assert await pictures.size("ann", "b") is not None  # a client may be about to fetch it


NEW = Export("anna", "e1", "k", "created", "assets.zip", b'{"a": 1}', 1000, 1000)


@pytest.fixture
def exports(database: Database) -> ExportRepository:
    return ExportRepository(database)


async def test_a_new_export_comes_back_as_it_was_written(exports: ExportRepository) -> None:
    assert await exports.begin(NEW) == (NEW, True)
    assert await exports.get("anna", "e1") == NEW
    assert await exports.get("ben", "e1") is None
    assert await exports.get("anna", "\0") is None
    assert not await exports.update("anna", "\0", 1)
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
    await exports.update("anna", "e2", late.created_at + 1, status="completed", ended_at=1)
    last = replace(late, id="e3")
    assert await exports.begin(last) == (last, True)


async def test_a_note_is_news_of_the_export_alone(exports: ExportRepository) -> None:
    await exports.begin(NEW)
    await exports.begin(replace(NEW, member="ben"))
    await exports.update("anna", "e1", 5000, status="running", result=b'{"done": 3}')
    noted = replace(NEW, status="running", updated_at=5000, result=b'{"done": 3}')
    assert await exports.get("anna", "e1") == noted
    assert not noted.is_stale(5000 + STALE)
    assert await exports.get("ben", "e1") == replace(NEW, member="ben")


async def test_an_archive_is_found_by_its_name_when_it_is_available(
    exports: ExportRepository,
) -> None:
    await exports.begin(NEW)
    assert await exports.named("anna", "assets.zip") is None
    await exports.update("anna", "e1", 2000, status="completed", entries=b"[]", ended_at=2000)
    found = await exports.named("anna", "assets.zip")
    assert found is not None
    assert (found.id, found.entries, found.ended_at) == ("e1", b"[]", 2000)
    assert await exports.named("ben", "assets.zip") is None


async def test_a_member_keeps_no_more_than_the_newest(exports: ExportRepository) -> None:
    await exports.begin(replace(NEW, member="ben"))
    for number in range(MAX_EXPORTS + 2):
        at = 1000 + number
        await exports.begin(
            replace(NEW, id=f"e{number}", key=f"k{number}", created_at=at, updated_at=at)
        )
    kept = [
        number
        for number in range(MAX_EXPORTS + 2)
        if await exports.get("anna", f"e{number}") is not None
    ]
    assert kept == [*range(2, MAX_EXPORTS + 2)]
    assert await exports.get("ben", "e1") is not None


async def test_what_is_older_than_a_day_goes_with_the_next(exports: ExportRepository) -> None:
    await exports.begin(NEW)
    later = 1001 + KEPT
    await exports.begin(replace(NEW, id="e2", created_at=later, updated_at=later))
    assert await exports.get("anna", "e1") is None
