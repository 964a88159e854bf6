"""SQLite: transactions that units share, and what becomes of a broken file."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection
from storage.units import names, put
from structlog.testing import capture_logs

from proxy.storage.database import DamagedError, StorageError
from proxy.storage.sqlite import SqliteDatabase, open_sqlite, opened, set_aside
from proxy.storage.start import migrate


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


async def test_a_failure_that_lasts_has_a_line_at_its_begin_and_one_at_its_end(
    sqlite: SqliteDatabase,
) -> None:
    def limit(connection: Connection, pages: int) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    await sqlite.write(lambda connection: limit(connection, 1))
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(StorageError, match="full"):
                await sqlite.write(lambda connection: put(connection, "a", bytes(10_000_000)))
            assert await names(sqlite) == []
        await sqlite.write(lambda connection: limit(connection, 1_000_000))
    assert [log["event"] for log in logs] == ["database_failed", "failure_ended"]
    assert logs[0]["use"] == "write"
    assert (logs[1]["failure"], logs[1]["count"]) == ("database_write", 3)


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
