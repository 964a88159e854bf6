"""Assets of members: the records by which they list and label their files and the cloud's models.

A file keeps its name and its content in `files`; this module keeps what clients say of contents,
and which they have deleted from their lists. Every query is about one member.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from msgspec import Struct, field
from msgspec.structs import replace
from sqlalchemy import (
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    select,
    update,
)

from proxy.storage.database import Database, UnitRefusedError
from proxy.storage.file_tables import asset_tags, assets, files, outputs
from proxy.storage.job_tables import history
from proxy.storage.statements import Upsert, chunks, count_rows, get_meta, put_meta, run_many
from proxy.translate.assets import MISSING, Asset
from proxy.translate.names import Place

T = TypeVar("T")

#: Maximum number of tags of one record, including removed ones.
MAX_TAGS = 200
#: Maximum number of records of a member.
MAX_ASSETS = 200_000


class TagChange(Struct, frozen=True):
    """What a change of tags did; all are sorted."""

    changed: list[str]
    unchanged: list[str]
    total: list[str]
    protected: list[str] = field(default_factory=list)


class Origin(Struct, frozen=True):
    """Where a job ran, and the names that its nodes' outputs were given, as JSON by node."""

    cloud_id: str
    account: str
    given: Mapping[str, bytes]


class UnknownPreviewError(UnitRefusedError):
    """Raised when the record named as a preview does not belong to the member."""


class TooManyAssetsError(UnitRefusedError):
    """Raised when the member has too many records, or the record too many tags."""


_COLUMNS = [column.name for column in assets.c]
_ADD = Upsert(assets, how="keep")
_PUT_TAG = Upsert(asset_tags, "present")
_MINE = (assets.c.member == bindparam("m"), assets.c.id == bindparam("i"))
_LISTED = select(assets).where(assets.c.member == bindparam("m"), assets.c.deleted.is_(False))
_GET = _LISTED.where(assets.c.id == bindparam("i"))
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
_CONTENTS = select(assets.c.id, assets.c.path, assets.c.hash, assets.c.job).where(
    assets.c.member == bindparam("m"),
    assets.c.type == bindparam("t"),
    assets.c.path.in_(bindparam("paths", expanding=True)),
)
_HASH = bindparam("h", type_=assets.c.hash.type)
#: In a form for which SQLite takes the index of the path: with that of the hash it would look at
#: each record of the member whose hash is not known.
_LEARN = update(assets).where(
    *_AT,
    func.coalesce(assets.c.hash, _HASH).is_not_distinct_from(_HASH),
    assets.c.size.is_(None),
)
_HASH_MADE_BY = (
    select(assets.c.hash)
    .where(*_AT, assets.c.job == bindparam("j"), assets.c.hash.is_not(None))
    .limit(1)
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
_ACCESSED = (
    update(assets)
    .where(*_MINE, func.coalesce(assets.c.last_access_time, 0) < bindparam("n"))
    .values(last_access_time=bindparam("n"))
)
_COUNT = select(func.count()).select_from(assets).where(assets.c.member == bindparam("m"))


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
    """The assets within one unit of work, whose `connection` it has."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._execute = connection.execute

    def get(self, member: str, id_: str) -> Asset | None:
        """Return a record with its tags."""
        return next(iter(self._records(_GET, {"m": member, "i": id_})), None)

    def shown(self, member: str, id_: str) -> tuple[Asset, Asset | None] | None:
        """Return a record, and the record that it names as its preview."""
        asset = self.get(member, id_)
        return None if asset is None else (asset, self._preview(asset))

    def get_many(self, member: str, ids: Collection[str]) -> dict[str, Asset]:
        """Return the records that exist among these ids."""
        found: dict[str, Asset] = {}
        for part in chunks(sorted(ids)):
            query = _LISTED.where(assets.c.id.in_(part))
            found.update((record.id, record) for record in self._records(query, {"m": member}))
        return found

    def of_jobs(self, member: str, jobs: Collection[str]) -> list[Asset]:
        """Return the records of the outputs of jobs, in the order in which they were written."""
        found = []
        for part in chunks(sorted(jobs)):
            query = _LISTED.where(assets.c.job.in_(part))
            query = query.order_by(assets.c.created_at, assets.c.id)
            found += self._records(query, {"m": member})
        return found

    def origin(self, member: str, job: str) -> Origin | None:
        """Return where an ended job ran, `None` if that is unknown."""
        h, f, o = history.c, files.c, outputs.c
        ended = select(h.cloud_id).where(h.member == member, h.prompt_id == job)
        account = select(f.account).where(f.member == member, f.job == job).limit(1)
        names = select(o.node, o.given).where(o.member == member, o.job == job)
        cloud_id = self._execute(ended).scalar_one_or_none()
        at = self._execute(account).scalar_one_or_none()
        if not cloud_id or at is None:
            return None
        given = {row.node: row.given for row in self._execute(names)}
        return Origin(cloud_id, at, given)

    def by_hash(self, member: str, hash_: str, *, listed: bool = False) -> Asset | None:
        """Return a record whose content is available, not one of `temp`: the oldest, whether or not
        it was deleted; with `listed` the newest that was not deleted."""
        query = _BY_HASH.order_by(assets.c.created_at, assets.c.id)
        if listed:
            query = _BY_HASH.where(assets.c.deleted.is_(False)).order_by(
                assets.c.created_at.desc(), assets.c.id.desc()
            )
        return next(iter(self._records(query.limit(1), {"m": member, "h": hash_})), None)

    def newest_at(self, member: str, place: Place) -> str | None:
        """Return the id of the newest record of a place."""
        key = {"m": member, "t": place.type, "p": place.path}
        return cast("str | None", self._execute(_NEWEST_AT, key).scalar_one_or_none())

    def learn(self, member: str, place: Place, hash_: str | None, size: int | None) -> bool:
        """Note what is known now of the content at a place; says whether it was news."""
        news = {"hash": hash_, "size": size}
        known = {name: value for name, value in news.items() if value is not None}
        key = {"m": member, "t": place.type, "p": place.path, "h": hash_}
        return bool(known) and self._execute(_LEARN, {**key, **known}).rowcount > 0

    def hash_made_by(self, member: str, place: Place, job: str) -> str | None:
        """Return the hash that the output of a job at a place is known to have."""
        key = {"m": member, "t": place.type, "p": place.path, "j": job}
        return cast("str | None", self._execute(_HASH_MADE_BY, key).scalar_one_or_none())

    def describe(self, member: str, place: Place, hash_: str, metadata: bytes) -> None:
        """Note the metadata of the content at a place, where there is none."""
        key = {"m": member, "t": place.type, "p": place.path, "h": hash_}
        self._execute(_DESCRIBE.values(metadata=metadata), key)

    def replaced(
        self, member: str, type_: str, contents: Mapping[str, tuple[str | None, str | None]]
    ) -> None:
        """Note the new contents of files of a type, by path (the hash, and the job that made it);
        records of the previous contents are marked as missing."""
        gone = []
        for part in chunks(list(contents)):
            for row in self._execute(_CONTENTS, {"m": member, "t": type_, "paths": part}):
                hash_, job = contents[row.path]
                if row.hash is None:
                    is_other = row.job is not None and row.job != job
                else:
                    is_other = hash_ is not None and row.hash != hash_
                if is_other:
                    gone.append(_tag(member, row.id, MISSING))
        self._put_tags(gone)

    def add_many(self, new: Iterable[Asset]) -> None:
        """Write records with their tags, but for those that there are."""
        for part in chunks(list(new)):
            rows = [{name: getattr(asset, name) for name in _COLUMNS} for asset in part]
            run_many(self.connection, _ADD, rows)
            self._put_tags(
                _tag(asset.member, asset.id, tag, automatic=tag in asset.automatic)
                for asset in part
                for tag in asset.tags
            )

    def add(self, asset: Asset) -> Asset | None:
        """Write a new record; returns its preview. Raises `TooManyAssetsError`,
        `UnknownPreviewError`."""
        count = self._execute(_COUNT, {"m": asset.member}).scalar_one()
        if count >= MAX_ASSETS or len(asset.tags) > MAX_TAGS:
            raise TooManyAssetsError
        preview = self._preview(asset)
        if preview is None and asset.preview is not None:
            raise UnknownPreviewError
        self.add_many([asset])
        return preview

    def change(
        self, member: str, id_: str, now: int, **values: Any
    ) -> tuple[Asset, Asset | None] | None:
        """Give columns of a record new values; `updated_at` moves if there is a change. Returns the
        record and its preview, `None` if there is no such record. Raises `UnknownPreviewError`."""
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
        """Return the record that another one names as its preview."""
        return None if asset.preview is None else self.get(asset.member, asset.preview)

    def delete(self, member: str, id_: str) -> bool:
        """Take a record from the lists, and as a preview from others; says whether it was there."""
        if self.get(member, id_) is None:
            return False
        self._update(member, id_, deleted=True)
        self._execute(
            update(assets)
            .where(assets.c.member == member, assets.c.preview == id_)
            .values(preview=None)
        )
        return True

    def accessed(self, member: str, id_: str, now: int) -> None:
        """Note that the content was read."""
        self._execute(_ACCESSED, {"m": member, "i": id_, "n": now})

    def add_tags(self, member: str, id_: str, tags: Sequence[str], now: int) -> TagChange | None:
        """Give a record tags. Raises `TooManyAssetsError`."""
        asset = self.get(member, id_)
        if asset is None:
            return None
        new = sorted(set(tags) - set(asset.tags))
        if new:
            of_record = (asset_tags.c.member == member, asset_tags.c.asset == id_)
            if (
                count_rows(self.connection, select(asset_tags).where(*of_record)) + len(new)
                > MAX_TAGS
            ):
                removed = asset_tags.c.present.is_(False)
                self._execute(delete(asset_tags).where(*of_record, removed))
            if len(asset.tags) + len(new) > MAX_TAGS:
                raise TooManyAssetsError
            self._put_tags(_tag(member, id_, tag, automatic=False) for tag in new)
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
            self._put_tags(_tag(member, id_, tag, automatic=False, present=False) for tag in gone)
            self._update(member, id_, updated_at=now)
        absent = sorted(set(tags) - set(asset.tags))
        return TagChange(gone, absent, sorted(set(asset.tags) - set(gone)), sorted(protected))

    def models_version(self, member: str) -> str | None:
        """Return which list of models the member's records come from."""
        return cast("str | None", get_meta(self.connection, f"asset_models:{member}"))

    def put_models(self, member: str, version: str, models: Sequence[Asset]) -> tuple[int, int]:
        """Write the records of a list of models: new models are added, models that are gone are
        marked as missing, and models that are back no longer are. Returns how many are new, and how
        many are gone."""
        query = select(assets.c.id).where(assets.c.member == member, assets.c.type == "models")
        known = set(self._execute(query).scalars())
        wanted = {model.id for model in models}
        self.add_many(model for model in models if model.id not in known)
        missing = select(asset_tags.c.asset).where(
            asset_tags.c.member == member, asset_tags.c.tag == MISSING, asset_tags.c.present
        )
        back = set(self._execute(missing).scalars()) & wanted
        self._put_tags(_tag(member, id_, MISSING, present=False) for id_ in back)
        self._put_tags(_tag(member, id_, MISSING) for id_ in known - wanted)
        put_meta(self.connection, f"asset_models:{member}", version)
        return len(wanted - known), len(known - wanted)

    def _records(self, query: Select[Any], values: Mapping[str, Any]) -> list[Asset]:
        return self.tagged(self._execute(query, values).all())

    def _put_tags(self, tags: Iterable[Mapping[str, Any]]) -> None:
        run_many(self.connection, _PUT_TAG, list(tags))

    def tagged(self, rows: Sequence[Any]) -> list[Asset]:
        """Return records with their tags."""
        found: dict[str, dict[str, bool]] = {row.id: {} for row in rows}
        for part in chunks(list(found)):
            query = select(asset_tags).where(
                asset_tags.c.member == rows[0].member,
                asset_tags.c.asset.in_(part),
                asset_tags.c.present,
            )
            for tag in self._execute(query):
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
        self._execute(mine.values(values))


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


def _tag(
    member: str, asset: str, tag: str, *, automatic: bool = True, present: bool = True
) -> dict[str, Any]:
    of = {"member": member, "asset": asset, "tag": tag}
    return {**of, "automatic": automatic, "present": present}
