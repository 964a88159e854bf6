"""Lists of assets and of their tags, filtered and in pages. Every query is about one member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select

from proxy.storage.assets import AssetUnit
from proxy.storage.file_tables import asset_tags, assets
from proxy.storage.statements import count_rows
from proxy.translate.assets import Asset, AssetFilter, AssetQuery, Cursor

if TYPE_CHECKING:
    from proxy.translate.asset_requests import TagQuery


class AssetPage(Struct, frozen=True):
    """Records of a list, the ones that they name as previews by id, and where the next page
    begins (`None` at the end)."""

    assets: list[Asset]
    previews: Mapping[str, Asset]
    total: int
    has_more: bool
    next: Cursor | None


class TagPage(Struct, frozen=True):
    """Tags with how many records have them."""

    tags: list[tuple[str, int]]
    total: int


_SORTS: Mapping[str, ColumnElement[Any]] = {
    "created_at": assets.c.created_at,
    "updated_at": assets.c.updated_at,
    "name": assets.c.name,
    "size": func.coalesce(assets.c.size, 0),
    "last_access_time": func.coalesce(assets.c.last_access_time, 0),
}


def list_assets(unit: AssetUnit, member: str, query: AssetQuery) -> AssetPage:
    """Return the records that a query asks for."""
    wanted = _matching(member, query.filter)
    total = count_rows(unit.connection, wanted)
    value = _SORTS[query.sort]
    falling = query.order == "desc"
    if query.after is not None:
        wanted = wanted.where(_is_after(value, query.after, falling=falling))
    by = (value.desc(), assets.c.id.desc()) if falling else (value, assets.c.id)
    rows = unit.connection.execute(
        wanted.add_columns(value.label("sorted_by"))
        .order_by(*by)
        .limit(query.limit + 1)
        .offset(query.offset)
    ).all()
    page, more = rows[: query.limit], len(rows) > query.limit
    following = None
    if more and query.sort != "last_access_time":
        following = Cursor(page[-1].sorted_by, page[-1].id)
    records = unit.tagged(page)
    previews = unit.get_many(member, {record.preview for record in records if record.preview})
    return AssetPage(records, previews, total, more, following)


def list_tags(unit: AssetUnit, member: str, query: TagQuery) -> TagPage:
    """Return the member's tags, including tags that no record has."""
    live = case((and_(asset_tags.c.present, assets.c.deleted.is_(False)), 1))
    count = func.count(live).label("count")
    grouped = (
        select(asset_tags.c.tag, count)
        .join(
            assets,
            and_(assets.c.member == asset_tags.c.member, assets.c.id == asset_tags.c.asset),
        )
        .where(asset_tags.c.member == member)
        .group_by(asset_tags.c.tag)
    )
    if query.prefix is not None:
        start = func.substr(asset_tags.c.tag, 1, len(query.prefix))
        grouped = grouped.where(start == query.prefix)
    if not query.include_zero:
        grouped = grouped.having(count > 0)
    total = count_rows(unit.connection, grouped)
    by = [count.desc()] if query.order == "count_desc" else []
    grouped = grouped.order_by(*by, asset_tags.c.tag).limit(query.limit).offset(query.offset)
    return TagPage([(row.tag, row[1]) for row in unit.connection.execute(grouped)], total)


def count_tags(
    unit: AssetUnit, member: str, wanted: AssetFilter, limit: int
) -> list[tuple[str, int]]:
    """Return how many of the matching records have each tag, the most used first."""
    matching = _matching(member, wanted).with_only_columns(assets.c.id)
    count = func.count()
    query = (
        select(asset_tags.c.tag, count)
        .where(
            asset_tags.c.member == member,
            asset_tags.c.present,
            asset_tags.c.asset.in_(matching),
        )
        .group_by(asset_tags.c.tag)
        .order_by(count.desc(), asset_tags.c.tag)
        .limit(limit)
    )
    return [(row[0], row[1]) for row in unit.connection.execute(query)]


def _matching(member: str, wanted: AssetFilter) -> Select[Any]:
    """Return the records that a filter accepts."""
    query = select(assets).where(assets.c.member == member, assets.c.deleted.is_(False))
    for tag in wanted.all:
        query = query.where(_has(member, [tag]))
    if wanted.any:
        query = query.where(_has(member, wanted.any))
    if wanted.none:
        query = query.where(~_has(member, wanted.none))
    if wanted.name_contains:
        name = func.lower(assets.c.name)
        query = query.where(name.contains(_lower(wanted.name_contains), autoescape=True))
    if wanted.hash is not None:
        query = query.where(assets.c.hash == wanted.hash)
    return query


def _has(member: str, tags: Sequence[str]) -> ColumnElement[bool]:
    return assets.c.id.in_(
        select(asset_tags.c.asset).where(
            asset_tags.c.member == member, asset_tags.c.tag.in_(tags), asset_tags.c.present
        )
    )


def _is_after(value: ColumnElement[Any], after: Cursor, *, falling: bool) -> ColumnElement[bool]:
    """Return the condition for what comes after a record in the order of a value and then the
    id."""
    further = value < after.value if falling else value > after.value
    later = assets.c.id < after.id if falling else assets.c.id > after.id
    return or_(further, and_(value == after.value, later))


def _lower(text: str) -> str:
    """Return the text in lower case as the databases do it: ASCII letters only."""
    return "".join(character.lower() if character.isascii() else character for character in text)
