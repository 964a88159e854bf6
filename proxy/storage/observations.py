"""What was observed of the accounts' clouds: facts that were measured, forms that nobody lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from proxy.storage.database import Database
from proxy.storage.statements import Upsert
from proxy.storage.tables import observations

#: The kind of what was measured; every other kind is a surprise.
FACT = "fact"

#: Rows of an account, so that a cloud that invents a form with each answer fills no disk.
MOST_ROWS = 500


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of an account (`identity`), `count` times from `first_at` to `last_at` (ms).

    `value` is JSON: what a fact is, or an example of a surprise, taken once.
    """

    identity: str
    kind: str
    name: str
    value: bytes
    count: int
    first_at: int
    last_at: int


_KEYS = ["identity", "kind", "name"]
_FACT = Upsert(observations, _KEYS, ["value", "last_at"])
_NEW = Upsert(observations, _KEYS)


class ObservationRepository:
    """Observations by account. Everything raises `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, identities: Iterable[str] | None = None) -> list[Observation]:
        """What is known of these accounts (of all without them), the oldest first."""
        query = select(observations).order_by(observations.c.first_at, *map(_column, _KEYS))
        if identities is not None:
            query = query.where(observations.c.identity.in_(list(identities)))
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [Observation(**row._mapping) for row in rows]

    async def add(self, rows: Sequence[Observation]) -> None:
        """Replace facts; add to the counts of surprises, whose first example stays."""
        if rows:
            await self._database.write(lambda connection: _add(connection, rows))


def _add(connection: Connection, rows: Sequence[Observation]) -> None:
    table = observations.c
    room: dict[str, int] = {}
    for row in sorted(rows, key=lambda one: (one.identity, one.kind, one.name)):
        if row.kind == FACT:
            connection.execute(_FACT(connection), asdict(row))
            continue
        there = (
            (table.identity == row.identity) & (table.kind == row.kind) & (table.name == row.name)
        )
        counted = (
            observations.update()
            .where(there)
            .values(count=table.count + row.count, last_at=row.last_at)
        )
        if connection.execute(counted).rowcount:
            continue
        if row.identity not in room:
            held = select(func.count()).where(table.identity == row.identity)
            room[row.identity] = MOST_ROWS - connection.execute(held).scalar_one()
        if room[row.identity] > 0:
            room[row.identity] -= 1
            connection.execute(_NEW(connection), asdict(row))


def _column(name: str) -> Any:
    return observations.c[name]
