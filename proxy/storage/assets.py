"""Assets of members: what they list and label of their files and of the cloud's models.

A file keeps its name and its content in `files`; here is what clients say of contents, and which
they have deleted from their lists. Every look-up is of one member.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)

from proxy.storage.database import Database
from proxy.storage.statements import Upsert, chunks, get_meta, put_meta, run_many
from proxy.storage.tables import asset_tags, assets, files, history, outputs
from proxy.translate.asset_requests import MISSING, AssetFilter, AssetQuery, Cursor
from proxy.translate.assets import Asset
from proxy.translate.names import Place

if TYPE_CHECKING:
    from proxy.translate.asset_models import TagQuery

T = TypeVar("T")

#: Tags of one record, those that were removed among them.
MOST_TAGS = 200
#: Records of a member.
MOST_ASSETS = 200_000


@dataclass(frozen=True, slots=True)
class AssetPage:
    """Records of a list, the ones that they name as previews by id, and where the next page
    begins (`None` at the end)."""

    assets: list[Asset]
    previews: Mapping[str, Asset]
    total: int
    has_more: bool
    next: Cursor | None


@dataclass(frozen=True, slots=True)
class TagPage:
    """Tags with how many records have them."""

    tags: list[tuple[str, int]]
    total: int


@dataclass(frozen=True, slots=True)
class TagChange:
    """What a change of tags did; all are sorted."""

    changed: list[str]
    unchanged: list[str]
    total: list[str]
    protected: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a job ran, and the names that its nodes' outputs were given, as JSON by node."""

    cloud_id: str
    account: str
    given: Mapping[str, bytes]


class UnknownPreviewError(Exception):
    """The record that is to be a preview is none of the member's."""


class TooManyAssetsError(Exception):
    """The member, or the record, has as many records or tags as it may."""


_COLUMNS = [column.name for column in assets.c]
_ADD = Upsert(assets, ["member", "id"])
_PUT_TAG = Upsert(asset_tags, ["member", "asset", "tag"], ["present"])
_MINE = (assets.c.member == bindparam("m"), assets.c.id == bindparam("i"))
_GET = select(assets).where(*_MINE, assets.c.deleted.is_(False))
_AT = (
    assets.c.member == bindparam("m"),
    assets.c.type == bindparam("t"),
    assets.c.path == bindparam("p"),
)
_NEWEST_AT = (
    select(assets.c.id)
    .where(*_AT, assets.c.deleted.is_(False))
    .order_by(assets.c.created_at.desc(), assets.c.id)
    .limit(1)
)
_HASH = bindparam("h", type_=assets.c.hash.type)
_LEARN = update(assets).where(
    *_AT, or_(assets.c.hash.is_(None), assets.c.hash == _HASH), assets.c.size.is_(None)
)
_DESCRIBE = update(assets).where(*_AT, assets.c.hash == _HASH, assets.c.metadata.is_(None))
_IS_MISSING = exists().where(
    asset_tags.c.member == assets.c.member,
    asset_tags.c.asset == assets.c.id,
    asset_tags.c.tag == MISSING,
    asset_tags.c.present,
)
_BY_HASH = select(assets).where(
    assets.c.member == bindparam("m"),
    assets.c.hash == bindparam("h"),
    assets.c.type.in_(("input", "output")),
    ~_IS_MISSING,
)
_COUNT = select(func.count()).select_from(assets).where(assets.c.member == bindparam("m"))
_SORTS: Mapping[str, ColumnElement[Any]] = {
    "created_at": assets.c.created_at,
    "updated_at": assets.c.updated_at,
    "name": assets.c.name,
    "size": func.coalesce(assets.c.size, 0),
    "last_access_time": func.coalesce(assets.c.last_access_time, 0),
}


def forget_assets(connection: Connection, member: str, jobs: Sequence[str]) -> None:
    """Forget the records of files that went with the jobs that had made them."""
    mine = and_(assets.c.member == member, assets.c.job.in_(jobs))
    ids = select(assets.c.id).where(mine)
    connection.execute(
        delete(asset_tags).where(asset_tags.c.member == member, asset_tags.c.asset.in_(ids))
    )
    connection.execute(
        update(assets)
        .where(assets.c.member == member, assets.c.preview.in_(ids))
        .values(preview=None)
    )
    connection.execute(delete(assets).where(mine))


class AssetUnit:
    """The assets within one unit of work."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, member: str, id_: str) -> Asset | None:
        """A record with its tags."""
        row = self._connection.execute(_GET, {"m": member, "i": id_}).one_or_none()
        return None if row is None else self._tagged([row])[0]

    def shown(self, member: str, id_: str) -> tuple[Asset, Asset | None] | None:
        """A record, and the one that it names as its preview."""
        asset = self.get(member, id_)
        if asset is None:
            return None
        return asset, self._preview(asset)

    def page(self, member: str, query: AssetQuery) -> AssetPage:
        """The records that a query asks for."""
        wanted = _matching(member, query.filter)
        total = self._connection.execute(
            select(func.count()).select_from(wanted.subquery())
        ).scalar_one()
        value = _SORTS[query.sort]
        falling = query.order == "desc"
        if query.after is not None:
            wanted = wanted.where(_behind(value, query.after, falling=falling))
        by = (value.desc(), assets.c.id.desc()) if falling else (value, assets.c.id)
        rows = self._connection.execute(
            wanted.add_columns(value.label("sorted_by"))
            .order_by(*by)
            .limit(query.limit + 1)
            .offset(query.offset)
        ).all()
        page, more = rows[: query.limit], len(rows) > query.limit
        following = None
        if more and query.sort != "last_access_time":
            following = Cursor(page[-1].sorted_by, page[-1].id)
        records = self._tagged(page)
        previews = self.get_many(member, {one.preview for one in records if one.preview})
        return AssetPage(records, previews, total, more, following)

    def get_many(self, member: str, ids: Collection[str]) -> dict[str, Asset]:
        """Those of the records that there are."""
        found: dict[str, Asset] = {}
        for some in chunks(sorted(ids)):
            query = select(assets).where(
                assets.c.member == member, assets.c.id.in_(some), assets.c.deleted.is_(False)
            )
            found.update(
                (one.id, one) for one in self._tagged(self._connection.execute(query).all())
            )
        return found

    def of_jobs(self, member: str, jobs: Collection[str]) -> list[Asset]:
        """The records of what jobs have made, in the order in which they were written."""
        found = []
        for some in chunks(sorted(jobs)):
            query = (
                select(assets)
                .where(
                    assets.c.member == member, assets.c.job.in_(some), assets.c.deleted.is_(False)
                )
                .order_by(assets.c.created_at, assets.c.id)
            )
            found += self._tagged(self._connection.execute(query).all())
        return found

    def origin(self, member: str, job: str) -> Origin | None:
        """Where an ended job ran, `None` if nobody knows."""
        ended = select(history.c.cloud_id).where(history.c.member == member, history.c.id == job)
        account = select(files.c.account).where(files.c.member == member, files.c.job == job)
        names = select(outputs.c.node, outputs.c.given).where(
            outputs.c.member == member, outputs.c.job == job
        )
        cloud_id = self._connection.execute(ended).scalar_one_or_none()
        at = self._connection.execute(account.limit(1)).scalar_one_or_none()
        if cloud_id is None or at is None:
            return None
        given = {row.node: row.given for row in self._connection.execute(names)}
        return Origin(cloud_id, at, given)

    def by_hash(self, member: str, hash_: str, *, listed: bool = False) -> Asset | None:
        """A record whose content is available, not one of `temp`: the oldest, whether or not it was
        deleted; with `listed` the newest of those that were not."""
        query = _BY_HASH.order_by(assets.c.created_at, assets.c.id)
        if listed:
            query = _BY_HASH.where(assets.c.deleted.is_(False)).order_by(
                assets.c.created_at.desc(), assets.c.id.desc()
            )
        row = self._connection.execute(query.limit(1), {"m": member, "h": hash_}).one_or_none()
        return None if row is None else self._tagged([row])[0]

    def newest_at(self, member: str, place: Place) -> str | None:
        """The id of the newest record of a place."""
        key = {"m": member, "t": place.type, "p": place.path}
        found: str | None = self._connection.execute(_NEWEST_AT, key).scalar_one_or_none()
        return found

    def learn(self, member: str, place: Place, hash_: str | None, size: int | None) -> bool:
        """Note what is known now of the content at a place; says whether it was news."""
        news = {"hash": hash_, "size": size}
        known = {name: value for name, value in news.items() if value is not None}
        key = {"m": member, "t": place.type, "p": place.path, "h": hash_}
        if not known:
            return False
        return self._connection.execute(_LEARN.values(known), key).rowcount > 0

    def describe(self, member: str, place: Place, hash_: str, metadata: bytes) -> None:
        """Note the metadata of the content at a place, where there is none."""
        key = {"m": member, "t": place.type, "p": place.path, "h": hash_}
        self._connection.execute(_DESCRIBE.values(metadata=metadata), key)

    def replaced(
        self, member: str, type_: str, contents: Mapping[str, tuple[str | None, str | None]]
    ) -> None:
        """Files of a type, by path, have these contents now (the hash, and the job that made it):
        records of other ones miss theirs."""
        gone = []
        for some in chunks(list(contents)):
            query = select(assets.c.id, assets.c.path, assets.c.hash, assets.c.job).where(
                assets.c.member == member, assets.c.type == type_, assets.c.path.in_(some)
            )
            for row in self._connection.execute(query):
                hash_, job = contents[row.path]
                if row.hash is None:
                    is_other = row.job is not None and row.job != job
                else:
                    is_other = hash_ is not None and row.hash != hash_
                if is_other:
                    gone.append(_tag(member, row.id, MISSING))
        run_many(self._connection, _PUT_TAG, gone)

    def add_many(self, new: Iterable[Asset]) -> None:
        """Write records with their tags, but for those that there are."""
        for some in chunks(list(new)):
            rows = [{name: getattr(one, name) for name in _COLUMNS} for one in some]
            run_many(self._connection, _ADD, rows)
            tags = [
                _tag(one.member, one.id, tag, automatic=tag in one.automatic)
                for one in some
                for tag in one.tags
            ]
            run_many(self._connection, _PUT_TAG, tags)

    def add(self, asset: Asset) -> Asset | None:
        """Write a new record; returns its preview. Raises `TooManyAssetsError`,
        `UnknownPreviewError`."""
        count = self._connection.execute(_COUNT, {"m": asset.member}).scalar_one()
        if count >= MOST_ASSETS or len(asset.tags) > MOST_TAGS:
            raise TooManyAssetsError
        preview = self._preview(asset)
        if preview is None and asset.preview is not None:
            raise UnknownPreviewError
        self.add_many([asset])
        return preview

    def change(
        self, member: str, id_: str, now: int, **values: Any
    ) -> tuple[Asset, Asset | None] | None:
        """Give columns of a record new values; `updated_at` moves if there is a change.

        Returns the record and its preview, `None` if there is no such record. Raises
        `UnknownPreviewError`.
        """
        asset = self.get(member, id_)
        if asset is None:
            return None
        changed = {name: value for name, value in values.items() if getattr(asset, name) != value}
        if changed:
            asset = replace(asset, updated_at=now, **changed)
        preview = self._preview(asset)
        if preview is None and changed.get("preview") is not None:
            raise UnknownPreviewError
        if changed:
            self._update(member, id_, updated_at=now, **changed)
        return asset, preview

    def _preview(self, asset: Asset) -> Asset | None:
        """The record that another one names as its preview."""
        return None if asset.preview is None else self.get(asset.member, asset.preview)

    def delete(self, member: str, id_: str) -> bool:
        """Take a record from the lists, and as a preview from others; says whether it was there."""
        if self.get(member, id_) is None:
            return False
        self._update(member, id_, deleted=True)
        self._connection.execute(
            update(assets)
            .where(assets.c.member == member, assets.c.preview == id_)
            .values(preview=None)
        )
        return True

    def accessed(self, member: str, id_: str, now: int) -> None:
        """The content was read."""
        query = update(assets).where(
            *_MINE, func.coalesce(assets.c.last_access_time, 0) < bindparam("n")
        )
        self._connection.execute(
            query.values(last_access_time=bindparam("n")), {"m": member, "i": id_, "n": now}
        )

    def add_tags(self, member: str, id_: str, tags: Sequence[str], now: int) -> TagChange | None:
        """Give a record tags. Raises `TooManyAssetsError`."""
        asset = self.get(member, id_)
        if asset is None:
            return None
        new = sorted(set(tags) - set(asset.tags))
        if new:
            if self._count_tags(member, id_) + len(new) > MOST_TAGS:
                self._drop_removed(member, id_)
            if len(asset.tags) + len(new) > MOST_TAGS:
                raise TooManyAssetsError
            self._connection.execute(
                _PUT_TAG(self._connection),
                [_tag(member, id_, tag, automatic=False) for tag in new],
            )
            self._update(member, id_, updated_at=now)
        known = sorted(set(tags) & set(asset.tags))
        return TagChange(new, known, sorted({*asset.tags, *new}))

    def remove_tags(self, member: str, id_: str, tags: Sequence[str], now: int) -> TagChange | None:
        """Take tags from a record; automatic ones stay."""
        asset = self.get(member, id_)
        if asset is None:
            return None
        protected = set(tags) & asset.automatic
        gone = sorted((set(tags) & set(asset.tags)) - protected)
        if gone:
            self._connection.execute(
                _PUT_TAG(self._connection),
                [_tag(member, id_, tag, automatic=False, present=False) for tag in gone],
            )
            self._update(member, id_, updated_at=now)
        absent = sorted(set(tags) - set(asset.tags))
        return TagChange(gone, absent, sorted(set(asset.tags) - set(gone)), sorted(protected))

    def tags(self, member: str, query: TagQuery) -> TagPage:
        """The member's tags, also those that no record has."""
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
        total = self._connection.execute(
            select(func.count()).select_from(grouped.subquery())
        ).scalar_one()
        by = (
            (count.desc(), asset_tags.c.tag) if query.order == "count_desc" else (asset_tags.c.tag,)
        )
        rows = self._connection.execute(
            grouped.order_by(*by).limit(query.limit).offset(query.offset)
        )
        return TagPage([(row.tag, row[1]) for row in rows], total)

    def refine(self, member: str, wanted: AssetFilter, limit: int) -> list[tuple[str, int]]:
        """How many of the records that match have each tag, the most used first."""
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
        return [(row[0], row[1]) for row in self._connection.execute(query)]

    # --- models --------------------------------------------------------------------------------

    def models_version(self, member: str) -> str | None:
        """Which list of models the member's records are of."""
        found: str | None = get_meta(self._connection, f"asset_models:{member}")
        return found

    def put_models(self, member: str, version: str, models: Sequence[Asset]) -> tuple[int, int]:
        """Write the records of a list of models: what is new is added, what is gone is missing, and
        what is back is there again. How many are new, and how many are gone."""
        query = select(assets.c.id).where(assets.c.member == member, assets.c.type == "models")
        known = set(self._connection.execute(query).scalars())
        wanted = {one.id for one in models}
        self.add_many(one for one in models if one.id not in known)
        back = [_tag(member, id_, MISSING, present=False) for id_ in self._missing(member) & wanted]
        gone = [_tag(member, id_, MISSING) for id_ in known - wanted]
        for some in chunks([*back, *gone]):
            self._connection.execute(_PUT_TAG(self._connection), some)
        put_meta(self._connection, f"asset_models:{member}", version)
        return len(wanted - known), len(gone)

    def _missing(self, member: str) -> set[str]:
        query = select(asset_tags.c.asset).where(
            asset_tags.c.member == member, asset_tags.c.tag == MISSING, asset_tags.c.present
        )
        return set(self._connection.execute(query).scalars())

    # --- inside ----------------------------------------------------------------------------------

    def _tagged(self, rows: Sequence[Any]) -> list[Asset]:
        """Records with their tags."""
        found: dict[str, dict[str, bool]] = {row.id: {} for row in rows}
        for some in chunks(list(found)):
            query = select(asset_tags).where(
                asset_tags.c.member == rows[0].member,
                asset_tags.c.asset.in_(some),
                asset_tags.c.present,
            )
            for tag in self._connection.execute(query):
                found[tag.asset][tag.tag] = tag.automatic
        return [
            Asset(
                **{name: getattr(row, name) for name in _COLUMNS},
                tags=tuple(sorted(found[row.id])),
                automatic=frozenset(tag for tag, automatic in found[row.id].items() if automatic),
            )
            for row in rows
        ]

    def _update(self, member: str, id_: str, **values: Any) -> None:
        mine = update(assets).where(assets.c.member == member, assets.c.id == id_)
        self._connection.execute(mine.values(values))

    def _count_tags(self, member: str, id_: str) -> int:
        query = select(func.count()).where(asset_tags.c.member == member, asset_tags.c.asset == id_)
        count: int = self._connection.execute(query).scalar_one()
        return count

    def _drop_removed(self, member: str, id_: str) -> None:
        self._connection.execute(
            delete(asset_tags).where(
                asset_tags.c.member == member,
                asset_tags.c.asset == id_,
                asset_tags.c.present.is_(False),
            )
        )


class AssetRepository:
    """The assets of all members, in units of work."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, work: Callable[[AssetUnit], T]) -> T:
        """Run a unit that only reads. Raises `StorageError`."""
        return await self._database.read(lambda connection: work(AssetUnit(connection)))

    async def write(self, work: Callable[[AssetUnit], T]) -> T:
        """Run a unit that writes; what it raises is raised here. Raises `StorageError`."""
        return await self._database.write(lambda connection: work(AssetUnit(connection)))


def _matching(member: str, wanted: AssetFilter) -> Select[Any]:
    """The records that a filter leaves."""
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


def _behind(value: ColumnElement[Any], after: Cursor, *, falling: bool) -> ColumnElement[bool]:
    """What comes behind a record in the order of a value and then the id."""
    further = value < after.value if falling else value > after.value
    later = assets.c.id < after.id if falling else assets.c.id > after.id
    return or_(further, and_(value == after.value, later))


def _lower(text: str) -> str:
    """In small letters as the databases have it: those of ASCII alone."""
    return "".join(one.lower() if one.isascii() else one for one in text)


def _tag(
    member: str, asset: str, tag: str, *, automatic: bool = True, present: bool = True
) -> dict[str, Any]:
    return {
        "member": member,
        "asset": asset,
        "tag": tag,
        "automatic": automatic,
        "present": present,
    }
