"""What PostgreSQL alone can suffer: a server that goes away, an address that is wrong."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest
from databases import _empty
from servers import Postgresql, connections
from sqlalchemy import Connection, text

from proxy.storage.database import BusyError, OutcomeUnknownError, StorageError
from proxy.storage.leases import LeaseRepository, check_fence
from proxy.storage.postgresql import CONNECTIONS, WRITES, PostgresqlDatabase, open_postgresql
from proxy.storage.start import migrate


def _kill_others(connection: Connection) -> None:
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()"
    connection.execute(text(f"{others} AND backend_type = 'client backend'"))


def _one(connection: Connection) -> int:
    return int(connection.execute(text("SELECT 1")).scalar_one())


def _lock(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(1)"))


def _sleep(connection: Connection) -> None:
    connection.execute(text("SELECT pg_sleep(0.2)"))


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
    postgresql_server: Postgresql, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An answer from before the freeze may be read late on a machine that has much to do.
    monkeypatch.setattr("proxy.storage.postgresql.SILENCE", 0.2)
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


async def test_a_read_does_not_wait_until_all_that_wait_to_write_are_done(
    postgresql: str,
) -> None:
    database = await open_postgresql(postgresql)
    async with (
        asyncio.TaskGroup() as tasks,
        await psycopg.AsyncConnection.connect(postgresql) as holder,
    ):
        await holder.execute("SELECT pg_advisory_xact_lock(1)")
        writes = [tasks.create_task(database.write(_lock)) for _ in range(3 * WRITES)]
        await asyncio.sleep(0)
        assert await database.read(_one) == 1
        assert not any(write.done() for write in writes)
    await database.close()


async def test_too_much_to_do_is_not_an_outage(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.storage.postgresql.UNIT_TIMEOUT", 2.0)
    database = await open_postgresql(postgresql)
    watching = asyncio.create_task(database.watch())
    try:
        for _ in range(3):
            await database.write(_sleep)
        assert not database.busy
        writes = [asyncio.create_task(database.write(_sleep)) for _ in range(40 * WRITES)]
        await asyncio.sleep(0)
        assert await database.read(_one) == 1
        assert database.busy
        ends = await asyncio.gather(*writes, return_exceptions=True)
        refused = [end for end in ends if end is not None]
        assert refused
        assert {type(end) for end in refused} == {BusyError}
        assert database.problem is None
        assert not database.busy
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await database.close()


async def test_a_lock_that_is_waited_for_too_long_is_not_an_outage(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = await open_postgresql(postgresql)
    await holder.write(lambda c: c.execute(text("CREATE TABLE locked (a int)")).close())
    monkeypatch.setattr("proxy.storage.postgresql.UNIT_TIMEOUT", 0.6)
    database, locked, done = await open_postgresql(postgresql), asyncio.Event(), asyncio.Event()
    await database.read(_one)  # which opens its connection
    loop = asyncio.get_running_loop()

    def hold(connection: Connection) -> None:
        connection.execute(text("LOCK TABLE locked"))
        loop.call_soon(locked.set)
        connection.execute(text("SELECT pg_sleep(3)"))
        loop.call_soon(done.set)

    holding = asyncio.create_task(holder.write(hold, long=True))
    await locked.wait()
    with pytest.raises(BusyError):
        await database.write(lambda c: c.execute(text("INSERT INTO locked VALUES (1)")).close())
    assert not done.is_set()
    await holding
    await holder.close()
    await database.close()


@pytest.fixture
def no_collection() -> Iterator[None]:
    """No collection of circles, which would close what only they keep open."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="counts sockets in /proc")
@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("gives_up", [False, True], ids=["waits", "gives up"])
async def test_a_server_that_freezes_again_and_again_leaves_no_sockets(
    postgresql_server: Postgresql,
    postgresql: str,
    monkeypatch: pytest.MonkeyPatch,
    gives_up: bool,
) -> None:
    monkeypatch.setattr("proxy.storage.postgresql.UNIT_TIMEOUT", 0.4)
    server, counts = postgresql_server.server, []
    database = await open_postgresql(postgresql)

    async def read() -> None:
        with suppress(StorageError, TimeoutError):
            async with asyncio.timeout(0.2 if gives_up else None):
                await database.read(_one)

    async def read_all() -> None:
        reading = [asyncio.create_task(read()) for _ in range(3 * CONNECTIONS)]
        while not all(task.done() for task in reading):
            counts.append(connections(os.getpid(), server.port))
            await asyncio.wait(reading, timeout=0.02)
        counts.append(connections(os.getpid(), server.port))

    try:
        for _ in range(6):
            async with asyncio.timeout(30):
                while not counts or counts[-1] < CONNECTIONS:  # until each is in use
                    await read_all()
            server.freeze()
            await read_all()
            await read_all()
            server.thaw()
    finally:
        server.thaw()
        await database.close()
    assert max(counts) <= CONNECTIONS + 1
    assert connections(os.getpid(), server.port) == 0


async def test_a_lease_is_renewed_while_more_units_wait_than_can_run(postgresql: str) -> None:
    database = await open_postgresql(postgresql)
    await database.write(_empty, long=True)
    await migrate(database)
    leases = LeaseRepository(database)
    lease = await leases.acquire("engine", "somebody", 60)
    assert lease is not None

    def linger(connection: Connection) -> None:
        check_fence(connection, lease.fence)
        connection.execute(text("SELECT pg_sleep(2)"))  # as long as anyone waits

    busy = [asyncio.create_task(database.write(linger, long=True)) for _ in range(2 * CONNECTIONS)]
    await asyncio.sleep(0)  # they are asked for
    assert await leases.renew(lease, 60)
    assert not any(task.done() for task in busy[CONNECTIONS:])
    await asyncio.gather(*busy)
    await database.close()


class Relay:
    """Stands before the server. From `cut` on the first COMMIT ends its connection: before the
    server has got it, or before the client has its answer; then it may take no more connections."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._cut: str | None = None
        self._stays = True

    def cut(self, what: str, *, stays: bool) -> None:
        self._cut, self._stays = what, stays

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        self._listener = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        async with self._listener:
            yield self._listener.sockets[0].getsockname()[1]

    async def _relay(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        back = asyncio.create_task(_copy(server, to_client))
        try:
            while data := await client.read(65536):
                cut = self._cut if b"COMMIT" in data else None
                if cut is not None:
                    self._cut = None
                    if not self._stays:
                        self._listener.close()
                    if cut == "question":
                        break
                    back.cancel()
                    await asyncio.wait([back])
                to_server.write(data)
                await to_server.drain()
                if cut == "answer":
                    assert b"COMMIT" in await server.read(65536)
                    break
        finally:
            back.cancel()
            for writer in (to_client, to_server):
                writer.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()


@asynccontextmanager
async def behind(server: Postgresql) -> AsyncIterator[tuple[Relay, PostgresqlDatabase]]:
    """A database behind a relay, with a table `notes`."""
    relay = Relay(server.server.port)
    async with relay.listening() as port:
        database = await open_postgresql(server.url(port=port))

        def make(connection: Connection) -> None:
            connection.execute(text("DROP TABLE IF EXISTS notes"))
            connection.execute(text("CREATE TABLE notes (note text)"))

        await database.write(make)
        try:
            yield relay, database
        finally:
            await database.close()


def _note(connection: Connection) -> str:
    connection.execute(text("INSERT INTO notes VALUES ('written')"))
    return "the value"


async def _notes(address: str) -> list[str]:
    database = await open_postgresql(address)
    found = await database.read(
        lambda connection: list(connection.execute(text("SELECT note FROM notes")).scalars())
    )
    await database.close()
    return found


async def test_a_commit_whose_answer_got_lost_was_made(postgresql_server: Postgresql) -> None:
    async with behind(postgresql_server) as (relay, database):
        relay.cut("answer", stays=True)
        assert await database.write(_note) == "the value"
    assert await _notes(postgresql_server.url()) == ["written"]


async def test_a_commit_that_the_server_never_got_was_not_made(
    postgresql_server: Postgresql,
) -> None:
    async with behind(postgresql_server) as (relay, database):
        relay.cut("question", stays=True)
        with pytest.raises(StorageError, match="lost before the commit"):
            await database.write(_note)
    assert await _notes(postgresql_server.url()) == []


async def test_of_a_commit_nobody_can_ask_about_the_outcome_is_unknown(
    postgresql_server: Postgresql,
) -> None:
    async with behind(postgresql_server) as (relay, database):
        relay.cut("answer", stays=False)
        with pytest.raises(OutcomeUnknownError):
            await database.write(_note)
    assert await _notes(postgresql_server.url()) == ["written"]
