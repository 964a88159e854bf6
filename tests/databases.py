"""Fixtures of real databases: SQLite in a file, and PostgreSQL where it is installed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import servers
from sqlalchemy import Connection

from proxy.members.directory import Directory
from proxy.members.marker import MARKER
from proxy.storage.database import Database
from proxy.storage.members import MemberRepository
from proxy.storage.sqlite import FILE, SqliteDatabase, open_sqlite
from proxy.storage.start import migrate


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[servers.Postgresql]:
    """A server of the tests' own."""
    with servers.postgresql() as running:
        yield running


@pytest.fixture(scope="session")
def postgresql(postgresql_server: servers.Postgresql) -> str:
    """The address of that server's first database."""
    return postgresql_server.url()


def _empty(connection: Connection) -> None:
    connection.exec_driver_sql("DROP SCHEMA public CASCADE")
    connection.exec_driver_sql("CREATE SCHEMA public")


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A database without tables."""
    if request.param == "sqlite":
        database: Database = await open_sqlite(tmp_path / "data" / "proxy.db")
    else:
        from proxy.storage import postgresql

        # Many units that wait for each other may take longer than usual on a busy machine.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(postgresql, "UNIT_TIMEOUT", 10 * postgresql.UNIT_TIMEOUT)
            database = await postgresql.open_postgresql(request.getfixturevalue("postgresql"))
        await database.write(_empty, long=True)
    yield database
    await database.close()


@pytest.fixture
async def database(empty_database: Database) -> Database:
    """A database with all tables."""
    await migrate(empty_database)
    return empty_database


@asynccontextmanager
async def other_connection(database: Database) -> AsyncIterator[Database]:
    """The same database as another process has it."""
    if isinstance(database, SqliteDatabase):
        other: Database = await open_sqlite(database.path)
    else:
        from proxy.storage.postgresql import PostgresqlDatabase, open_postgresql

        assert isinstance(database, PostgresqlDatabase)
        other = await open_postgresql(database.address)
    yield other
    await other.close()


class FolderDirectory(Directory):
    """The members of a data folder, over a database of their own."""

    def __init__(self, database: Database, folder: Path) -> None:
        super().__init__(MemberRepository(database), marker=folder / MARKER)
        self._database = database

    @classmethod
    async def open(cls, folder: Path) -> FolderDirectory:
        """Read the folder's members, also while another process uses them."""
        database = await open_sqlite(folder / FILE)
        try:
            await migrate(database)
            directory = cls(database, folder)
            await directory.load()
        except BaseException:
            await database.close()
            raise
        return directory

    async def close(self) -> None:
        """Write down the last uses, and close the database."""
        await super().close()
        await self._database.close()
