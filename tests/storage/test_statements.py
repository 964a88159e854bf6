"""Statements in the words of each database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean, Column, Connection, Integer, LargeBinary, MetaData, Table, select

from proxy.storage.database import Database
from proxy.storage.statements import Upsert, get_meta, put_meta, run
from proxy.storage.tables import AnyText

TABLE = Table("t", MetaData(), Column("k", Integer, primary_key=True), Column("v", Integer))

WIDE = Table(
    "wide",
    MetaData(),
    Column("k", Integer, primary_key=True),
    Column("said", AnyText),
    Column("flag", Boolean),
    Column("data", LargeBinary),
)


async def test_what_every_job_runs_writes_the_same_values(empty_database: Database) -> None:
    odd = {"k": 1, "said": "NUL \0 and half \ud800", "flag": True, "data": b"\0\xff"}
    values: list[dict[str, Any]] = [odd, {**odd, "k": 2, "flag": False, "said": None}]

    def work(connection: Connection) -> list[Any]:
        WIDE.create(connection)
        for value in values:
            key = run(connection, WIDE.insert().returning(WIDE.c.k), value).scalar_one()
            assert key == value["k"]
        change = WIDE.update().where(WIDE.c.k == 2).values(data=None)
        assert run(connection, change, {"flag": None}).rowcount == 1
        return [dict(row) for row in connection.execute(select(WIDE).order_by("k")).mappings()]

    changed = {**values[1], "flag": None, "data": None}
    assert await empty_database.write(work) == [odd, changed]


async def test_an_upsert_sets_adds_keeps_or_takes_the_highest(empty_database: Database) -> None:
    def work(connection: Connection) -> list[int]:
        values = []
        for how in ("set", "add", "highest", "keep"):
            TABLE.drop(connection, checkfirst=True)
            TABLE.create(connection)
            upsert = Upsert(TABLE, how=how)
            for value in (5, 7, 6):
                connection.execute(upsert(connection), {"k": 1, "v": value})
            values.append(connection.execute(TABLE.select()).one().v)
        return values

    assert await empty_database.write(work) == [6, 18, 7, 5]


async def test_single_values_are_any_json(database: Database) -> None:
    def work(connection: Connection) -> list[object]:
        before = get_meta(connection, "a")
        put_meta(connection, "a", {"b": [2**70, None]})
        put_meta(connection, "a", {"b": [2**71, None]})
        locked = get_meta(connection, "new", lock=True)
        return [before, get_meta(connection, "a", lock=True), locked]

    assert await database.write(work) == [None, {"b": [2**71, None]}, None]
