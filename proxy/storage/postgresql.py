"""The database of several replicas: PostgreSQL, with the same units of work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from proxy.storage.database import Database, StorageError

T = TypeVar("T")

#: Connections of a replica: as many units run at once, more wait.
CONNECTIONS = 10
#: Seconds to wait for the server to answer, and for a connection that is free.
PATIENCE, QUEUE_PATIENCE = 10, 30
#: Milliseconds after which the server ends a statement, and a unit that says nothing.
STATEMENT_TIMEOUT, IDLE_TIMEOUT = 30_000, 60_000


class PostgresqlDatabase(Database):
    """A database on a server. Make one with `open_postgresql`.

    Units run at once, each in a transaction of its own: of two that are under way nobody knows
    which is first.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__()
        self._engine = engine
        self._writing: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a unit that only reads, on one snapshot. Raises `StorageError`."""
        self._refuse_if_closed()
        with _translated():
            async with self._engine.connect() as connection:
                await connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
                return await connection.run_sync(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run a unit that writes; it is on disk when this returns. Raises `StorageError`."""
        self._refuse_if_closed()
        task = asyncio.create_task(self._write(work), name="write to the database")
        self._writing.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Finish the units that were asked for, and close."""
        if not self._closed:
            self._closed = True
            if self._writing:
                await asyncio.wait(self._writing)
            await self._engine.dispose()

    async def _write(self, work: Callable[[Connection], T]) -> T:
        with _translated():
            async with self._engine.begin() as connection:
                value = await connection.run_sync(work)
        self.commits += 1
        self.units += 1
        return value

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # a caller that was cancelled does not fetch it

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StorageError("the database is closed")


async def open_postgresql(url: str) -> PostgresqlDatabase:
    """Open the database at `postgresql://USER:PASSWORD@HOST/NAME`. Raises `StorageError`."""
    with _translated():
        engine = create_async_engine(
            make_url(url).set(drivername="postgresql+psycopg"),
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=QUEUE_PATIENCE,
            pool_pre_ping=True,  # a server that was restarted costs no unit
            connect_args={
                "connect_timeout": PATIENCE,
                "options": f"-c statement_timeout={STATEMENT_TIMEOUT} "
                f"-c idle_in_transaction_session_timeout={IDLE_TIMEOUT}",
            },
        )
        database = PostgresqlDatabase(engine)
        try:
            await database.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
        except BaseException:
            await database.close()
            raise
        return database


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Errors without the address of the database, which holds a password."""
    try:
        yield
    except DBAPIError as error:
        raise StorageError(f"the database refused: {_line(error.orig or error)}") from error
    except (ArgumentError, ValueError, ModuleNotFoundError) as error:
        raise StorageError(
            "the address of the database cannot be used: it is postgresql://USER@HOST/NAME, and "
            "the extra `cluster` must be installed"
        ) from error
    except (SQLAlchemyError, OSError) as error:
        raise StorageError(f"the database refused: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
