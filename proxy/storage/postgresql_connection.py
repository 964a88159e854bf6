"""A connection to PostgreSQL, and one transaction on it.

A transaction begins in one round trip with its limits, and who waits for a server that no longer
answers gets an error at a given time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.util import await_only

from proxy.storage.database import StorageError, ValueRefusedError

T = TypeVar("T")

#: Of each connection, unless its address says otherwise. A peer that is gone is noticed within
#: seconds.
_CONNECTION = {
    "application_name": "comfy-cloud-proxy",
    "connect_timeout": 2,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 4000,
}
#: How the server says that it has undone one of several transactions that waited for each other.
_DEADLOCK = "40P01"
#: How the server says that a statement took longer than its limit.
_TIMED_OUT = "57014"


class PostgresqlConnection(psycopg.AsyncConnection[Any]):
    """A connection that is closed when the task that waits for the server is cancelled."""

    async def cancel_safe(self, **_: float) -> None:
        """Close this connection. A request to cancel would need one more, to a server that may not
        answer; it ends the query itself when its time is over."""
        await self.close()


# The driver warns of each of these.
logging.getLogger("psycopg").setLevel(logging.ERROR)


class AnswerLostError(StorageError):
    """Raised when the answer to a commit is lost. `value` is the result of the unit; it is `late`
    if the unit took longer than its timeout."""

    def __init__(self, transaction: str, value: object) -> None:
        super().__init__("the answer to a commit was lost")
        self.transaction = transaction
        self.value = value
        self.late = False


class NoAnswerError(StorageError):
    """Raised when the unit takes longer than its timeout."""


class DeadlockError(StorageError):
    """Raised when the unit and another one wait for each other."""


_KINDS: dict[str, type[StorageError]] = {_DEADLOCK: DeadlockError, _TIMED_OUT: NoAnswerError}
#: The classes of errors that say that a value does not fit: of data, integrity and limits, such as
#: the longest value of an index.
_VALUE_REFUSED = ("22", "23", "54")


async def connect(address: str) -> PostgresqlConnection:
    """Open a connection, on which nothing is prepared. Raises `psycopg.Error`, `OSError`."""
    given = conninfo_to_dict(address)
    ours: dict[str, Any] = {name: value for name, value in _CONNECTION.items() if name not in given}
    try:
        return await PostgresqlConnection.connect(
            address, autocommit=True, prepare_threshold=None, **ours
        )
    except BaseException as error:
        # The error and its frames hold each other, and the frames hold the socket: without this it
        # stays open until circles are looked for.
        traceback.clear_frames(error.__traceback__)
        raise


async def begin_transaction(raw: PostgresqlConnection, begin: str) -> str | None:
    """Begin a transaction with the statements of `begin`. Return its id if it writes."""
    cursor = await raw.execute(begin.encode())
    while cursor.nextset():
        pass
    row = await cursor.fetchone()
    return None if row is None else row[-1]


def run_work(
    connection: Connection,
    raw: PostgresqlConnection,
    work: Callable[[Connection], T],
    transaction: str | None,
) -> T:
    """Run the work and end the transaction, whose id is that of one that writes. Raises
    `AnswerLostError`, `StorageError`."""
    try:
        value = work(connection)
    except BaseException:
        with contextlib.suppress(psycopg.Error):
            await_only(raw.execute("ROLLBACK"))
        raise
    try:
        done = await_only(raw.execute("COMMIT"))
    except psycopg.OperationalError as error:
        connection.invalidate(error)
        if transaction is not None:
            raise AnswerLostError(transaction, value) from error
        return value  # it has only read
    if done.statusmessage != "COMMIT":
        raise StorageError("the database refused: the transaction failed")
    return value


@contextlib.contextmanager
def cut_at(raw: PostgresqlConnection, when: float | None) -> Iterator[None]:
    """Cut the connection at a time of the loop, if the block has not ended: anyone who waits for
    the server gets an error, and the server rolls back."""
    timer = None if when is None else asyncio.get_running_loop().call_at(when, _cut, raw)
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


def _cut(raw: PostgresqlConnection) -> None:
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(raw.fileno())) as ours,
    ):
        ours.shutdown(socket.SHUT_RDWR)


def loop_time() -> float:
    """Return the time of the event loop in seconds."""
    return asyncio.get_running_loop().time()


@contextlib.contextmanager
def translated(ends: float | None) -> Iterator[None]:
    """Raise `StorageError` for the errors of a block that is to end at a time of the loop: without
    the address of the database, which holds a password."""
    try:
        yield
    except AnswerLostError as lost:
        lost.late = ends is not None and loop_time() >= ends
        raise
    except StorageError:
        raise
    except (DBAPIError, psycopg.Error) as error:
        if ends is not None and loop_time() >= ends:
            raise NoAnswerError("the database does not answer") from error
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise _kind_of(reason)(f"the database refused: {one_line(reason or error)}") from error
    except TimeoutError as error:
        raise NoAnswerError("the database does not answer") from error
    except (StatementError, OverflowError, UnicodeError) as error:
        cause = (error.orig or error) if isinstance(error, StatementError) else error
        raise ValueRefusedError(f"the database refused: {one_line(cause)}") from error
    except (SQLAlchemyError, OSError) as error:
        raise StorageError(f"the database refused: {one_line(error)}") from error


def _kind_of(error: BaseException | None) -> type[StorageError]:
    """Return what an error of the server or its driver is raised as."""
    state = (error.sqlstate if isinstance(error, psycopg.Error) else None) or ""
    # The driver itself refuses text with a NUL.
    if state.startswith(_VALUE_REFUSED) or isinstance(error, psycopg.DataError):
        return ValueRefusedError
    return _KINDS.get(state, StorageError)


def one_line(error: BaseException) -> str:
    """Return the text of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
