"""Records of contents, their tags and lists, in each database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from proxy.storage.assets import (
    MAX_TAGS,
    AssetRepository,
    AssetUnit,
    TagChange,
    TooManyAssetsError,
    UnknownPreviewError,
)
from proxy.storage.database import Database
from proxy.storage.files import FileRecord, FileRepository, forget_outputs
from proxy.translate.asset_requests import TagQuery
from proxy.translate.assets import Asset, AssetFilter, AssetQuery
from proxy.translate.names import Place

T = TypeVar("T")

HASH, OTHER = "ab" * 32, "cd" * 32
PLACE = Place("input", "cat.png")
FILE = FileRecord("anna", "input", "cat.png", "x", "input", HASH, 5, "image/png", 10.5, "main")
CAT = Asset(
    "anna",
    "id-00",
    "cat.png",
    "input",
    "cat.png",
    HASH,
    5,
    "image/png",
    None,
    1000,
    1000,
    user_metadata=b'{"a":1}',
    tags=("input", "uploaded"),
    automatic=frozenset({"input"}),
)
MADE = replace(CAT, id="id-10", type="output", path="a/b.png", name="b.png", hash=None, size=None)
MADE = replace(MADE, job="job", tags=("output",), automatic=frozenset({"output"}))


class Assets:
    """The repository, a call for each unit."""

    def __init__(self, database: Database) -> None:
        self.repository = AssetRepository(database)
        self.files = FileRepository(database)
        self.database = database

    async def add(self, *records: Asset) -> None:
        for one in records:
            await self.do(lambda unit, one=one: unit.add(one))

    async def do(self, work: Callable[[AssetUnit], T]) -> T:
        return await self.repository.write(work)

    async def get(self, id_: str = CAT.id, member: str = "anna") -> Asset | None:
        return await self.repository.read(lambda unit: unit.get(member, id_))

    async def listed(self, *, member: str = "anna", **query: Any) -> list[str]:
        wanted = AssetFilter(**query)
        page = await self.repository.read(
            lambda unit: unit.page(member, AssetQuery(wanted, limit=500, order="asc"))
        )
        assert page.total == len(page.assets)
        return [one.id for one in page.assets]

    async def put_file(self, record: FileRecord) -> None:
        await self.files.write(lambda unit: unit.put([record]))


@pytest.fixture
def assets(database: Database) -> Assets:
    return Assets(database)


async def test_a_record_comes_back_as_it_was_added_for_its_member(assets: Assets) -> None:
    await assets.add(CAT)
    assert await assets.get() == CAT
    assert (CAT.place, CAT.is_missing) == (PLACE, False)
    assert await assets.get(member="ben") is None
    assert await assets.get("id-01") is None


async def test_the_same_id_of_two_members_are_two_records(assets: Assets) -> None:
    theirs = replace(CAT, member="ben", name="theirs")
    await assets.add(CAT, theirs)
    await assets.do(lambda unit: unit.delete("anna", CAT.id))
    assert await assets.get() is None
    assert await assets.get(member="ben") == theirs


async def test_filters(assets: Assets) -> None:
    dog = replace(CAT, id="id-01", name="Dog_1%é.png", hash=OTHER, tags=("input", "pasted"))
    await assets.add(CAT, dog, MADE)
    for query, found in (
        ({}, ["id-00", "id-01", "id-10"]),
        ({"all": ("input",)}, ["id-00", "id-01"]),
        ({"all": ("input", "pasted")}, ["id-01"]),
        ({"any": ("pasted", "output", "nothing")}, ["id-01", "id-10"]),
        ({"none": ("pasted", "output")}, ["id-00"]),
        ({"all": ("input",), "none": ("input",)}, []),
        ({"name_contains": "dOG_1%É"}, []),
        ({"name_contains": "dOG_1%é"}, ["id-01"]),
        ({"name_contains": "g%p"}, []),
        ({"name_contains": "/"}, []),
        ({"hash": HASH}, ["id-00"]),
        ({"hash": ""}, []),
        ({"member": "ben"}, []),
    ):
        assert await assets.listed(**query) == found, query


async def test_pages_by_offset_and_by_cursor_lose_nothing(assets: Assets) -> None:
    records = [
        replace(
            CAT, id=f"id-{n:02}", name=f"n{n % 3}", size=None if n % 4 else n, created_at=n // 5
        )
        for n in range(25)
    ]
    await assets.add(*records)
    for sort in ("created_at", "updated_at", "name", "size"):
        for order in ("asc", "desc"):
            query = AssetQuery(limit=4, sort=sort, order=order)  # type: ignore[arg-type]
            seen: list[str] = []
            while True:
                page = await assets.repository.read(
                    lambda unit, query=query: unit.page("anna", query)
                )
                seen += [one.id for one in page.assets]
                assert (page.total, page.has_more) == (25, page.next is not None)
                if page.next is None:
                    break
                query = replace(query, after=page.next)
            whole = await assets.repository.read(
                lambda unit, query=query: unit.page("anna", replace(query, after=None, limit=500))
            )
            assert seen == [one.id for one in whole.assets], (sort, order)
            assert len(set(seen)) == 25
    page = await assets.repository.read(
        lambda unit: unit.page("anna", AssetQuery(limit=4, sort="last_access_time", offset=23))
    )
    assert (len(page.assets), page.has_more, page.next) == (2, False, None)


async def test_updated_at_moves_by_changes_alone(assets: Assets) -> None:
    await assets.add(CAT, MADE)
    same = await assets.do(lambda unit: unit.change("anna", CAT.id, 2000, name="cat.png"))
    assert same == (CAT, None)
    changed = await assets.do(
        lambda unit: unit.change("anna", CAT.id, 3000, name="n", preview=MADE.id)
    )
    assert changed == (replace(CAT, name="n", preview=MADE.id, updated_at=3000), MADE)
    assert await assets.get() == changed[0]
    await assets.do(lambda unit: unit.accessed("anna", CAT.id, 9000))
    await assets.do(lambda unit: unit.accessed("anna", CAT.id, 8000))
    assert await assets.get() == replace(changed[0], last_access_time=9000)


async def test_a_preview_is_one_of_the_members_records(assets: Assets) -> None:
    await assets.add(CAT, MADE, replace(CAT, member="ben", id="theirs"))
    for id_ in ("theirs", "none"):
        with pytest.raises(UnknownPreviewError):
            await assets.do(lambda unit, id_=id_: unit.change("anna", CAT.id, 2, preview=id_))
        with pytest.raises(UnknownPreviewError):
            await assets.add(replace(CAT, id="new", preview=id_))
    assert await assets.get() == CAT
    await assets.do(lambda unit: unit.change("anna", CAT.id, 2, preview=MADE.id))
    page = await assets.repository.read(lambda unit: unit.page("anna", AssetQuery()))
    assert page.previews == {MADE.id: MADE}
    shown = await assets.repository.read(lambda unit: unit.shown("anna", CAT.id))
    assert shown is not None
    assert shown[1] == MADE
    await assets.do(lambda unit: unit.delete("anna", MADE.id))
    assert await assets.get() == replace(CAT, updated_at=2)


async def test_a_deleted_record_keeps_its_content_findable_by_hash(assets: Assets) -> None:
    await assets.add(CAT)
    assert await assets.do(lambda unit: unit.delete("anna", CAT.id)) is True
    assert await assets.do(lambda unit: unit.delete("anna", CAT.id)) is False
    assert await assets.listed() == []
    found = await assets.repository.read(lambda unit: unit.by_hash("anna", HASH))
    assert found == replace(CAT, deleted=True)
    for member, hash_, listed in (
        ("anna", HASH, True),
        ("anna", OTHER, False),
        ("ben", HASH, False),
    ):
        assert (
            await assets.repository.read(
                lambda unit, a=member, b=hash_, c=listed: unit.by_hash(a, b, listed=c)
            )
            is None
        )


async def test_tags_are_added_and_removed(assets: Assets) -> None:
    await assets.add(CAT)
    for tags, result in (
        (["x", "uploaded"], TagChange(["x"], ["uploaded"], ["input", "uploaded", "x"])),
        (["x"], TagChange([], ["x"], ["input", "uploaded", "x"])),
    ):
        assert await assets.do(lambda unit, t=tags: unit.add_tags("anna", CAT.id, t, 2)) == result
    removed = await assets.do(
        lambda unit: unit.remove_tags("anna", CAT.id, ["x", "input", "no"], 3)
    )
    assert removed == TagChange(["x"], ["no"], ["input", "uploaded"], ["input"])
    assert await assets.get() == replace(CAT, updated_at=3)
    await assets.do(lambda unit: unit.remove_tags("anna", CAT.id, ["x"], 4))
    await assets.do(lambda unit: unit.add_tags("anna", CAT.id, ["x"], 5))
    assert await assets.get() == replace(CAT, updated_at=5, tags=("input", "uploaded", "x"))
    for call in (AssetUnit.add_tags, AssetUnit.remove_tags):
        assert await assets.do(lambda unit, call=call: call(unit, "ben", CAT.id, ["x"], 4)) is None


async def test_tags_of_a_record_are_bounded(assets: Assets) -> None:
    await assets.add(CAT)
    many = [f"t{n}" for n in range(MAX_TAGS - 2)]
    await assets.do(lambda unit: unit.add_tags("anna", CAT.id, many, 2))
    with pytest.raises(TooManyAssetsError):
        await assets.do(lambda unit: unit.add_tags("anna", CAT.id, ["one more"], 2))
    await assets.do(lambda unit: unit.remove_tags("anna", CAT.id, ["t1"], 2))
    await assets.do(lambda unit: unit.add_tags("anna", CAT.id, ["one more"], 2))
    page = await assets.repository.read(lambda unit: unit.tags("anna", TagQuery(prefix="t1")))
    assert "t1" not in [tag for tag, _ in page.tags]


async def test_tags_are_counted(assets: Assets) -> None:
    await assets.add(CAT, MADE, replace(CAT, id="id-02", tags=("input", "x_1", "xy")))
    await assets.add(replace(CAT, member="ben", tags=("secret",)))
    await assets.do(lambda unit: unit.remove_tags("anna", "id-02", ["xy"], 2))
    await assets.do(lambda unit: unit.delete("anna", MADE.id))

    async def tags(**query: Any) -> list[tuple[str, int]]:
        page = await assets.repository.read(lambda unit: unit.tags("anna", TagQuery(**query)))
        return page.tags

    whole = [("input", 2), ("uploaded", 1), ("x_1", 1), ("output", 0), ("xy", 0)]
    assert await tags() == whole
    assert await tags(include_zero=False) == whole[:3]
    assert await tags(order="name_asc") == sorted(whole)
    assert await tags(prefix="x_") == [("x_1", 1)]
    assert await tags(prefix="X") == []
    assert await tags(limit=2, offset=1) == whole[1:3]
    page = await assets.repository.read(lambda unit: unit.tags("anna", TagQuery(limit=1)))
    assert page.total == 5
    counts = await assets.repository.read(
        lambda unit: unit.refine("anna", AssetFilter(all=("input",)), 2)
    )
    assert counts == [("input", 2), ("uploaded", 1)]


async def test_what_replaces_a_file_leaves_its_records_without_content(assets: Assets) -> None:
    await assets.put_file(FILE)
    await assets.add(CAT, MADE, replace(CAT, member="ben"))
    await assets.put_file(replace(FILE, modified=11.0))
    assert await assets.get() == CAT
    await assets.put_file(replace(FILE, hash=OTHER))
    gone = await assets.get()
    assert gone is not None
    assert gone.is_missing
    assert await assets.listed(all=("missing",)) == [CAT.id]
    assert await assets.repository.read(lambda unit: unit.by_hash("anna", HASH)) is None
    assert await assets.get(member="ben") == replace(CAT, member="ben")
    made = replace(FILE, type="output", path="a/b.png", hash=None, size=None, job="job")
    await assets.put_file(made)
    await assets.put_file(replace(made, hash=HASH, size=5))
    assert await assets.get(MADE.id) == MADE
    await assets.put_file(replace(made, hash=HASH, job=None))
    assert await assets.listed(all=("missing",)) == [CAT.id, MADE.id]


async def test_what_is_learnt_of_a_content_is_noted_once(assets: Assets) -> None:
    await assets.add(MADE)
    place = MADE.place

    async def learn(hash_: str | None, size: int | None) -> bool:
        return await assets.do(lambda unit: unit.learn("anna", place, hash_, size))

    assert await learn(None, None) is False
    assert await learn(HASH, None) is True
    assert await learn(OTHER, 7) is False
    assert await learn(HASH, 6) is True
    assert await learn(HASH, 7) is False
    assert await assets.get(MADE.id) == replace(MADE, hash=HASH, size=6)
    newest = await assets.repository.read(lambda unit: unit.newest_at("anna", place))
    assert newest == MADE.id


async def test_records_go_with_the_jobs_whose_files_go(assets: Assets) -> None:
    await assets.add(MADE, replace(CAT, preview=MADE.id))
    for with_files, left in ((False, [CAT.id, MADE.id]), (True, [CAT.id])):
        await assets.database.write(
            lambda connection, yes=with_files: forget_outputs(
                connection, "anna", ["job"], with_files=yes
            )
        )
        assert await assets.listed() == left
    assert await assets.get() == replace(CAT, preview=None)
    assert await assets.repository.read(lambda unit: unit.of_jobs("anna", ["job"])) == []


async def test_models_follow_their_list(assets: Assets) -> None:
    def models(*names: str) -> list[Asset]:
        tags = ("model_type:loras", "models")
        return [
            replace(
                CAT,
                id=f"model-{name}",
                name=name,
                type="models",
                path=f"loras/{name}",
                hash=None,
                tags=tags,
                automatic=frozenset(tags),
            )
            for name in names
        ]

    async def put(version: str, *names: str) -> tuple[int, int]:
        return await assets.do(lambda unit: unit.put_models("anna", version, models(*names)))

    assert await put("1", "a", "b") == (2, 0)
    await assets.do(lambda unit: unit.delete("anna", "model-a"))
    assert await put("2", "a", "c") == (1, 1)
    assert await assets.listed(all=("models",), none=("missing",)) == ["model-c"]
    assert await assets.listed(all=("missing",)) == ["model-b"]
    assert await put("3", "a", "b", "c") == (0, 0)
    assert await assets.listed(none=("missing",)) == ["model-b", "model-c"]
    version = await assets.repository.read(lambda unit: unit.models_version("anna"))
    assert version == "3"
    assert await assets.repository.read(lambda unit: unit.models_version("ben")) is None
