"""The database of several processes: PostgreSQL, with the same units of work.

It works behind PgBouncer in transaction mode: no prepared statements, no state of a session. A
unit ends or fails within `UNIT_TIMEOUT` seconds (after a deadlock within twice as many), even if
the server no longer answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal, TypeVar, cast

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from proxy.logging import register_secret
from proxy.sharing.owners import ENGINE, acting_owner
from proxy.sharing.turns import CrowdedError, Turns
from proxy.storage.database import (
    BusyError,
    Database,
    OutcomeUnknownError,
    StorageError,
    TooManyUnitsError,
)
from proxy.storage.postgresql_connection import (
    AnswerLostError,
    DeadlockError,
    NoAnswerError,
    PostgresqlConnection,
    begin_transaction,
    connect,
    cut_at,
    loop_time,
    one_line,
    run_work,
    translated,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: What a unit does: `urgent` ones write, too, one at a time, and wait for no other.
Use = Literal["read", "write", "urgent"]

#: Connections of a process: as many units run at once, more wait. One more is for urgent ones.
CONNECTIONS = 10
#: Of these, as many as units that write may use at once: reads never wait for all of them.
WRITES = 7
#: As many of these connections as one owner may use at once, and as many to write.
CONNECTIONS_EACH, WRITES_EACH = 6, 4
#: Seconds that a unit may be expected to wait for its turn to write before the database is `busy`.
MAX_WAIT = 0.5
#: What the last unit counts in the average of the time that one takes.
_WEIGHT = 0.05
#: Seconds that a unit may take, with the wait for a connection.
UNIT_TIMEOUT = 2.0
#: Seconds that it may take more to find out whether a commit whose answer got lost was made.
SETTLING = 0.6
#: Seconds without any answer after which a unit that got none takes the server for away.
SILENCE = 1.5
#: Seconds between two looks whether the server answers, and between those while it does not.
INTERVAL, INTERVAL_AWAY = 1.0, 0.25

_BEGIN_LONG_WRITE = "BEGIN; SELECT NULL, NULL, pg_current_xact_id()::text"
#: Seconds in which the other transaction takes what it waited for, before this one is repeated.
_AFTER_DEADLOCK = 0.1

_STATUS = text("SELECT pg_xact_status(CAST(:transaction AS xid8))")


class PostgresqlDatabase(Database):
    """A database on a server. Make one with `open_postgresql`.

    Units run at once, each in a transaction of its own: their order is undefined. Once `watch` or a
    unit finds that the server does not answer, units fail at once until `watch` finds that it does,
    so that a caller of several units waits for one only. A unit that takes too long while the
    server answers others ends with `BusyError`.
    """

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        # The server ends what takes longer than somebody waits for it, and what a frozen process
        # holds.
        self._timeout, ms = UNIT_TIMEOUT, round(UNIT_TIMEOUT * 1000)
        limits = (
            f"set_config('statement_timeout', '{ms}', true), "
            f"set_config('idle_in_transaction_session_timeout', '{ms}', true)"
        )
        self._begin_read = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT {limits}, NULL"
        self._begin_write = f"BEGIN; SELECT {limits}, pg_current_xact_id()::text"
        # Transactions are begun here, in one round trip with their limits.
        self._engine = create_async_engine(
            "postgresql+psycopg://",
            async_creator=lambda: connect(address),
            isolation_level="AUTOCOMMIT",
            pool_size=CONNECTIONS + 1,
            max_overflow=0,
            pool_timeout=self._timeout,
            use_native_hstore=False,
        )
        self._turns = Turns(
            CONNECTIONS_EACH, CONNECTIONS, limits={ENGINE: CONNECTIONS}, waiting=self.waiting
        )
        self._writes = Turns(WRITES_EACH, WRITES, limits={ENGINE: WRITES}, waiting=self.waiting)
        self._urgent_turns = Turns(1)
        self._write_seconds = 0.0
        self._writing: set[asyncio.Task[Any]] = set()
        self._watched = False
        self._answered_at = loop_time()
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a unit of the current owner that writes is expected to wait for more than
        `MAX_WAIT`."""
        return self._writes.waiting(acting_owner()) * self._write_seconds / WRITES > MAX_WAIT

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a unit that only reads, on one snapshot. Raises `StorageError`."""
        self._refuse()
        return await self._reported("read", self._unit(work, self._begin_read, self._timeout))

    async def write(
        self, work: Callable[[Connection], T], *, long: bool = False, urgent: bool = False
    ) -> T:
        """Run a unit that writes; it is on disk when this returns.

        A `long` one may take as long as it takes; an `urgent` one goes before those that wait for
        a connection, and there is one at a time. Raises `StorageError`; then it was not written,
        except for `OutcomeUnknownError`.
        """
        self._refuse()
        writing = self._write(work, long=long, urgent=urgent)
        task = asyncio.create_task(writing, name="write to the database")
        self._writing.add(task)
        task.add_done_callback(self._written)
        return await self._reported("write", asyncio.shield(task))

    async def watch(self) -> None:
        """Look all the time whether the server answers, and say in `problem` why not."""
        self._watched = True
        while True:
            try:
                await self._look()
            except (psycopg.Error, OSError) as error:
                self._found(one_line(error))
            await asyncio.sleep(INTERVAL_AWAY)

    async def close(self) -> None:
        """Finish the units that were asked for, and close."""
        if not self._closed:
            self._closed = True
            if self._writing:
                await asyncio.wait(self._writing)
            await self._engine.dispose()

    async def _look(self) -> None:
        """Ask over and over, on a connection of its own, until there is no answer."""
        async with await connect(self.address) as connection:
            while True:
                with cut_at(connection, loop_time() + self._timeout):
                    await connection.execute("SELECT 1")
                self._answered_at = loop_time()
                self._found(None)
                await asyncio.sleep(INTERVAL)

    def _found(self, problem: str | None) -> None:
        if problem is not None and self.problem is None:
            log.error("database_lost", reason=problem)
        elif problem is None and self.problem is not None:
            log.info("database_returned")
        self.problem = problem

    async def _write(self, work: Callable[[Connection], T], *, long: bool, urgent: bool) -> T:
        begin = _BEGIN_LONG_WRITE if long else self._begin_write
        unit_timeout = None if long else self._timeout
        try:
            use: Use = "urgent" if urgent else "write"
            value = await self._unit(work, begin, unit_timeout, use)
        except AnswerLostError as lost:
            if not await self._settled(lost.transaction):
                kind = BusyError if lost.late else StorageError
                raise kind("the connection to the database was lost before the commit") from lost
            value = cast(T, lost.value)
        self.commits += 1
        self.units += 1
        return value

    async def _settled(self, transaction: str) -> bool:
        """Return whether the transaction was committed. Raises `OutcomeUnknownError`."""
        ends = loop_time() + SETTLING
        while (left := ends - loop_time()) > 0:
            with contextlib.suppress(StorageError):
                committed = await self._was_committed(transaction, left)
                if committed is not None:
                    return committed
            await asyncio.sleep(min(INTERVAL_AWAY, max(0.0, ends - loop_time())))
        raise OutcomeUnknownError("the connection to the database was lost during a write")

    async def _was_committed(self, transaction: str, unit_timeout: float) -> bool | None:
        """Return whether a transaction was committed; `None` while it continues. Raises
        `StorageError`."""

        def work(connection: Connection) -> str:
            return str(connection.execute(_STATUS, {"transaction": transaction}).scalar_one())

        found = await self._unit(work, self._begin_read, unit_timeout)
        return None if found == "in progress" else found == "committed"

    async def _unit(
        self,
        work: Callable[[Connection], T],
        begin: str,
        unit_timeout: float | None,
        use: Use = "read",
    ) -> T:
        """Run a unit in a transaction, once more after a deadlock. Raises `StorageError`,
        `AnswerLostError`."""
        try:
            try:
                return await self._attempt(work, begin, unit_timeout, use)
            except DeadlockError as error:
                log.info("transaction_repeated", reason=str(error))
                await asyncio.sleep(_AFTER_DEADLOCK)
                return await self._attempt(work, begin, unit_timeout, use)
        except NoAnswerError as error:
            if loop_time() - self._answered_at < SILENCE:
                raise BusyError("the database is overloaded") from error
            if self._watched:
                self._found(str(error))
            raise

    async def _attempt(
        self,
        work: Callable[[Connection], T],
        begin: str,
        unit_timeout: float | None,
        use: Use,
    ) -> T:
        """Run a unit in a transaction. Raises `StorageError`, `AnswerLostError`."""
        ends = None if unit_timeout is None else loop_time() + unit_timeout
        with translated(ends):
            async with self._turn(use, ends):
                began = loop_time()
                value = await self._run_once(work, begin, ends)
                if use == "write":
                    seconds = loop_time() - began
                    self._write_seconds += _WEIGHT * (seconds - self._write_seconds)
                return value

    @asynccontextmanager
    async def _turn(self, use: Use, until: float | None) -> AsyncIterator[None]:
        """Hold a turn of the current owner. Raises `TimeoutError`, `TooManyUnitsError`."""
        owner = acting_owner()
        async with AsyncExitStack() as held:
            try:
                if use == "urgent":
                    await held.enter_async_context(self._urgent_turns.hold(ENGINE, until=until))
                else:
                    if use == "write":
                        await held.enter_async_context(self._writes.hold(owner, until=until))
                    await held.enter_async_context(self._turns.hold(owner, until=until))
            except CrowdedError:
                raise TooManyUnitsError from None
            yield

    async def _run_once(self, work: Callable[[Connection], T], begin: str, ends: float | None) -> T:
        """Run a unit in a transaction, on a connection that works."""
        while True:
            async with asyncio.timeout_at(ends):
                connection = await self._engine.connect()
            try:
                own = connection.sync_connection
                assert own is not None  # noqa: S101 (it is connected)
                raw = cast(PostgresqlConnection, own.connection.driver_connection)
                try:
                    with cut_at(raw, ends):
                        try:
                            transaction = await begin_transaction(raw, begin)
                        except psycopg.OperationalError as error:
                            await connection.invalidate(error)
                            if ends is not None and loop_time() >= ends:
                                raise
                            continue  # the server was restarted since: nothing has been done yet
                        self._answered_at = loop_time()
                        return await connection.run_sync(run_work, raw, work, transaction)
                finally:
                    if raw.closed:
                        await connection.invalidate()
            finally:
                await connection.close()

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # a caller that was cancelled does not fetch it

    def _refuse(self) -> None:
        if self._closed:
            raise StorageError("the database is closed")
        if self.problem is not None:
            raise StorageError(f"the database is unavailable: {self.problem}")


async def open_postgresql(address: str) -> PostgresqlDatabase:
    """Open the database at `postgresql://USER:PASSWORD@HOST/NAME`. Raises `StorageError`."""
    try:
        password = conninfo_to_dict(address).get("password")
    except psycopg.Error as error:  # whose text may show the password
        raise StorageError(
            "the address of the database is invalid: use postgresql://USER:PASSWORD@HOST/NAME"
        ) from error
    if password:
        register_secret(str(password))
    database = PostgresqlDatabase(address)
    try:
        await database.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
    except BaseException:
        await database.close()
        raise
    return database
