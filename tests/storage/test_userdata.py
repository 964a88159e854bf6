"""Files of members in the database: written, counted, listed in pages and renamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from msgspec.structs import replace

from proxy.storage.database import Database
from proxy.storage.userdata import BLOCK, StoredEntry, UserDataUnit

T = TypeVar("T")


class Data:
    """The files of all members, each time in a unit of one member's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, member: str, work: Callable[[UserDataUnit], T]) -> T:
        return await self._database.read(lambda found: work(UserDataUnit(found, member)))

    async def write(self, member: str, work: Callable[[UserDataUnit], T]) -> T:
        return await self._database.write(lambda found: work(UserDataUnit(found, member)))


@pytest.fixture
def data(database: Database) -> Data:
    return Data(database)


async def put(data: Data, path: str, content: bytes = b"x", member: str = "anna") -> StoredEntry:
    return await data.write(member, lambda unit: unit.put(path, content, created=1.5, modified=2.5))


async def paths(data: Data, folder: str = "/", member: str = "anna") -> list[str]:
    found = await data.read(member, lambda unit: unit.below(folder))
    return [entry.path for entry in found]


async def test_a_file_comes_back_as_it_was_written(data: Data) -> None:
    entry = StoredEntry("anna", "a/\ud800", 3, 1.5, 2.5)
    assert await put(data, "a/\ud800", b"\x00\xff!") == entry
    assert await data.read("anna", lambda unit: unit.read("a/\ud800")) == (entry, b"\x00\xff!")
    assert await data.read("anna", lambda unit: unit.read("a")) is None
    assert await data.read("anna", lambda unit: unit.get(["a/\ud800", "b"])) == {entry.path: entry}


async def test_members_do_not_see_each_other(data: Data) -> None:
    await put(data, "a")
    await put(data, "b", member="ben")
    assert await paths(data) == ["a"]
    assert await data.read("ben", lambda unit: unit.read("a")) is None
    await data.write("ben", lambda unit: unit.remove(list(unit.get(["a"]).values())))
    assert await paths(data) == ["a"]


async def test_to_put_replaces(data: Data) -> None:
    await put(data, "a", b"old")
    new = await put(data, "a", b"newer")
    assert await data.read("anna", lambda unit: unit.read("a")) == (new, b"newer")


async def test_what_is_below_a_folder_comes_by_path(data: Data) -> None:
    for path in ("a/c", "a/b/x", "a.txt", "ab", "b"):
        await put(data, path)
    await data.write("anna", lambda unit: unit.add_folders(["a/", "a/b/"], 1))
    assert await paths(data, "a/") == ["a/b/", "a/b/x", "a/c"]
    assert await paths(data) == ["a.txt", "a/", "a/b/", "a/b/x", "a/c", "ab", "b"]
    pages = [
        await data.read("anna", lambda unit, after=after: unit.below("a/", after, 2))
        for after in (None, "a/b/x", "a/c")
    ]
    assert [[entry.path for entry in page] for page in pages] == [["a/b/", "a/b/x"], ["a/c"], []]


async def test_small_files_and_folders_count_for_a_block(data: Data) -> None:
    async def change(work: Callable[[UserDataUnit], object], member: str = "anna") -> int:
        def locked(unit: UserDataUnit) -> int:
            unit.lock(1)
            work(unit)
            unit.settle()
            return unit.stored

        return await data.write(member, locked)

    def fill(unit: UserDataUnit) -> None:
        unit.put("small", b"x", created=1, modified=1)
        unit.put("large", bytes(BLOCK + 1), created=1, modified=1)
        unit.add_folders(["folder/"], 1)

    assert await change(fill) == 3 * BLOCK + 1
    assert await change(lambda _: None, "ben") == 0
    (large,) = (await data.read("anna", lambda unit: unit.get(["large"]))).values()
    shrunk = await change(
        lambda unit: unit.put("large", b"", created=1, modified=1, previous=large)
    )
    assert shrunk == 3 * BLOCK
    rest = await data.read("anna", lambda unit: unit.get(["small", "folder/"]))
    assert await change(lambda unit: unit.remove(list(rest.values()))) == BLOCK
    assert await change(lambda _: None) == BLOCK


async def test_a_file_gets_another_path(data: Data) -> None:
    entry = await put(data, "a", b"x")
    await put(data, "a", member="ben")
    await data.write("anna", lambda unit: unit.rename([("a", "b")], 8))
    moved = replace(entry, path="b", created=8)
    assert await data.read("anna", lambda unit: unit.read("b")) == (moved, b"x")
    assert (await paths(data), await paths(data, member="ben")) == (["b"], ["a"])


async def test_a_unit_that_fails_writes_nothing(data: Data) -> None:
    def fail(unit: UserDataUnit) -> None:
        unit.put("a", b"x", created=1, modified=1)
        raise KeyError("no")

    with pytest.raises(KeyError):
        await data.write("anna", fail)
    assert await paths(data) == []
