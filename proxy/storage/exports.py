"""Exports of assets: what was asked for, how far it is, and what is in the archive."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from proxy.storage.database import Database
from proxy.storage.tables import asset_exports as exports

#: Exports of a member that are kept, and milliseconds for which one is.
MOST_EXPORTS, KEPT = 20, 86_400_000
#: Milliseconds without news after which nobody works at an export.
STALE = 60_000


@dataclass(frozen=True, slots=True)
class Export:
    """An export. `status` is `created`, `running`, `completed` or `failed`; equal requests have the
    same `key`. Bytes are JSON, times in ms since 1970."""

    member: str
    id: str
    key: str
    status: str
    name: str
    payload: bytes
    created_at: int
    updated_at: int
    result: bytes | None = None
    entries: bytes | None = None
    ended_at: int | None = None

    def is_stale(self, now: int) -> bool:
        """Whether anyone who worked at it has stopped."""
        return self.ended_at is None and now - self.updated_at > STALE


_COLUMNS = [column.name for column in exports.c]
_MINE = exports.c.member == bindparam("m")
_GET = select(exports).where(_MINE, exports.c.id == bindparam("i"))
_NAMED = select(exports).where(
    _MINE, exports.c.name == bindparam("n"), exports.c.entries.is_not(None)
)
_SAME = select(exports).where(
    _MINE,
    exports.c.key == bindparam("k"),
    exports.c.ended_at.is_(None),
    exports.c.updated_at >= bindparam("s"),
)
_OLD = select(exports.c.id, exports.c.updated_at).where(_MINE).order_by(exports.c.created_at.desc())


class ExportRepository:
    """The exports of all members. Everything raises `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, export: Export) -> tuple[Export, bool]:
        """Write a new export, unless the same one is under way: that one, and whether it is new.

        The member's oldest exports go.
        """
        now = export.created_at

        def work(connection: Connection) -> tuple[Export, bool]:
            key = {"m": export.member, "k": export.key, "s": now - STALE}
            row = connection.execute(_SAME, key).first()
            if row is not None:
                return _export(row), False
            kept = connection.execute(_OLD, {"m": export.member}).all()
            gone = [
                one.id
                for number, one in enumerate(kept, 2)
                if number > MOST_EXPORTS or one.updated_at < now - KEPT
            ]
            mine = exports.c.member == export.member
            connection.execute(delete(exports).where(mine, exports.c.id.in_(gone)))
            connection.execute(insert(exports), asdict(export))
            return export, True

        return await self._database.write(work)

    async def note(self, member: str, id_: str, now: int, **values: Any) -> None:
        """Note how far an export is."""
        mine = update(exports).where(exports.c.member == member, exports.c.id == id_)
        await self._database.write(
            lambda connection: connection.execute(mine.values(updated_at=now, **values))
        )

    async def get(self, member: str, id_: str) -> Export | None:
        """An export."""
        return await self._read(_GET, {"m": member, "i": id_})

    async def named(self, member: str, name: str) -> Export | None:
        """The export whose archive has a name and is available."""
        return await self._read(_NAMED, {"m": member, "n": name})

    async def _read(self, query: Any, key: dict[str, Any]) -> Export | None:
        row = await self._database.read(lambda connection: connection.execute(query, key).first())
        return None if row is None else _export(row)


def _export(row: Any) -> Export:
    return Export(**{name: getattr(row, name) for name in _COLUMNS})
