"""Units of work of the tests of databases."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from proxy.storage.database import Database
from proxy.storage.tables import meta


def put(connection: Connection, name: str, value: bytes = b"1") -> str:
    connection.execute(insert(meta), {"name": name, "value": value})
    return name


async def names(database: Database) -> list[str]:
    ours = meta.c.name.not_in(["members_revision", "oldest_schema"])
    query = select(meta.c.name).where(ours).order_by(meta.c.name)
    return await database.read(lambda connection: list(connection.execute(query).scalars()))
