"""Statements in the words of each database."""

from __future__ import annotations

from sqlalchemy import Column, Connection, Integer, MetaData, Table

from proxy.storage.database import Database
from proxy.storage.statements import Upsert, get_meta, put_meta

TABLE = Table("t", MetaData(), Column("k", Integer, primary_key=True), Column("v", Integer))


async def test_an_upsert_sets_adds_keeps_or_takes_the_highest(empty_database: Database) -> None:
    def work(connection: Connection) -> list[int]:
        values = []
        for how, columns in (("set", ["v"]), ("add", ["v"]), ("highest", ["v"]), ("set", [])):
            TABLE.drop(connection, checkfirst=True)
            TABLE.create(connection)
            upsert = Upsert(TABLE, ["k"], columns, how=how)
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
