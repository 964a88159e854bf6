"""Lists of assets and of their tags, in each database."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from storage.asset_records import CAT, HASH, MADE, OTHER, Assets

from proxy.storage.asset_lists import count_tags, list_assets, list_tags
from proxy.translate.asset_requests import TagQuery
from proxy.translate.assets import AssetFilter, AssetQuery


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
                    lambda unit, query=query: list_assets(unit, "anna", query)
                )
                seen += [asset.id for asset in page.assets]
                assert (page.total, page.has_more) == (25, page.next is not None)
                if page.next is None:
                    break
                query = replace(query, after=page.next)
            whole = await assets.repository.read(
                lambda unit, query=query: list_assets(
                    unit, "anna", replace(query, after=None, limit=500)
                )
            )
            assert seen == [asset.id for asset in whole.assets], (sort, order)
            assert len(set(seen)) == 25
    page = await assets.repository.read(
        lambda unit: list_assets(
            unit, "anna", AssetQuery(limit=4, sort="last_access_time", offset=23)
        )
    )
    assert (len(page.assets), page.has_more, page.next) == (2, False, None)


async def test_tags_are_counted(assets: Assets) -> None:
    await assets.add(CAT, MADE, replace(CAT, id="id-02", tags=("input", "x_1", "xy")))
    await assets.add(replace(CAT, member="ben", tags=("secret",)))
    await assets.do(lambda unit: unit.remove_tags("anna", "id-02", ["xy"], 2))
    await assets.do(lambda unit: unit.delete("anna", MADE.id))

    async def tags(**query: Any) -> list[tuple[str, int]]:
        page = await assets.repository.read(lambda unit: list_tags(unit, "anna", TagQuery(**query)))
        return page.tags

    whole = [("input", 2), ("uploaded", 1), ("x_1", 1), ("output", 0), ("xy", 0)]
    assert await tags() == whole
    assert await tags(include_zero=False) == whole[:3]
    assert await tags(order="name_asc") == sorted(whole)
    assert await tags(prefix="x_") == [("x_1", 1)]
    assert await tags(prefix="X") == []
    assert await tags(limit=2, offset=1) == whole[1:3]
    page = await assets.repository.read(lambda unit: list_tags(unit, "anna", TagQuery(limit=1)))
    assert page.total == 5
    counts = await assets.repository.read(
        lambda unit: count_tags(unit, "anna", AssetFilter(all=("input",)), 2)
    )
    assert counts == [("input", 2), ("uploaded", 1)]
