"""User data in the database, the same in SQLite and in PostgreSQL."""

from __future__ import annotations

import asyncio
import os

import pytest
from databases import other_connection

from proxy.storage.database import Database
from proxy.storage.members import BLOCK
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
