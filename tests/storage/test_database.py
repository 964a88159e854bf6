"""Units of work: all or nothing, alone or together, and what becomes of a broken file."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select

from proxy.storage.database import (
    DamagedError,
    Database,
    SqliteDatabase,
    StorageError,
    open_sqlite,
    opened,
    set_aside,
)
from proxy.storage.start import migrate
from proxy.storage.tables import leases, meta


def put(connection: Connection, name: str, value: bytes = b"1") -> str:
    connection.execute(insert(meta), {"name": name, "value": value})
    return name


async def names(database: Database) -> list[str]:
    ours = meta.c.name.not_in(["members_revision", "oldest_schema"])
    query = select(meta.c.name).where(ours).order_by(meta.c.name)
    return await database.read(lambda connection: list(connection.execute(query).scalars()))


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


async def test_closing_finishes_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    async with opened(path) as database:
        await migrate(database)
        tasks = [
            asyncio.create_task(database.write(lambda c, n=n: put(c, str(n)))) for n in range(50)
        ]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    async with opened(path) as database:
        assert len(await names(database)) == 50


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
    assert [isinstance(result, StorageError) for result in results] == [False, True, True, False]
    assert await names(database) == ["a", "b"]


# --- SQLite --------------------------------------------------------------------------------


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    async with opened(tmp_path / "proxy.db") as database:
        await migrate(database)
        yield database


async def test_units_that_wait_share_a_transaction(sqlite: SqliteDatabase) -> None:
    begun, go = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        begun.set()
        go.wait()

    first = asyncio.create_task(sqlite.write(hold))
    await asyncio.to_thread(begun.wait)
    before = sqlite.commits
    rest = [asyncio.create_task(sqlite.write(lambda c, n=n: put(c, str(n)))) for n in range(20)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, *rest)
    assert sqlite.commits - before == 2


async def test_a_full_disk_fails_the_units_and_the_next_one_works(sqlite: SqliteDatabase) -> None:
    def limit(connection: Connection, pages: int) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    await sqlite.write(lambda connection: limit(connection, 1))
    with pytest.raises(StorageError, match="full"):
        await sqlite.write(lambda connection: put(connection, "a", bytes(10_000_000)))
    await sqlite.write(lambda connection: limit(connection, 1_000_000))
    await sqlite.write(lambda connection: put(connection, "b"))
    assert await names(sqlite) == ["b"]


async def test_a_transaction_that_cannot_begin_fails_its_units_only(
    sqlite: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(sqlite.path, isolation_level=None)
    await sqlite.write(lambda c: c.exec_driver_sql("PRAGMA busy_timeout = 1").close())
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="locked"):
        await sqlite.write(lambda connection: put(connection, "a"))
    other.execute("ROLLBACK")
    other.close()
    await sqlite.write(lambda connection: put(connection, "b"))
    assert await names(sqlite) == ["b"]


async def test_the_file_is_its_owners_alone(sqlite: SqliteDatabase) -> None:
    for path in sqlite.path.parent.glob("proxy.db*"):
        assert path.stat().st_mode & 0o777 == 0o600, path


async def test_a_power_cut_is_survived(sqlite: SqliteDatabase) -> None:
    def pragmas(connection: Connection) -> tuple[str, int]:
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        return journal, connection.exec_driver_sql("PRAGMA synchronous").scalar_one()

    assert await sqlite.write(pragmas) == ("wal", 2)


@pytest.mark.parametrize(
    "content", [b"this is no database" * 100, b"SQLite format 3\0" + bytes(84)]
)
async def test_a_damaged_file_is_refused_and_left(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "proxy.db"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"restore FILE.*--start-empty"):
        async with opened(path) as database:
            await migrate(database)
    assert path.read_bytes() == content


async def test_a_page_that_was_overwritten_is_seen_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    async with opened(path) as database:
        await migrate(database)
        for number in range(100):
            await database.write(lambda c, n=number: put(c, str(n), bytes(3000)))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    with pytest.raises(DamagedError):
        await open_sqlite(path)


def test_a_damaged_file_is_set_aside_with_its_log(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    for content in (b"one", b"two"):
        path.write_bytes(content)
        (tmp_path / "proxy.db-wal").write_bytes(content)
        set_aside(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "proxy.db.damaged-1",
        "proxy.db.damaged-1-wal",
        "proxy.db.damaged-2",
        "proxy.db.damaged-2-wal",
    ]


async def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"proxy\.db refused"):
        await open_sqlite(tmp_path / "file" / "proxy.db")


async def test_two_processes_write_the_same_file(sqlite: SqliteDatabase) -> None:
    async with opened(sqlite.path) as other:
        await asyncio.gather(
            *(
                database.write(lambda c, n=n: put(c, n))
                for n, database in (("a", sqlite), ("b", other))
            )
        )
        assert await names(sqlite) == await names(other) == ["a", "b"]
