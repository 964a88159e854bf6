"""The store in SQLite: documents, transactions, order, and what it does with a broken file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.store import sqlite
from proxy.store.base import Delete, Put, StoreError
from proxy.store.sqlite import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "data" / "proxy.db")
    yield store
    await store.close()


async def documents(store: SqliteStore, collection: str, prefix: str = "") -> list[str]:
    return [key async for key, _ in store.scan(collection, prefix)]


async def test_a_document_comes_back_as_it_was_written(store: SqliteStore) -> None:
    await store.put("jobs", "a", b"\x00\xff")
    assert await store.get("jobs", "a") == b"\x00\xff"


async def test_a_missing_document_is_none(store: SqliteStore) -> None:
    assert await store.get("jobs", "a") is None


async def test_collections_do_not_share_keys(store: SqliteStore) -> None:
    await store.put("jobs", "a", b"1")
    assert await store.get("files", "a") is None


async def test_put_replaces(store: SqliteStore) -> None:
    await store.put("jobs", "a", b"1")
    await store.put("jobs", "a", b"2")
    assert await store.get("jobs", "a") == b"2"


async def test_insert_takes_a_free_key_only(store: SqliteStore) -> None:
    assert await store.insert("jobs", "a", b"1") is True
    assert await store.insert("jobs", "a", b"2") is False
    assert await store.get("jobs", "a") == b"1"


async def test_of_many_inserts_at_once_one_wins(store: SqliteStore) -> None:
    won = await asyncio.gather(*(store.insert("jobs", "a", bytes([n])) for n in range(20)))
    assert won.count(True) == 1
    assert await store.get("jobs", "a") == bytes([won.index(True)])


async def test_delete_of_a_missing_document_is_nothing(store: SqliteStore) -> None:
    await store.put("jobs", "a", b"1")
    await store.delete("jobs", "a")
    await store.delete("jobs", "a")
    assert await store.get("jobs", "a") is None


async def test_changes_are_made_in_their_order(store: SqliteStore) -> None:
    await store.write([Put("jobs", "a", b"1"), Delete("jobs", "a"), Put("jobs", "b", b"2")])
    assert await documents(store, "jobs") == ["b"]


async def test_a_failing_change_undoes_the_others(store: SqliteStore) -> None:
    with pytest.raises(StoreError):
        await store.write([Put("jobs", "a", b"1"), Put("jobs", "b", None)])  # type: ignore[arg-type]
    assert await documents(store, "jobs") == []
    await store.put("jobs", "c", b"3")


async def test_no_changes_are_no_transaction(store: SqliteStore) -> None:
    await store.write([])
    assert await documents(store, "jobs") == []


async def test_a_scan_is_in_the_order_of_keys_and_ends_at_the_prefix(store: SqliteStore) -> None:
    for key in ("b/1", "a/10", "a/2", "c", "a"):
        await store.put("jobs", key, b"")
    assert await documents(store, "jobs", "a/") == ["a/10", "a/2"]
    assert await documents(store, "jobs") == ["a", "a/10", "a/2", "b/1", "c"]


async def test_a_scan_does_not_take_wildcards_for_more_than_letters(store: SqliteStore) -> None:
    for key in ("100%/a", "100x/a", "_/a", "x/a"):
        await store.put("jobs", key, b"")
    assert await documents(store, "jobs", "100%") == ["100%/a"]
    assert await documents(store, "jobs", "_") == ["_/a"]


async def test_a_scan_runs_over_many_pages(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PAGE", 3)
    keys = [f"k{n:02}" for n in range(9)]
    await store.write([Put("jobs", key, b"") for key in keys])
    assert await documents(store, "jobs") == keys


async def test_writing_while_a_scan_runs_is_allowed(store: SqliteStore) -> None:
    await store.write([Put("jobs", f"k{n}", b"") for n in range(5)])
    async for key, _ in store.scan("jobs"):
        await store.delete("jobs", key)
    assert await documents(store, "jobs") == []


async def test_a_write_whose_caller_left_is_made(store: SqliteStore) -> None:
    task = asyncio.create_task(store.put("jobs", "a", b"1"))
    await asyncio.sleep(0)
    task.cancel()
    await store.put("jobs", "b", b"2")
    assert await documents(store, "jobs") == ["a", "b"]


async def test_everything_is_there_after_opening_again(tmp_path: Path) -> None:
    first = await SqliteStore.open(tmp_path / "proxy.db")
    await first.put("jobs", "a", b"1")
    await first.close()
    second = await SqliteStore.open(tmp_path / "proxy.db")
    assert await second.get("jobs", "a") == b"1"
    await second.close()


async def test_what_was_written_is_there_without_closing(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "proxy.db")
    await store.put("jobs", "a", b"1")
    other = sqlite3.connect(tmp_path / "proxy.db")
    assert other.execute("SELECT value FROM documents").fetchall() == [(b"1",)]
    other.close()
    await store.close()


async def test_the_file_is_for_its_owner_alone(store: SqliteStore, tmp_path: Path) -> None:
    assert (tmp_path / "data" / "proxy.db").stat().st_mode & 0o077 == 0


async def test_closing_twice_is_nothing_and_a_closed_store_refuses(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "proxy.db")
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.get("jobs", "a")
    with pytest.raises(StoreError, match="closed"):
        await store.put("jobs", "a", b"")


@pytest.mark.parametrize("junk", [b"this is not a database at all, " * 100, b"SQLite format 3\0"])
async def test_a_damaged_database_is_set_aside(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "proxy.db"
    path.write_bytes(junk)
    with capture_logs() as logs:
        store = await SqliteStore.open(path)
    await store.put("jobs", "a", b"1")
    await store.close()
    assert (tmp_path / "proxy.db.damaged-1").read_bytes()[:10] == junk[:10]
    assert [log["log_level"] for log in logs] == ["warning"]


async def test_damage_inside_is_found_when_opening(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    store = await SqliteStore.open(path)
    await store.write([Put("jobs", f"{n:05}", b"x" * 500) for n in range(200)])
    await store.close()
    whole = bytearray(path.read_bytes())
    whole[4096 * 3 : 4096 * 6] = b"\xaa" * (4096 * 3)
    path.write_bytes(whole)
    with capture_logs():
        store = await SqliteStore.open(path)
    assert await documents(store, "jobs") == []
    await store.close()


async def test_damaged_databases_do_not_replace_each_other(tmp_path: Path) -> None:
    for _ in range(2):
        (tmp_path / "proxy.db").write_bytes(b"junk" * 1000)
        with capture_logs():
            await (await SqliteStore.open(tmp_path / "proxy.db")).close()
    assert (tmp_path / "proxy.db.damaged-1").read_bytes() == b"junk" * 1000
    assert (tmp_path / "proxy.db.damaged-2").read_bytes() == b"junk" * 1000


async def test_a_folder_in_the_place_of_the_file_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "proxy.db").mkdir()
    with pytest.raises(StoreError, match="cannot open the database"):
        await SqliteStore.open(tmp_path / "proxy.db")


async def test_a_database_held_by_another_process_is_not_taken_for_damaged(
    store: SqliteStore, tmp_path: Path
) -> None:
    await store._connection.execute("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(tmp_path / "data" / "proxy.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        await store.put("jobs", "a", b"1")
    other.execute("ROLLBACK")
    other.close()
    await store.put("jobs", "a", b"1")
