"""Members, tokens and sessions, and changes that another process must see."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from proxy.storage.database import Database
from proxy.storage.members import (
    MemberRepository,
    StaleError,
    StoredMember,
    StoredSession,
    StoredToken,
)

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
