"""A data folder is copied into PostgreSQL whole, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from databases import _empty
from sqlalchemy import BigInteger, Boolean, Column, Connection, Double, LargeBinary, insert, select

from proxy.storage.copying import copy_folder
from proxy.storage.database import FILE, Database, StorageError, open_sqlite
from proxy.storage.encryption import SECRET_FILE, Cipher, stored_secrets
from proxy.storage.leases import ENGINE, LeaseRepository
from proxy.storage.postgresql import open_postgresql
from proxy.storage.start import migrate
from proxy.storage.statements import get_meta, put_meta
from proxy.storage.tables import AnyText, audit, history, jobs, leases, meta, metadata

#: More than are copied at once.
ROWS = 120

TABLES = [table for table in metadata.sorted_tables if table not in (leases, meta)]


@pytest.fixture
async def target(postgresql: str) -> AsyncIterator[Database]:
    """A new PostgreSQL database."""
    database = await open_postgresql(postgresql)
    await database.write(_empty)
    await migrate(database)
    yield database
    await database.close()


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A data folder whose tables all have rows, and whose job with the highest key is gone."""
    database = await open_sqlite(tmp_path / FILE)
    await migrate(database)

    def fill(connection: Connection) -> None:
        for table in TABLES:
            rows = [
                {column.name: value_of(column, number) for column in table.columns}
                for number in range(1, ROWS + 1)
            ]
            connection.execute(insert(table), rows)
        connection.execute(jobs.delete().where(jobs.c.key > 100))
        connection.execute(history.delete().where(history.c.key > 100))
        put_meta(connection, "members_revision", 7)

    await database.write(fill)
    await database.close()
    return tmp_path


def value_of(column: Column[Any], number: int) -> Any:
    match column.type:
        case Boolean():
            return number % 2 == 0
        case LargeBinary():
            return b"\0\xff" * 1000 + str(number).encode()
        case Double():
            return number / 3
        case AnyText():
            return f"\0 \ud800 \x1a ä {number}"
        case BigInteger():
            return number if column.primary_key else 2**60 + number
    if column.primary_key and column.autoincrement is not False and column.name == "key":
        return number
    return f"{number:04}"


def everything(connection: Connection) -> dict[str, list[Any]]:
    return {
        table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
        for table in TABLES
    }


async def test_every_row_of_every_table_is_copied(folder: Path, target: Database) -> None:
    source = await open_sqlite(folder / FILE)
    before = await source.read(everything)
    await source.close()
    copied = await copy_folder(folder, target)
    assert await target.read(everything) == before
    assert copied == {name: len(rows) for name, rows in before.items()}
    assert await target.read(lambda c: get_meta(c, "members_revision")) == 7


async def test_new_keys_are_higher_than_all_before(folder: Path, target: Database) -> None:
    await copy_folder(folder, target)

    def add(connection: Connection) -> list[int]:
        keys = []
        for table in (jobs, audit):
            row = {column.name: value_of(column, 999) for column in table.columns}
            del row["key"]
            statement = insert(table).values(row).returning(table.c.key)
            keys.append(connection.execute(statement).scalar_one())
        return keys

    assert await target.write(add) == [ROWS + 1, ROWS + 1]


async def test_an_empty_folder_is_copied(tmp_path: Path, target: Database) -> None:
    source = await open_sqlite(tmp_path / FILE)
    await migrate(source)
    await source.close()
    assert set((await copy_folder(tmp_path, target)).values()) == {0}


async def test_what_the_folder_encrypted_is_read_with_the_database(
    folder: Path, target: Database
) -> None:
    encrypted = Cipher(folder / SECRET_FILE).encrypt(b"a key")
    of_its_own = Cipher(secret=await stored_secrets(target)).encrypt(b"another")
    await copy_folder(folder, target)
    cipher = Cipher(secret=await stored_secrets(target))
    assert cipher.decrypt(encrypted) == b"a key"
    assert cipher.decrypt(of_its_own) == b"another"


async def test_a_database_with_records_is_refused(folder: Path, target: Database) -> None:
    await copy_folder(folder, target)
    before = await target.read(everything)
    with pytest.raises(StorageError, match="not empty"):
        await copy_folder(folder, target)
    assert await target.read(everything) == before


async def test_a_database_that_replicas_use_is_refused(folder: Path, target: Database) -> None:
    lease = await LeaseRepository(target).acquire(ENGINE, "a replica", 60)
    assert lease is not None
    with pytest.raises(StorageError, match="stop all of them"):
        await copy_folder(folder, target)
    await LeaseRepository(target).release(lease)
    assert (await copy_folder(folder, target))["jobs"] == 100


async def test_nothing_is_copied_where_a_row_is_refused(folder: Path, target: Database) -> None:
    source = await open_sqlite(folder / FILE)
    twice = "UPDATE usage SET submitted = 'many' WHERE day = '0120'"
    await source.write(lambda c: c.exec_driver_sql(twice).close())
    await source.close()
    with pytest.raises(StorageError):
        await copy_folder(folder, target)
    assert not any((await target.read(everything)).values())
