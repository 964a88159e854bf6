"""User data in the database, the same in SQLite and in PostgreSQL."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partialmethod
from typing import Any

import pytest
from databases import other_connection
from sqlalchemy import Connection

from proxy.storage import database as storage_database
from proxy.storage.database import Database
from proxy.storage.userdata import BLOCK, ROOT, UserDataUnit
from proxy.userdata import stored, units
from proxy.userdata.entries import (
    BadNameError,
    FullError,
    IsFileError,
    IsFolderError,
    MissingError,
    TakenError,
)
from proxy.userdata.stored import StoredUserData


@pytest.fixture
def data(database: Database) -> StoredUserData:
    return StoredUserData(database)


async def paths(data: StoredUserData, member: str = "local") -> list[str]:
    return [entry.path for entry in await data.tree(member, "")]


async def content(data: StoredUserData, name: str, member: str = "local") -> bytes:
    return (await data.read(member, name))[0]


async def test_a_file_comes_back_with_its_folders(data: StoredUserData) -> None:
    written = await data.write("local", "a/b/c", b"x")
    found, entry = await data.read("local", "a/b/c")
    assert (found, entry) == (b"x", written)
    assert await paths(data) == ["a", "a/b", "a/b/c"]


async def test_members_do_not_see_each_other(data: StoredUserData) -> None:
    await data.write("ann", "a", b"x")
    assert await paths(data, "bob") == []
    with pytest.raises(MissingError):
        await data.read("bob", "a")


async def test_of_many_that_want_a_free_name_one_gets_it(data: StoredUserData) -> None:
    async def write(number: int) -> int:
        try:
            await data.write("local", "a", str(number).encode(), overwrite=False)
        except TakenError:
            return 0
        return 1

    assert sum(await asyncio.gather(*map(write, range(32)))) == 1


async def test_readers_see_one_version_or_the_other(data: StoredUserData) -> None:
    versions = [bytes([letter]) * 100_000 for letter in b"ab"]
    await data.write("local", "x", versions[0])

    async def write() -> None:
        for version in versions * 5:
            await data.write("local", "x", version)

    writing = asyncio.create_task(write())
    while not writing.done():
        assert await content(data, "x") in versions
    await writing


async def test_what_one_replica_writes_the_next_one_reads(
    data: StoredUserData, database: Database
) -> None:
    async with other_connection(database) as other:
        there = StoredUserData(other)
        await data.write("local", "workflows/a", b"x")
        assert await content(there, "workflows/a") == b"x"
        await there.delete("local", "workflows/a")
        assert await paths(data) == ["workflows"]


async def test_changes_of_settings_at_two_replicas_are_all_kept(
    data: StoredUserData, database: Database
) -> None:
    async with other_connection(database) as other:
        both = data, StoredUserData(other)
        await asyncio.gather(
            *(both[n % 2].change_settings("local", {str(n): n}) for n in range(20))
        )
        assert await both[0].settings("local") == {str(n): n for n in range(20)}
        assert await both[1].settings("local") == {str(n): n for n in range(20)}


async def test_a_client_that_leaves_does_not_undo_a_change(data: StoredUserData) -> None:
    leaving = asyncio.create_task(data.change_settings("local", {"a": 1}))
    await asyncio.sleep(0)
    leaving.cancel()
    await data.change_settings("local", {"b": 2})
    assert (await data.settings("local"))["b"] == 2


async def test_no_more_is_stored_than_a_member_may(data: StoredUserData) -> None:
    await data.write("local", "a", b"x" * 3 * BLOCK, max_bytes=4 * BLOCK)
    await data.write("local", "small", b"x", max_bytes=4 * BLOCK)
    with pytest.raises(FullError) as full:
        await data.write("local", "b", b"", max_bytes=4 * BLOCK)
    assert full.value.stored == 4 * BLOCK
    with pytest.raises(FullError):  # the folder takes a block
        await data.move("local", "a", "folder/a", max_bytes=4 * BLOCK)
    assert await paths(data) == ["a", "small"]
    await data.write("local", "a", b"x" * 3 * BLOCK, max_bytes=BLOCK)  # it does not become more
    with pytest.raises(FullError):
        await data.change_settings("local", {"a": 1}, max_bytes=4 * BLOCK)
    assert await data.settings("local") == {}
    await data.delete("local", "small")
    await data.change_settings("local", {"a": 1}, max_bytes=4 * BLOCK)


async def test_what_is_stored_is_what_all_files_count_for(
    data: StoredUserData, database: Database
) -> None:
    for name in ("a/b/c", "a/d", "e"):
        await data.write("local", name, b"x" * 2 * BLOCK)
    await data.write("local", "e", b"x")
    await data.move("local", "a/d", "e")
    await data.move("local", "a", "f/g")
    await data.change_settings("local", {"a": 1})
    await data.delete("local", "e")

    def counted(connection: Connection) -> tuple[int, int]:
        unit = UserDataUnit(connection, "local")
        return unit.get([ROOT])[ROOT].size, sum(entry.counted for entry in unit.below(ROOT))

    said, real = await database.read(counted)
    assert said == real > 0


async def test_two_replicas_do_not_fill_one_place_twice(
    data: StoredUserData, database: Database
) -> None:
    async with other_connection(database) as other:
        both = data, StoredUserData(other)
        done = await asyncio.gather(
            *(both[n % 2].write("local", str(n), b"x", max_bytes=5 * BLOCK) for n in range(12)),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, FullError) for outcome in done) == 7
        assert len(await paths(data)) == 5


async def test_a_folder_moves_with_all_that_is_in_it(data: StoredUserData) -> None:
    await data.write("local", "a/b/c", b"x")
    await data.write("local", "ab", b"y")
    moved = await data.move("local", "a", "d/e")
    assert (moved.path, moved.is_folder) == ("d/e", True)
    assert sorted(await paths(data)) == ["ab", "d", "d/e", "d/e/b", "d/e/b/c"]
    assert await content(data, "d/e/b/c") == b"x"


async def test_a_folder_with_many_files_moves_in_several_transactions(
    data: StoredUserData, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_database, "SLICE", 0.0)
    monkeypatch.setattr(units, "_MOVED", 7)
    for number in range(20):
        await data.write("local", f"a/{number:02}", b"%d" % number)
    write, begun = database.write, asyncio.Event()

    async def telling(work: Callable[[Connection], Any], **options: Any) -> Any:
        done = await write(work, **options)
        begun.set()
        return done

    monkeypatch.setattr(database, "write", telling)
    before = database.units
    moving = asyncio.create_task(data.move("local", "a", "b"))
    await begun.wait()
    moving.cancel()  # a client that leaves stops nothing
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert await paths(data) == ["b", *(f"b/{number:02}" for number in range(20))]
    assert await content(data, "b/13") == b"13"
    assert database.units - before == 4


async def test_a_file_whose_new_path_is_written_meanwhile_stays(
    data: StoredUserData, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_database, "SLICE", 0.0)
    monkeypatch.setattr(units, "_MOVED", 1)
    for name in ("a", "b", "c"):
        await data.write("local", f"old/{name}", b"old")
    write, begun = database.write, []

    async def write_between(work: Callable[[Connection], Any], **options: Any) -> Any:
        done = await write(work, **options)
        if not begun:
            begun.append(True)
            await data.write("local", "new/c", b"new")
        return done

    monkeypatch.setattr(database, "write", write_between)
    await data.move("local", "old", "new")
    assert sorted(await paths(data)) == ["new", "new/a", "new/b", "new/c", "old", "old/c"]
    assert (await content(data, "new/c"), await content(data, "old/c")) == (b"new", b"old")


async def test_a_folder_does_not_move_to_where_paths_are_too_long(data: StoredUserData) -> None:
    long = "/".join("x" * 200 for _ in range(9))
    await data.write("local", f"a/{long}", b"")
    with pytest.raises(BadNameError):
        await data.move("local", "a", "b" * 250)
    assert len(await paths(data)) == 10


async def test_a_large_listing_is_read_in_pages_whose_bytes_are_told(
    data: StoredUserData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "PAGE", 4)
    monkeypatch.setattr(UserDataUnit, "below", partialmethod(UserDataUnit.below, count=4))
    for number in range(10):
        await data.write("local", f"a/{number}", b"")
    told: list[int] = []
    found = await data.files("local", "a", recurse=True, reserve=told.append)
    assert [entry.path for entry in found] == [str(number) for number in range(10)]
    assert len(told) == 2
    assert told == sorted(told)


@pytest.mark.parametrize(
    ("name", "target", "error"),
    [
        ("a", "a/x", BadNameError),
        ("a", "file", BadNameError),
        (".", "new", BadNameError),
        ("file", "file/x", BadNameError),
        ("file", ".", BadNameError),
        ("file", "a", IsFolderError),
        ("nope", "x", MissingError),
    ],
)
async def test_moves_that_are_refused(
    data: StoredUserData, name: str, target: str, error: type[Exception]
) -> None:
    await data.write("local", "a/b", b"x")
    await data.write("local", "file", b"y")
    before = await data.tree("local", "")
    with pytest.raises(error):
        await data.move("local", name, target)
    assert await data.tree("local", "") == before


async def test_a_move_onto_itself_changes_nothing(data: StoredUserData) -> None:
    await data.write("local", "a", b"x")
    await data.move("local", "a", "./a")
    assert await content(data, "a") == b"x"


@pytest.mark.parametrize("name", ["", ".", "a"])
async def test_a_folder_is_no_file(data: StoredUserData, name: str) -> None:
    await data.write("local", "a/b", b"x")
    for attempt in (data.read("local", name), data.delete("local", name)):
        with pytest.raises(IsFolderError):
            await attempt
    with pytest.raises(BadNameError):
        await data.write("local", name, b"y")
    assert await paths(data) == ["a", "a/b"]


async def test_a_file_is_no_folder(data: StoredUserData) -> None:
    await data.write("local", "a", b"x")
    with pytest.raises(BadNameError):
        await data.write("local", "a/b", b"y")
    with pytest.raises(IsFileError):
        await data.tree("local", "a")
    assert await data.files("local", "a", recurse=True) == []


async def test_an_empty_folder_stays(data: StoredUserData) -> None:
    await data.write("local", "workflows/a", b"x")
    await data.delete("local", "workflows/a")
    assert await data.files("local", "workflows", recurse=False) == []
    assert await paths(data) == ["workflows"]


@pytest.mark.parametrize("name", ["\udcff", "a\x01b", "%", "_", "é/ü", "x" * 255, "a" * 200])
async def test_odd_names_are_names(data: StoredUserData, name: str) -> None:
    await data.write("local", f"in/{name}", b"x")
    assert await content(data, f"in/{name}") == b"x"
    (found,) = await data.files("local", "in", recurse=True)
    assert found.path == name


async def test_a_path_that_no_index_takes_is_refused(data: StoredUserData) -> None:
    long = "/".join(["x" * 250] * 9)
    with pytest.raises(BadNameError):
        await data.write("local", long, b"x")
    with pytest.raises(MissingError):
        await data.read("local", long)


async def test_a_large_file_is_kept_whole(data: StoredUserData) -> None:
    large = os.urandom(20_000_000)
    await data.write("local", "large", large)
    assert await content(data, "large") == large
