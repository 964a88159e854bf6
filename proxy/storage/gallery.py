"""Ended jobs of everybody, the newest first, as the dashboard shows and searches them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, or_, select

from proxy.storage.database import Database
from proxy.storage.tables import history

#: Jobs of a page, at most.
MOST = 100


@dataclass(frozen=True, slots=True)
class EndedRow:
    """An ended job. Times are in ms; `summary` and `details` are JSON as in `EndedJob`."""

    key: int
    member: str
    id: str
    state: str
    label: str
    created_at: int
    started_at: int
    ended_at: int
    summary: bytes
    details: bytes


_ROW = select(
    history.c.key,
    history.c.member,
    history.c.id,
    history.c.state,
    history.c.label,
    history.c.created_at,
    history.c.started_at,
    history.c.ended_at,
    history.c.summary,
    history.c.details,
)


class GalleryRepository:
    """Pages of ended jobs. Everything raises `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        member: str | None,
        *,
        states: Collection[str] = (),
        text: str = "",
        before: tuple[int, int] | None = None,
        limit: int,
    ) -> list[EndedRow]:
        """Ended jobs of a member, or of all, the newest first, at most `MOST`.

        Those behind the job with this end and key (`before`), in one of the states, and with the
        text in their label, id or member, in large or small letters.
        """
        query = _ROW.order_by(history.c.ended_at.desc(), history.c.key.desc())
        if member is not None:
            query = query.where(history.c.member == member)
        if states:
            query = query.where(history.c.state.in_(sorted(states)))
        if text:
            fields = (history.c.label, history.c.id, history.c.member)
            query = query.where(or_(*(field.icontains(text, autoescape=True) for field in fields)))
        if before is not None:
            at, key = before
            earlier = or_(history.c.ended_at < at, history.c.key < key)
            query = query.where(history.c.ended_at <= at, earlier)
        query = query.limit(min(limit, MOST))
        return await self._read(query)

    async def job(self, member: str, id_: str) -> EndedRow | None:
        """An ended job."""
        query = _ROW.where(history.c.member == member, history.c.id == id_)
        return next(iter(await self._read(query)), None)

    async def _read(self, query: Select[Any]) -> list[EndedRow]:
        return await self._database.read(
            lambda connection: [EndedRow(**row._mapping) for row in connection.execute(query)]
        )
