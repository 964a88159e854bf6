"""What PostgreSQL alone can suffer: a server that goes away, an address that is wrong."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from servers import Postgresql
from sqlalchemy import Connection, text

from proxy.storage.database import StorageError
from proxy.storage.postgresql import open_postgresql


def _kill_others(connection: Connection) -> None:
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()"
    connection.execute(text(f"{others} AND backend_type = 'client backend'"))


def _one(connection: Connection) -> int:
    return int(connection.execute(text("SELECT 1")).scalar_one())


async def test_connections_that_were_cut_cost_no_unit(postgresql: str) -> None:
    database, other = await open_postgresql(postgresql), await open_postgresql(postgresql)
    await asyncio.gather(*(database.read(_one) for _ in range(5)))
    await other.write(_kill_others)
    assert await asyncio.gather(*(database.read(_one) for _ in range(5))) == [1] * 5
    await database.close()
    await other.close()


async def test_a_unit_whose_connection_is_cut_fails_with_a_sentence(postgresql: str) -> None:
    database = await open_postgresql(postgresql)

    def die(connection: Connection) -> None:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(StorageError, match="the database refused"):
        await database.write(die)
    assert await database.read(_one) == 1
    await database.close()


async def test_a_unit_that_only_reads_cannot_write(postgresql: str) -> None:
    database = await open_postgresql(postgresql)
    with pytest.raises(StorageError, match="read-only"):
        await database.read(lambda c: c.execute(text("CREATE TABLE never (a int)")).close())
    await database.close()


@pytest.mark.parametrize("url", ["nonsense", "postgresql://u:geheim@127.0.0.1:1/x", "mysql://a/b"])
async def test_an_address_that_is_wrong_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(StorageError) as raised:
        await open_postgresql(url)
    assert "geheim" not in str(raised.value)


async def test_units_that_wait_for_each_other_are_both_done(postgresql: str) -> None:
    database = await open_postgresql(postgresql)

    def make(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE rows (id int PRIMARY KEY, value int)"))
        connection.execute(text("INSERT INTO rows VALUES (1, 0), (2, 0)"))

    def add(first: int, second: int, connection: Connection) -> None:
        more = text("UPDATE rows SET value = value + 1 WHERE id = :id")
        connection.execute(more, {"id": first})
        connection.execute(text("SELECT pg_sleep(0.1)"))
        connection.execute(more, {"id": second})

    await database.write(make)
    await asyncio.gather(
        database.write(partial(add, 1, 2)),
        database.write(partial(add, 2, 1)),
    )
    values = await database.read(
        lambda connection: list(connection.execute(text("SELECT value FROM rows")).scalars())
    )
    assert values == [2, 2]
    await database.close()


async def test_a_server_that_says_nothing_is_waited_for_once(
    postgresql_server: Postgresql, postgresql: str
) -> None:
    database = await open_postgresql(postgresql)
    watching = asyncio.create_task(database.watch())
    try:
        await database.read(_one)
        postgresql_server.server.freeze()
        with pytest.raises(StorageError, match="does not answer"):
            await database.read(_one)
        with pytest.raises(StorageError, match="the database is unavailable"):
            await database.read(_one)
        postgresql_server.server.thaw()
        async with asyncio.timeout(30):
            while database.problem is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await database.read(_one) == 1
    finally:
        postgresql_server.server.thaw()
        watching.cancel()
        await asyncio.wait([watching])
        await database.close()
