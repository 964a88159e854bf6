"""Pictures of helper nodes: kept for a while, within bounds, of one member each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.storage import helpers
from proxy.storage.database import Database
from proxy.storage.helpers import HelperPicture, HelperPictureRepository

SECOND = 1000
MINUTE = 60 * SECOND
DAY = 24 * 60 * MINUTE
MOST = 1000


@pytest.fixture
def pictures(database: Database, monkeypatch: pytest.MonkeyPatch) -> HelperPictureRepository:
    monkeypatch.setattr(helpers, "_ROOM", 100)
    return HelperPictureRepository(database)


def picture(id_: str, *, at: int = 0, size: int = 60, member: str = "ann") -> HelperPicture:
    return HelperPicture(member, id_, "image/png", at, size, bytes(size))


async def test_a_known_id_keeps_its_picture(pictures: HelperPictureRepository) -> None:
    first = picture("a")
    assert await pictures.put(first, most=MOST) is True
    assert await pictures.put(replace(first, data=b"other", size=5), most=MOST) is False
    found = await pictures.get("ann", "a", now=1, use=False)
    assert found is not None
    assert found.data == first.data


async def test_each_member_has_ids_of_their_own(pictures: HelperPictureRepository) -> None:
    await pictures.put(picture("a"), most=MOST)
    assert not await pictures.knows("ben", "a")
    assert await pictures.get("ben", "a", now=1, use=True) is None
    assert await pictures.put(picture("a", member="ben"), most=MOST) is True


async def test_old_ones_are_forgotten_when_there_is_too_much(
    pictures: HelperPictureRepository,
) -> None:
    await pictures.put(picture("old", at=0), most=MOST)
    await pictures.put(picture("new", at=9 * MINUTE), most=MOST)
    await pictures.get("ann", "new", now=10 * MINUTE, use=False)
    assert await pictures.knows("ann", "old")  # ten minutes are not yet over
    await pictures.get("ann", "new", now=10 * MINUTE + 1, use=False)
    assert not await pictures.knows("ann", "old")
    assert await pictures.knows("ann", "new")


async def test_one_that_was_fetched_is_forgotten_after_a_minute(
    pictures: HelperPictureRepository,
) -> None:
    for id_ in ("fetched", "waiting"):
        await pictures.put(picture(id_), most=MOST)
    await pictures.get("ann", "fetched", now=SECOND, use=False)
    await pictures.get("ann", "waiting", now=MINUTE + 1, use=False)
    assert not await pictures.knows("ann", "fetched")
    assert await pictures.knows("ann", "waiting")


async def test_one_that_a_graph_has_loaded_is_young_again(
    pictures: HelperPictureRepository,
) -> None:
    for id_ in ("loaded", "waiting"):
        await pictures.put(picture(id_), most=MOST)
    await pictures.get("ann", "loaded", now=10 * MINUTE, use=True)
    await pictures.get("ann", "loaded", now=10 * MINUTE + 1, use=False)
    assert await pictures.knows("ann", "loaded")
    assert not await pictures.knows("ann", "waiting")


async def test_within_the_room_nothing_is_forgotten_for_a_day(
    pictures: HelperPictureRepository,
) -> None:
    await pictures.put(picture("a", at=0), most=MOST)
    await pictures.get("ann", "a", now=DAY - 1, use=False)
    await pictures.put(picture("b", at=DAY), most=MOST)
    assert await pictures.knows("ann", "a")
    await pictures.put(picture("c", at=DAY + 1), most=MOST)
    assert not await pictures.knows("ann", "a")


async def test_a_member_keeps_no_more_than_the_most(pictures: HelperPictureRepository) -> None:
    for number in range(16):
        assert await pictures.put(picture(str(number), at=number), most=MOST) is True
    assert await pictures.put(picture("one more", at=16), most=MOST) is None
    assert await pictures.put(picture("ben's", at=16, member="ben"), most=MOST) is True
    assert await pictures.put(picture("later", at=11 * MINUTE), most=MOST) is True


async def test_a_result_is_told_again_under_its_id_until_another_run_replaces_it(
    pictures: HelperPictureRepository,
) -> None:
    def result(id_: str, position: int) -> HelperPicture:
        return HelperPicture(
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
    assert [one.id for one in await pictures.results("ann", ["s"])] == ["a", "b"]
    assert await pictures.results("ben", ["s"]) == []
    await pictures.keep_results("s", [result("a", 0)])
    assert [one.id for one in await pictures.results("ann", ["s"])] == ["a"]
    assert await pictures.knows("ann", "b")  # a client may be about to fetch it
