"""A connection to PostgreSQL: one transaction, when it is cut, and what its errors become."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg.errors import DeadlockDetected, ProgramLimitExceeded, QueryCanceled
from waiting import until

from proxy.storage.database import StorageError, ValueRefusedError
from proxy.storage.postgresql_connection import (
    AnswerLostError,
    DeadlockError,
    NoAnswerError,
    PostgresqlConnection,
    begin_transaction,
    connect,
    cut_at,
    loop_time,
    translated,
)


@pytest.fixture
async def raw(postgresql: str) -> AsyncIterator[PostgresqlConnection]:
    async with await connect(postgresql) as connection:
        yield connection


async def test_a_transaction_that_writes_has_an_id(raw: PostgresqlConnection) -> None:
    id_ = await begin_transaction(raw, "BEGIN; SELECT NULL, pg_current_xact_id()::text")
    assert id_ is not None
    assert id_.isdigit()
    await raw.execute("ROLLBACK")
    assert await begin_transaction(raw, "BEGIN READ ONLY; SELECT NULL") is None


async def test_nothing_is_prepared_for_later_executions(raw: PostgresqlConnection) -> None:
    for _ in range(10):
        await raw.execute("SELECT %s::int", (1,))
    cursor = await raw.execute("SELECT count(*) FROM pg_prepared_statements")
    assert await cursor.fetchone() == (0,)


async def test_who_waits_past_the_time_gets_an_error(raw: PostgresqlConnection) -> None:
    with pytest.raises(psycopg.OperationalError), cut_at(raw, loop_time() + 0.1):
        await raw.execute("SELECT pg_sleep(60)")
    assert raw.closed


async def test_a_block_that_ends_in_time_cuts_nothing(raw: PostgresqlConnection) -> None:
    ends = loop_time() + 2.0
    with cut_at(raw, ends):
        await raw.execute("SELECT 1")
    await until(lambda: loop_time() > ends)
    await raw.execute("SELECT 1")
    assert not raw.closed


async def test_a_waiter_that_is_cancelled_closes_the_connection(
    raw: PostgresqlConnection,
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await raw.execute("SELECT pg_sleep(60)")
    assert raw.closed


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (DeadlockDetected("both\n wait"), DeadlockError, "the database refused: both wait"),
        (QueryCanceled("too long"), NoAnswerError, "the database refused: too long"),
        (psycopg.OperationalError("no route"), StorageError, "the database refused: no route"),
        (psycopg.OperationalError(), StorageError, "the database refused: OperationalError"),
        (psycopg.DataError("a NUL"), ValueRefusedError, "the database refused: a NUL"),
        (ProgramLimitExceeded(), ValueRefusedError, "the database refused: ProgramLimitExceeded"),
        (TimeoutError(), NoAnswerError, "the database does not answer"),
        (OSError("no socket"), StorageError, "the database refused: no socket"),
        (StorageError("its own"), StorageError, "its own"),
    ],
)
async def test_errors_become_those_of_the_storage(
    error: Exception, kind: type[Exception], text: str
) -> None:
    with pytest.raises(StorageError) as raised, translated(None):
        raise error
    assert (type(raised.value), str(raised.value)) == (kind, text)


async def test_an_error_after_the_time_is_that_of_a_server_that_does_not_answer() -> None:
    with (
        pytest.raises(NoAnswerError, match="the database does not answer"),
        translated(loop_time() - 1.0),
    ):
        raise psycopg.OperationalError("the connection is closed")


@pytest.mark.parametrize(("left", "late"), [(-1.0, True), (60.0, False)])
async def test_a_lost_answer_is_late_after_the_time(left: float, late: bool) -> None:
    with pytest.raises(AnswerLostError) as raised, translated(loop_time() + left):
        raise AnswerLostError("7", "value")
    assert raised.value.late is late
