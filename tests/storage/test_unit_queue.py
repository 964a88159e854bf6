"""Units that wait for the threads of SQLite."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from proxy.sharing.owners import ENGINE, Owner, acting_for, member_owner
from proxy.storage.database import Database
from proxy.storage.sqlite import READERS
from proxy.storage.start import open_folder
from proxy.storage.tables import meta

pytestmark = pytest.mark.sqlite

ANN, BOB, EVE = member_owner("ann"), member_owner("bob"), member_owner("eve")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await open_folder(tmp_path)
    yield database
    await database.close()


class Slow:
    """A unit that runs until it is let go."""

    def __init__(self) -> None:
        self.begun, self._go = threading.Semaphore(0), threading.Event()

    def __call__(self, connection: Connection) -> None:
        connection.execute(select(meta)).all()
        self.begun.release()
        self._go.wait(10)

    async def until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=10)

    def let_go(self) -> None:
        self._go.set()


async def read(database: Database, owner: Owner, work: Callable[[Connection], object]) -> None:
    with acting_for(owner):
        await database.read(work)


def look(connection: Connection) -> None:
    connection.execute(select(meta)).all()


async def test_an_owner_leaves_a_reader_to_others(database: Database) -> None:
    slow = Slow()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(5):
            tasks.create_task(read(database, EVE, slow))
        await slow.until_begun()
        for owner in (BOB, ANN, BOB):
            await read(database, owner, look)
        assert not slow.begun.acquire(blocking=False)
        slow.let_go()


async def test_the_engine_may_have_all_readers(database: Database) -> None:
    slow = Slow()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(READERS):
            tasks.create_task(read(database, ENGINE, slow))
        for _ in range(READERS):
            await slow.until_begun()
        slow.let_go()


async def test_the_end_waits_for_units_that_wait_for_their_owner(database: Database) -> None:
    slow = Slow()
    async with asyncio.TaskGroup() as tasks:
        reads = [tasks.create_task(read(database, EVE, slow)) for _ in range(5)]
        await slow.until_begun()
        closing = tasks.create_task(database.close())
        await asyncio.sleep(0)
        slow.let_go()
    assert closing.done()
    assert all(task.done() and task.exception() is None for task in reads)


async def test_a_read_that_nobody_waits_for_any_more_is_not_begun(database: Database) -> None:
    slow, ran = Slow(), list[bool]()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read(database, EVE, slow))
        await slow.until_begun()
        given_up = tasks.create_task(read(database, EVE, lambda _: ran.append(True)))
        last = tasks.create_task(read(database, EVE, look))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        slow.let_go()
        await last
    assert not ran
    assert database.waiting.used == 0
