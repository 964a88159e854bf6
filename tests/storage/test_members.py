"""Members, tokens and sessions, changes that another process must see, and members' own files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import pytest
from msgspec.structs import replace

from proxy.storage.database import Database
from proxy.storage.members import (
    BLOCK,
    MemberRepository,
    StaleError,
    StoredEntry,
    StoredMember,
    StoredSession,
    StoredToken,
    UserDataUnit,
)

T = TypeVar("T")

ANNA = StoredMember("anna", "Anna", removed=False, data=b'{"role": "admin"}')
TOKEN = StoredToken("ab12cd34", "Anna", "digest", "laptop", 1000, None)


@pytest.fixture
def members(database: Database) -> MemberRepository:
    return MemberRepository(database)


async def test_what_is_written_is_read(members: MemberRepository) -> None:
    assert await members.revision() == 0
    revision = await members.change(0, members=[ANNA], tokens=[TOKEN])
    found = await members.load()
    assert (found.revision, found.members, found.tokens) == (revision, [ANNA], [TOKEN])
    assert await members.revision() == revision == 1


async def test_a_change_on_an_older_state_is_refused(members: MemberRepository) -> None:
    await members.change(0, members=[ANNA])
    with pytest.raises(StaleError):
        await members.change(0, members=[replace(ANNA, removed=True)])
    assert (await members.load()).members == [ANNA]


async def test_of_changes_at_once_one_is_made(members: MemberRepository) -> None:
    results = await asyncio.gather(
        *(members.change(0, members=[replace(ANNA, name=f"a{n}")]) for n in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, int) for result in results) == 1


async def test_a_revoked_token_takes_its_sessions_along(members: MemberRepository) -> None:
    await members.change(None, tokens=[TOKEN, replace(TOKEN, id="other")])
    for token in (TOKEN.id, "other"):
        await members.begin_session(StoredSession(f"s {token}", token, 1, 99), limit=5)
    await members.change(None, revoked=[TOKEN.id])
    found = await members.load()
    assert [stored.id for stored in found.tokens] == ["other"]
    assert [session.name for session in found.sessions] == ["s other"]


async def test_uses_are_noted_without_a_new_revision(members: MemberRepository) -> None:
    revision = await members.change(None, tokens=[TOKEN])
    await members.put_uses({TOKEN.id: (5000, "127.0.0.1"), "gone": (1, "")})
    found = await members.load()
    assert found.tokens == [replace(TOKEN, used_at=5000, used_from="127.0.0.1")]
    assert found.revision == revision


async def test_a_token_has_so_many_sessions(members: MemberRepository) -> None:
    for number in range(5):
        await members.begin_session(StoredSession(str(number), "t", number, 99), limit=2)
    assert sorted(session.name for session in (await members.load()).sessions) == ["3", "4"]


async def test_sessions_end_by_name_or_by_time(members: MemberRepository) -> None:
    for number in range(4):
        await members.begin_session(StoredSession(str(number), "t", 1, number), limit=9)
    before = await members.revision()
    await members.end_sessions(["3", "nothing"], expired_at=1)
    assert [session.name for session in (await members.load()).sessions] == ["2"]
    assert await members.revision() > before


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


async def put(data: Data, path: str, content: bytes = b"x", member: str = "anna"):
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
    await data.write("ben", lambda unit: unit.remove("a"))
    assert await paths(data) == ["a"]


async def test_to_put_replaces_and_to_add_does_not(data: Data) -> None:
    await put(data, "a", b"old")
    await data.write(
        "anna", lambda unit: unit.put("a", b"added", created=9, modified=9, replace=False)
    )
    assert await data.read("anna", lambda unit: unit.read("a")) == (
        StoredEntry("anna", "a", 3, 1.5, 2.5),
        b"old",
    )
    new = await put(data, "a", b"newer")
    assert await data.read("anna", lambda unit: unit.read("a")) == (new, b"newer")


async def test_what_is_below_a_folder_comes_by_path(data: Data) -> None:
    for path in ("a/c", "a/b/x", "a.txt", "ab", "b"):
        await put(data, path)
    await data.write("anna", lambda unit: unit.add_folders(["a/", "a/b/"], 1))
    await data.write("anna", lambda unit: unit.add_folders(["a/"], 7))
    assert await paths(data, "a/") == ["a/b/", "a/b/x", "a/c"]
    assert await paths(data) == ["a.txt", "a/", "a/b/", "a/b/x", "a/c", "ab", "b"]
    kept = await data.read("anna", lambda unit: unit.get(["a/"]))
    assert kept["a/"].modified == 1


async def test_small_files_and_folders_count_for_a_block(data: Data) -> None:
    def fill(unit: UserDataUnit) -> int:
        unit.lock(1)
        unit.put("small", b"x", created=1, modified=1)
        unit.put("large", bytes(BLOCK + 1), created=1, modified=1)
        unit.add_folders(["folder/"], 1)
        return unit.stored()

    assert await data.write("anna", fill) == 3 * BLOCK + 1
    assert await data.read("ben", UserDataUnit.stored) == 0


async def test_a_file_gets_another_path(data: Data) -> None:
    entry = await put(data, "a", b"x")
    await put(data, "a", member="ben")
    await data.write("anna", lambda unit: unit.rename("a", "b", 8))
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
