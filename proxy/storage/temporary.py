"""Records that expire: pictures of helper nodes, ids of their results, exports of assets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import (
    Connection,
    Index,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    update,
)

from proxy.storage.database import Repository
from proxy.storage.statements import Upsert
from proxy.storage.tables import AnyText, PlainText, table_of

#: Bytes of a member's pictures from which on old ones are forgotten, as the pack has it; ms after
#: which a picture counts as old, and after which one that was fetched does.
_ROOM, _OLD, _OLD_IF_FETCHED = 100 * 1024 * 1024, 600_000, 60_000
#: Milliseconds after which a picture or the id of a result is forgotten whatever the room.
_LONGEST = 86_400_000

#: Exports of a member that are kept, and milliseconds for which one is.
MAX_EXPORTS, KEPT = 20, 86_400_000
#: Milliseconds without news after which nobody works at an export.
STALE = 60_000


class PackPicture(Struct, frozen=True):
    """A picture under its id: one that was put has `data`, a result the file that it is made of.

    `account` and `cloud_name` name that file, `cloud_type` its folder there, `encoding` is the
    format in which it is handed out. `signature` and `position` tell which node's result it is.
    `used_at` (ms) is when it was put or loaded last, `fetched` how often it was read.
    """

    member: str
    id: str
    content_type: str
    used_at: int
    size: int
    data: bytes | None = None
    fetched: int = 0
    account: str | None = None
    cloud_name: str | None = None
    cloud_type: PlainText | None = None
    encoding: PlainText | None = None
    signature: PlainText | None = None
    position: int = 0


pictures = table_of(
    PackPicture,
    "pack_pictures",
    Index("ix_pack_pictures_member_signature", "member", "signature"),
    Index("ix_pack_pictures_used_at", "used_at"),
    keys=("member", "id"),
)
_ADD = Upsert(pictures, how="keep")
_PUT = Upsert(pictures)
_MINE = (pictures.c.member == bindparam("m"), pictures.c.id == bindparam("i"))
_GET = select(pictures).where(*_MINE)
_SIZE = select(case((pictures.c.data.is_(None), 0), else_=pictures.c.size)).where(*_MINE)
_TOTAL = select(func.coalesce(func.sum(pictures.c.size), 0)).where(
    pictures.c.member == bindparam("m"), pictures.c.data.is_not(None)
)
_OLDEST = (
    select(pictures.c.id, pictures.c.size, pictures.c.used_at, pictures.c.fetched)
    .where(pictures.c.member == bindparam("m"), pictures.c.data.is_not(None))
    .order_by(pictures.c.used_at, pictures.c.id)
)


class PackPictureRepository(Repository):
    """The pictures of all members."""

    async def size(self, member: str, id_: str) -> int | None:
        """Return the bytes that are stored under the id, 0 for a result, `None` for no picture."""
        row = await self._first(_SIZE, {"m": member, "i": id_})
        return None if row is None else int(row[0])

    async def get(self, member: str, id_: str, *, now: int, use: bool) -> PackPicture | None:
        """Return a picture. With `use` its age starts again; old pictures may be deleted by this
        call."""

        def work(connection: Connection) -> PackPicture | None:
            row = connection.execute(_GET, {"m": member, "i": id_}).one_or_none()
            if row is None:
                return None
            changes = {"fetched": pictures.c.fetched + 1, **({"used_at": now} if use else {})}
            connection.execute(
                update(pictures)
                .where(pictures.c.member == member, pictures.c.id == id_)
                .values(changes)
            )
            _prune(connection, member, now)
            return PackPicture(**row._mapping)

        return await self.database.write(work)

    async def put(self, picture: PackPicture, *, max_bytes: int) -> bool | None:
        """Keep a picture unless its id is known (false), or the member's pictures would exceed
        `max_bytes` (`None`)."""

        def work(connection: Connection) -> bool | None:
            member = picture.member
            if connection.execute(_SIZE, {"m": member, "i": picture.id}).first() is not None:
                return False
            _forget_longest(connection, picture.used_at)
            total = connection.execute(_TOTAL, {"m": member}).scalar_one()
            if total + picture.size > max_bytes:
                total = _prune(connection, member, picture.used_at)
            if total + picture.size > max_bytes:
                return None
            connection.execute(_ADD(connection), asdict(picture))
            return True

        return await self.database.write(work)

    async def results(self, member: str, signatures: Iterable[str]) -> list[PackPicture]:
        """Return the results that were sent for these nodes, in order."""
        wanted = list(signatures)
        query = (
            select(pictures)
            .where(pictures.c.member == member, pictures.c.signature.in_(wanted))
            .order_by(pictures.c.signature, pictures.c.position)
        )
        return await self._records(PackPicture, query)

    async def keep_results(self, signature: str, results: Sequence[PackPicture]) -> None:
        """Store the results of a node, replacing those of a previous run; known ids stay."""

        def work(connection: Connection) -> None:
            member = results[0].member
            _forget_longest(connection, results[0].used_at)
            connection.execute(
                update(pictures)
                .where(pictures.c.member == member, pictures.c.signature == signature)
                .values(signature=None)
            )
            connection.execute(_PUT(connection), [asdict(result) for result in results])

        if results:
            await self.database.write(work)


def _forget_longest(connection: Connection, now: int) -> None:
    connection.execute(delete(pictures).where(pictures.c.used_at < now - _LONGEST))


def _prune(connection: Connection, member: str, now: int) -> int:
    """Forget the oldest pictures while there are too many; how many bytes are left."""
    total: int = connection.execute(_TOTAL, {"m": member}).scalar_one()
    if total <= _ROOM:
        return total
    gone = []
    for row in connection.execute(_OLDEST, {"m": member}):
        age = now - row.used_at
        if age > _OLD or (age > _OLD_IF_FETCHED and row.fetched):
            gone.append(row.id)
            total -= row.size
            if total <= _ROOM:
                break
    if gone:
        connection.execute(
            delete(pictures).where(pictures.c.member == member, pictures.c.id.in_(gone))
        )
    return total


# --- exports ------------------------------------------------------------------------------------


class Export(Struct, frozen=True):
    """An export. `status` is `created`, `running`, `completed` or `failed`; equal requests have the
    same `key`. Bytes are JSON, times in ms since 1970."""

    member: str
    id: PlainText
    key: PlainText
    status: PlainText
    name: PlainText
    payload: bytes
    created_at: int
    updated_at: int
    result: bytes | None = None
    entries: bytes | None = None
    ended_at: int | None = None

    def is_stale(self, now: int) -> bool:
        """Return whether everyone who worked at it has stopped."""
        return self.ended_at is None and now - self.updated_at > STALE


exports = table_of(
    Export,
    "asset_exports",
    Index("ix_asset_exports_member_key", "member", "key"),
    Index("ix_asset_exports_member_name", "member", "name"),
    keys=("member", "id"),
    rowid=False,
)
_EXPORTS = select(exports).where(exports.c.member == bindparam("m"))
#: Clients ask for an export with any text.
_ID = exports.c.id == bindparam("i", type_=AnyText)
_EXPORT = _EXPORTS.where(_ID)
_NAMED = _EXPORTS.where(exports.c.name == bindparam("n"), exports.c.entries.is_not(None))
_SAME = _EXPORTS.where(
    exports.c.key == bindparam("k"),
    exports.c.ended_at.is_(None),
    exports.c.updated_at >= bindparam("s"),
)
_NEWEST = (
    select(exports.c.id, exports.c.updated_at)
    .where(exports.c.member == bindparam("m"))
    .order_by(exports.c.created_at.desc())
)


class ExportRepository(Repository):
    """The exports of all members."""

    async def begin(self, export: Export) -> tuple[Export, bool]:
        """Write a new export, unless the same one is under way; returns the export, and whether it
        is new. Deletes the member's oldest exports."""
        now = export.created_at

        def work(connection: Connection) -> tuple[Export, bool]:
            key = {"m": export.member, "k": export.key, "s": now - STALE}
            row = connection.execute(_SAME, key).first()
            if row is not None:
                return Export(**row._mapping), False
            kept = connection.execute(_NEWEST, {"m": export.member}).all()
            gone = [
                old.id
                for number, old in enumerate(kept, 2)
                if number > MAX_EXPORTS or old.updated_at < now - KEPT
            ]
            mine = exports.c.member == export.member
            connection.execute(delete(exports).where(mine, exports.c.id.in_(gone)))
            connection.execute(insert(exports), asdict(export))
            return export, True

        return await self.database.write(work)

    async def update(self, member: str, id_: str, now: int, **values: Any) -> bool:
        """Note how far an export is, and return true; change nothing if it has ended or is gone."""
        change = (
            update(exports)
            .where(exports.c.member == member, _ID, exports.c.ended_at.is_(None))
            .values(updated_at=now, **values)
        )
        return await self.database.write(
            lambda connection: connection.execute(change, {"i": id_}).rowcount > 0
        )

    async def get(self, member: str, id_: str) -> Export | None:
        """Return an export."""
        return await self._record(Export, _EXPORT, {"m": member, "i": id_})

    async def named(self, member: str, name: str) -> Export | None:
        """Return the available export whose archive has a name."""
        return await self._record(Export, _NAMED, {"m": member, "n": name})
