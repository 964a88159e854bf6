"""Records of contents and their tags, in each database."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from storage.asset_records import CAT, FILE, HASH, MADE, OTHER, PLACE, Assets

from proxy.storage.asset_lists import list_assets, list_tags
from proxy.storage.assets import (
    MAX_TAGS,
    AssetUnit,
    TagChange,
    TooManyAssetsError,
    UnknownPreviewError,
)
from proxy.storage.files import forget_outputs
from proxy.translate.asset_requests import TagQuery
from proxy.translate.assets import Asset, AssetQuery


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
    page = await assets.repository.read(lambda unit: list_assets(unit, "anna", AssetQuery()))
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
    page = await assets.repository.read(lambda unit: list_tags(unit, "anna", TagQuery(prefix="t1")))
    assert "t1" not in [tag for tag, _ in page.tags]


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
