"""Units of work: all or nothing, alone or together."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, text
from storage.units import names, put

from proxy.runtime.backoff import Backoff
from proxy.sharing.owners import ENGINE, Owner, acting_for, member_owner
from proxy.storage import database as storage_database
from proxy.storage.database import (
    MAX_WAITING,
    BusyError,
    Database,
    StorageError,
    TooManyUnitsError,
    ValueRefusedError,
)
from proxy.storage.postgresql import WRITES_EACH
from proxy.storage.sqlite import SqliteDatabase
from proxy.storage.statements import get_meta, put_meta
from proxy.storage.tables import leases, meta


async def test_a_unit_returns_what_its_function_returns(database: Database) -> None:
    assert await database.write(lambda connection: put(connection, "a")) == "a"
    assert await names(database) == ["a"]


async def test_a_unit_that_fails_writes_nothing_and_raises_its_error(database: Database) -> None:
    def fail(connection: Connection) -> None:
        put(connection, "a")
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await database.write(fail)
    assert await names(database) == []


async def test_of_many_units_at_once_only_the_bad_one_fails(database: Database) -> None:
    await database.write(lambda connection: put(connection, "5"))
    results = await asyncio.gather(
        *(database.write(lambda c, n=n: put(c, str(n))) for n in range(10)),
        return_exceptions=True,
    )
    assert [isinstance(result, StorageError) for result in results] == [n == 5 for n in range(10)]
    assert await names(database) == [str(n) for n in range(10)]


async def test_a_cancelled_caller_neither_stops_nor_doubles_its_unit(database: Database) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        put(connection, "a")
        begun.set()
        if isinstance(database, SqliteDatabase):  # there it runs in a thread
            go.wait()

    task = asyncio.create_task(database.write(slow))
    if isinstance(database, SqliteDatabase):
        await asyncio.to_thread(begun.wait)
    else:
        await asyncio.sleep(0)
    task.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await database.write(lambda connection: put(connection, "b"))
    await database.close()


async def test_a_closed_database_refuses(database: Database) -> None:
    await database.close()
    with pytest.raises(StorageError, match="closed"):
        await database.write(lambda connection: put(connection, "a"))
    with pytest.raises(StorageError, match="closed"):
        await names(database)


async def test_a_read_sees_one_moment(database: Database) -> None:
    loop = asyncio.get_running_loop()

    def read(connection: Connection) -> tuple[int, int]:
        before = len(connection.execute(select(meta)).all())
        if isinstance(database, SqliteDatabase):  # the read is in a thread of its own
            write = database.write(lambda other: put(other, "a"))
            asyncio.run_coroutine_threadsafe(write, loop).result()
        return before, len(connection.execute(select(meta)).all())

    before, after = await database.read(read)
    assert before == after


@pytest.mark.parametrize("text", ["\ud800", "nul \x00", "\x1a", "é", "\x1a0041", "a\udfffb"])
async def test_any_text_comes_back(database: Database, text: str) -> None:
    from proxy.storage.shares import shares

    def work(connection: Connection) -> list[str]:
        connection.execute(insert(shares), {"member": text, "start": 1.0})
        query = select(shares.c.member).where(shares.c.member == text)
        return list(connection.execute(query).scalars())

    assert await database.write(work) == [text]


async def test_what_cannot_be_stored_fails_alone(database: Database) -> None:
    """A number beyond 64 bits, a surrogate where no strange text belongs."""

    def large(connection: Connection) -> None:
        row = {"name": "n", "holder": "h", "epoch": 2**70, "expires": 0}
        connection.execute(insert(leases), row)

    results = await asyncio.gather(
        database.write(lambda connection: put(connection, "a")),
        database.write(large),
        database.write(lambda connection: put(connection, "\ud800")),
        database.write(lambda connection: put(connection, "b")),
        return_exceptions=True,
    )
    kinds = [isinstance(result, ValueRefusedError) for result in results]
    assert kinds == [False, True, True, False]
    assert await names(database) == ["a", "b"]


async def test_a_constraint_refuses_a_value(database: Database) -> None:
    await database.write(lambda connection: put(connection, "a"))
    with pytest.raises(ValueRefusedError):
        await database.write(lambda connection: put(connection, "a"))


async def test_what_cannot_be_looked_for_is_a_value_that_is_refused(database: Database) -> None:
    query = select(leases).where(leases.c.epoch == 2**70)
    with pytest.raises(ValueRefusedError):
        await database.read(lambda connection: connection.execute(query).all())


# --- turns of owners -----------------------------------------------------------------------


async def test_units_of_owners_take_turns(database: Database) -> None:
    """A member's unit does not wait for all units of another one, and the engine's first."""
    order: list[str] = []

    def unit(name: str, connection: Connection) -> None:
        if name.startswith("eve"):
            _take_long(connection)
        order.append(name)

    async def write(owner: Owner, name: str) -> None:
        with acting_for(owner):
            await database.write(partial(unit, name))

    async with asyncio.TaskGroup() as tasks:
        for number in range(12):
            tasks.create_task(write(member_owner("eve"), f"eve {number}"))
        await asyncio.sleep(0)
        tasks.create_task(write(member_owner("bob"), "bob"))
        tasks.create_task(write(ENGINE, "engine"))
    assert order.index("bob") <= WRITES_EACH + 1
    assert order.index("engine") <= WRITES_EACH + 1


def _take_long(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_sleep(0.05)"))
    else:
        time.sleep(0.05)


async def test_too_many_units_of_an_owner_are_refused(database: Database) -> None:
    async def ask() -> None:
        with acting_for(member_owner("eve")):
            await database.write(lambda connection: connection.execute(select(meta)).all())

    results = await asyncio.gather(*(ask() for _ in range(MAX_WAITING)), return_exceptions=True)
    refused = [result for result in results if result is not None]
    assert all(isinstance(error, BusyError) for error in refused)
    assert sum(isinstance(error, TooManyUnitsError) for error in refused) > MAX_WAITING / 4
    assert len(refused) < MAX_WAITING
    await ask()
    assert database.waiting.used == 0


# --- SQLite --------------------------------------------------------------------------------


async def test_work_on_many_rows_goes_on_after_too_many_units_have_waited(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_database, "SLICE", 0.0)
    monkeypatch.setattr(storage_database, "_BUSY_DELAYS", Backoff(0.0, 0.0))
    write, calls = database.write, itertools.count(1)

    async def busy(work: Callable[[Connection], Any], **options: Any) -> Any:
        if next(calls) == 2:
            raise BusyError("too many wait")
        return await write(work, **options)

    def part(connection: Connection, state: int) -> int | None:
        put_meta(connection, f"part {state}", state)
        return state + 1 if state < 3 else None

    monkeypatch.setattr(database, "write", busy)
    before = database.units
    await database.write_in_slices(part, 1)
    assert database.units - before == 3
    assert await database.read(lambda connection: get_meta(connection, "part 3")) == 3


async def test_work_on_many_rows_that_never_has_room_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_database, "SLICE", 0.0)
    monkeypatch.setattr(storage_database, "_BUSY_DELAYS", Backoff(0.0, 0.0))
    write, calls = database.write, itertools.count(1)

    async def busy(work: Callable[[Connection], Any], **options: Any) -> Any:
        if next(calls) > 1:
            raise BusyError("too many wait")
        return await write(work, **options)

    monkeypatch.setattr(database, "write", busy)
    with pytest.raises(BusyError):
        await database.write_in_slices(lambda _, state: state + 1, 1)
