"""An invitation becomes one token, whoever asks at once."""

from __future__ import annotations

import asyncio

import pytest

from proxy.storage.database import Database
from proxy.storage.invitations import InvitationRepository, NotRedeemableError, TooManyError
from proxy.storage.members import (
    MemberRepository,
    StoredInvitation,
    StoredMember,
    StoredToken,
)

BEN = StoredMember("ben", "Ben", False, b"{}")


def invitation(id_: str, *, created: int = 0, expires: int = 100) -> StoredInvitation:
    return StoredInvitation(id_, "Ben", "Ann", f"digest of {id_}", created, expires)


def token(id_: str, created: int = 50) -> StoredToken:
    return StoredToken(id_, "Ben", "digest", "", created, None)


@pytest.fixture
async def repository(database: Database) -> InvitationRepository:
    await MemberRepository(database).change(None, members=[BEN])
    return InvitationRepository(database)


async def test_no_text_of_a_client_is_more_than_an_unknown_id(
    repository: InvitationRepository,
) -> None:
    assert await repository.find("\0") is None


async def test_of_several_at_once_one_is_redeemed(
    database: Database, repository: InvitationRepository
) -> None:
    members = MemberRepository(database)
    await repository.add(invitation("one"), limit=5)
    before = await members.revision()
    found = await asyncio.gather(
        *(repository.redeem(invitation("one"), token(f"t{number}")) for number in range(5)),
        return_exceptions=True,
    )
    assert [isinstance(answer, NotRedeemableError) for answer in found].count(True) == 4
    assert len((await members.load()).tokens) == 1
    assert await members.revision() == before + 1
    assert await repository.find("one") is None


async def test_one_that_has_expired_or_has_another_secret_is_not_redeemed(
    database: Database, repository: InvitationRepository
) -> None:
    await repository.add(invitation("one"), limit=5)
    forged = StoredInvitation("one", "Ben", "Ann", "another digest", 0, 100)
    for asked, made in ((invitation("one"), token("late", 100)), (forged, token("forged"))):
        with pytest.raises(NotRedeemableError):
            await repository.redeem(asked, made)
    assert (await MemberRepository(database).load()).tokens == []
    assert await repository.open(99) == [invitation("one")]
    assert await repository.open(100) == []


async def test_the_open_ones_of_a_member_are_few(repository: InvitationRepository) -> None:
    await repository.add(invitation("old", expires=10), limit=1)
    await repository.add(invitation("new", created=10), limit=1)
    assert await repository.find("old") is None
    with pytest.raises(TooManyError):
        await repository.add(invitation("more", created=11), limit=1)
    assert await repository.remove("new")
    assert not await repository.remove("new")
    await repository.add(invitation("more", created=11), limit=1)
    assert await repository.open(50, "Ben") == [invitation("more", created=11)]
    assert await repository.open(50, "Anna") == []


async def test_a_removed_member_has_no_invitations(
    database: Database, repository: InvitationRepository
) -> None:
    await repository.add(invitation("one"), limit=5)
    await MemberRepository(database).change(None, members=[StoredMember("ben", "Ben", True, b"{}")])
    assert await repository.open(0) == []
    with pytest.raises(NotRedeemableError):
        await repository.redeem(invitation("one"), token("t"))
