"""The database: units of work, one transaction each, off the event loop.

A unit is a synchronous function over a Core connection, so that a repository is written once for
SQLite and PostgreSQL. It has no effect but on the database, and it never commits.

A unit belongs to the owner that its task works for: the engine, a member, or strangers. Owners have
turns by the time that their units take (`proxy.sharing.turns`). A unit must be short, some 20 ms:
work on many rows goes in slices of rows, each in a unit of its own.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog
from msgspec import Struct
from sqlalchemy import Connection, Executable, Row

from proxy.logging import FailureLines
from proxy.runtime import clock
from proxy.runtime.backoff import Backoff
from proxy.runtime.supervisor import OutsideError
from proxy.runtime.waits import finish
from proxy.sharing.pool import Pool

log = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")
State = TypeVar("State")
S = TypeVar("S", bound=Struct)


class StorageError(OutsideError):
    """Raised when the database cannot be read or written. The text is one sentence that says
    why."""


class DamagedError(StorageError):
    """Raised when the file is not a database."""


class UnknownSchemaError(StorageError):
    """Raised when a newer version of the program wrote the database."""


class FencedError(StorageError):
    """Raised when the writer does not lead any more: another process has the lease."""


class ValueRefusedError(StorageError):
    """Raised when the database refuses a value of the unit: a number that is too large, text that
    it cannot encode, what a constraint forbids. It would refuse the same unit again. Nothing was
    written."""


class BusyError(StorageError):
    """Raised when the database answers, and too many units wait for it. Nothing was written."""


class TooManyUnitsError(BusyError):
    """Raised when too many units of one owner wait. Nothing was written."""

    def __init__(self) -> None:
        super().__init__("too many units of one owner wait for the database")


class OutcomeUnknownError(StorageError):
    """Raised when the connection is lost during a commit, so that its outcome is unknown."""


class UnitRefusedError(Exception):
    """Raised by a unit that refuses what is asked by what is stored: a limit is reached, a record
    was changed or is gone. The database is well, and nothing of the unit is written."""


#: Units that may wait at once, of which owners have shares, and those that each may have.
MAX_WAITING, MIN_WAITING = 2048, 64

#: Seconds of a unit from which on the rest of its work goes into another one.
SLICE = 0.01
#: Delays of work that has begun and finds too many units waiting, and how often it tries.
_BUSY_DELAYS, _BUSY_TRIES = Backoff(first=0.1, longest=5.0), 12


class Database(ABC):
    """A database that runs units of work. `commits` counts transactions, `units` the units that
    they wrote.

    `problem` says why nothing can be read or written now, where that is known beforehand.
    """

    def __init__(self) -> None:
        self.commits = 0
        self.units = 0
        self.problem: str | None = None
        #: The units that wait, but for those of the engine, which its jobs limit.
        self.waiting = Pool(MAX_WAITING, MIN_WAITING)
        self._lines = FailureLines()

    @property
    def busy(self) -> bool:
        """Whether units of the current owner wait so long to write that new work should be
        refused."""
        return False

    @abstractmethod
    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a unit that only reads, on one snapshot. Raises `StorageError`."""

    @abstractmethod
    async def write(
        self, work: Callable[[Connection], T], *, long: bool = False, urgent: bool = False
    ) -> T:
        """Run a unit that writes; it is on disk when this returns.

        What the unit raises is raised here, and then nothing of it is written. A caller that is
        cancelled does not stop its unit. A `long` one, such as a migration, may take any time; an
        `urgent` one does not queue for a connection. Raises `StorageError`; then
        nothing is written, but for an `OutcomeUnknownError`.
        """

    async def write_in_slices(
        self, work: Callable[[Connection, State], State | None], first: State
    ) -> None:
        """Run work on many rows in several units, so that others write in between.

        `work` does a part from a state on, and returns the one from which it goes on, `None` at
        the end. A unit has parts until they have taken `SLICE` seconds. Readers may see what is
        half done. A caller that is cancelled does not stop the rest. Raises `StorageError`, and
        what `work` raises; then the parts before are done.
        """

        def unit(connection: Connection, state: State | None) -> State | None:
            ends = clock.monotonic() + SLICE
            while state is not None:
                state = work(connection, state)
                if clock.monotonic() >= ends:
                    break
            return state

        async def slices() -> None:
            state = await self.write(lambda connection: unit(connection, first))
            tries = 0
            while state is not None:
                try:
                    state = await self.write(partial(unit, state=state))
                    tries = 0
                except BusyError:
                    tries += 1
                    if tries == _BUSY_TRIES:
                        raise
                    await asyncio.sleep(_BUSY_DELAYS.after(tries))

        await finish(slices())

    async def _reported(self, use: str, unit: Awaitable[T]) -> T:
        """Return what a unit returns, and write to the log when units begin to fail and succeed
        again. What is refused for a value, the lease or too much work is no failure."""
        try:
            value = await unit
        except (ValueRefusedError, FencedError, BusyError):
            raise
        except StorageError as error:
            if (more := self._lines.due(f"database_{use}")) is not None:
                log.error("database_failed", use=use, error=str(error), **more)
            raise
        if self._lines:
            self._lines.ended(f"database_{use}")
        return value

    async def watch(self) -> None:
        """Keep `problem` true, until cancelled."""
        await asyncio.Event().wait()

    @abstractmethod
    async def close(self) -> None:
        """Finish the units that were asked for, and close."""


class Repository:
    """The records of one kind in a database. All methods of a repository raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def _all(
        self, query: Executable, values: Mapping[str, Any] | None = None
    ) -> Sequence[Row[Any]]:
        return await self.database.read(lambda connection: connection.execute(query, values).all())

    async def _first(
        self, query: Executable, values: Mapping[str, Any] | None = None
    ) -> Row[Any] | None:
        return await self.database.read(
            lambda connection: connection.execute(query, values).first()
        )

    async def _records(
        self, kind: type[S], query: Executable, values: Mapping[str, Any] | None = None
    ) -> list[S]:
        """Return rows as the structs whose fields their columns are."""
        return [kind(**row._mapping) for row in await self._all(query, values)]

    async def _record(
        self, kind: type[S], query: Executable, values: Mapping[str, Any] | None = None
    ) -> S | None:
        """Return the first row as such a struct, `None` if there is none."""
        row = await self._first(query, values)
        return None if row is None else kind(**row._mapping)
