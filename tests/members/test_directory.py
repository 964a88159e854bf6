"""The directory: who is a member, whose a token is, and how other processes' changes arrive."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from databases import FolderDirectory
from stopped_clock import StoppedClock, stopped

from proxy.members import tokens
from proxy.members.directory import Directory
from proxy.members.marker import MARKER, any_members
from proxy.members.member import (
    LOCAL,
    DirectoryError,
    Limits,
    Member,
    NameTakenError,
    TooManyTokensError,
    UnknownMemberError,
    UnknownTokenError,
)
from proxy.members.tokens import Token, TokenUses, Use, digest
from proxy.runtime.supervisor import Supervisor
from proxy.storage.database import StorageError
from proxy.storage.members import MemberRepository
from proxy.storage.sqlite import FILE

TIMEOUT = 60.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    return stopped(monkeypatch, 1_800_000_000.0)


@pytest.fixture
def directory(clock: StoppedClock) -> Directory:
    return Directory()


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Directory]:
    directory = await FolderDirectory.open(tmp_path)
    yield directory
    await directory.close()


async def test_without_members_everybody_is_an_admin_named_local(directory: Directory) -> None:
    assert not directory.has_members
    unlimited = Limits(max_queued=None, stored_bytes=None)
    assert directory.get(LOCAL) == Member(LOCAL, role="admin", limits=unlimited)
    assert directory.members() == []


async def test_a_member_is_found_by_name_and_token(directory: Directory) -> None:
    ann = await directory.add(Member("Ann", weight=2.0, limits=Limits(max_queued=3)))
    text, _ = await directory.new_token("ann", note="laptop")
    assert directory.has_members
    found = directory.access(text)
    assert found is not None
    assert found.member == ann == directory.get("Ann") == directory.find("ANN")
    assert directory.get(LOCAL) == Member(LOCAL, disabled=True)


@pytest.mark.parametrize(
    "name",
    ["", ".ann", "-ann", "ann.", "a/b", "..", "a b", "änne", "a\r\nb", "a" * 41, "ann\n", "%2e"],
)
async def test_names_are_plain(directory: Directory, name: str) -> None:
    with pytest.raises(DirectoryError, match="is not a valid name"):
        await directory.add(Member(name))
    assert not directory.has_members


@pytest.mark.parametrize("name", ["a", "Ann", "ann.b-c_d", "krita-bot", "7", "a" * 40])
async def test_names_are_readable(directory: Directory, name: str) -> None:
    assert (await directory.add(Member(name))).name == name


async def test_names_are_unique_however_they_are_capitalised(directory: Directory) -> None:
    await directory.add(Member("Ann"))
    with pytest.raises(NameTakenError, match="The member Ann exists"):
        await directory.add(Member("aNN"))


async def test_the_name_of_a_removed_member_comes_back_only_with_its_data(
    directory: Directory,
) -> None:
    await directory.add(Member("Ann"))
    text, _ = await directory.new_token("Ann")
    await directory.remove("ann")
    assert directory.access(text) is None
    assert directory.get("Ann").disabled
    with pytest.raises(NameTakenError, match="restore"):
        await directory.add(Member("ann"))
    with pytest.raises(UnknownMemberError, match=r"anne. was removed"):
        await directory.add(Member("anne"), restore=True)
    again = await directory.add(Member("ann"), restore=True)
    assert again.name == "Ann"
    assert directory.access(text) is None


async def test_the_name_of_everybody_without_members_comes_with_their_data(
    directory: Directory,
) -> None:
    for name in ("local", "Local"):
        with pytest.raises(NameTakenError, match=r"before there were members.*--restore"):
            await directory.add(Member(name))
    assert (await directory.add(Member("Local"), restore=True)).name == LOCAL
    await directory.remove(LOCAL)
    with pytest.raises(NameTakenError):
        await directory.add(Member(LOCAL))


async def test_another_process_finds_the_name_of_a_removed_member_taken(tmp_path: Path) -> None:
    first = await FolderDirectory.open(tmp_path)
    ann, _ = await first.provision("header ann", Member("ann"))
    await first.remove(ann.name)
    await first.close()
    second = await FolderDirectory.open(tmp_path)
    again, is_new = await second.provision("header ann", Member("ann"))
    await second.close()
    assert (again.name, is_new) == ("ann-2", True)


async def test_who_loses_an_identity_is_not_signed_in_by_it_any_more(directory: Directory) -> None:
    await directory.provision("https://a.example ann", Member("ann"))
    await directory.change("ann", identities=("https://a.example ann", "https://b.example ann"))
    kept = await directory.sign_in_token("ann", "https://a.example")
    lost = await directory.sign_in_token("ann", "https://b.example")
    session = digest(await directory.sessions.begin(lost.id))
    await directory.change("ann", identities=("https://a.example ann",))
    assert directory.tokens("ann") == [kept]
    assert directory.sessions.token_of(session) is None


async def test_tokens_are_counted_in_the_change_that_makes_one(opened: Directory) -> None:
    await opened.add(Member("ann"))
    made = [opened.new_token("ann", max_tokens=20) for _ in range(40)]
    outcomes = await asyncio.gather(*made, return_exceptions=True)
    assert sum(isinstance(outcome, TooManyTokensError) for outcome in outcomes) == 20
    assert len(opened.tokens("ann")) == 20


async def test_the_door_stays_shut_when_the_last_member_goes(directory: Directory) -> None:
    await directory.add(Member("ann"))
    await directory.remove("ann")
    assert directory.has_members
    assert directory.get(LOCAL).disabled


async def test_a_disabled_member_is_not_let_in_until_enabled(directory: Directory) -> None:
    await directory.add(Member("ann"))
    text, _ = await directory.new_token("ann")
    await directory.change("ann", disabled=True)
    assert directory.access(text) is None
    await directory.change("ann", disabled=False, limits={"max_running": 2})
    found = directory.access(text)
    assert found is not None
    assert found.member.limits == Limits(max_running=2)


async def test_an_expired_or_revoked_token_lets_nobody_in(
    directory: Directory, clock: StoppedClock
) -> None:
    await directory.add(Member("ann"))
    lasting, token = await directory.new_token("ann")
    short, _ = await directory.new_token("ann", lifetime=60)
    assert directory.access(short) is not None
    clock.at += 60
    assert directory.access(short) is None
    assert directory.access(lasting) is not None
    await directory.revoke(token.shown)
    assert directory.access(lasting) is None


@pytest.mark.parametrize(
    "wrong",
    ["", "ccp_", "x", "ccp_" + "a" * 40, "CCP_" + "a" * 40, "\udc80", "ccp_" + "a" * 100_000, "é"],
)
async def test_what_is_no_token_lets_nobody_in(directory: Directory, wrong: str) -> None:
    await directory.add(Member("ann"))
    assert directory.access(wrong) is None


async def test_every_letter_of_a_token_counts(directory: Directory) -> None:
    await directory.add(Member("ann"))
    text, _ = await directory.new_token("ann")
    for position in range(len(tokens.PREFIX), len(text)):
        other = "a" if text[position] != "a" else "b"
        assert directory.access(text[:position] + other + text[position + 1 :]) is None
    assert directory.access(text + "a") is None
    assert directory.access(text[:-1]) is None
    assert directory.access(text.upper()) is None


async def test_a_token_is_found_by_the_beginning_of_its_id(directory: Directory) -> None:
    await directory.add(Member("ann"))
    text, token = await directory.new_token("ann")
    for prefix in (token.id, token.id[:4], f"ccp_{token.id[:4]}", token.shown, text):
        assert directory.find_token(prefix) == token
    for prefix in ("", "ccp_", "…", "0189"):
        with pytest.raises(UnknownTokenError, match="No token begins"):
            directory.find_token(prefix)


async def test_unknown_members_are_an_error(directory: Directory) -> None:
    for change in (
        directory.change("bob", disabled=True),
        directory.remove("bob"),
        directory.new_token("bob"),
    ):
        with pytest.raises(UnknownMemberError, match="The member “bob” does not exist"):
            await change


async def test_subscribers_hear_of_changes(directory: Directory) -> None:
    received: list[int] = []
    directory.subscribe(lambda: received.append(len(directory.members())))
    await directory.add(Member("ann"))
    await directory.add(Member("bob"))
    with pytest.raises(NameTakenError):
        await directory.add(Member("bob"))
    await directory.remove("bob")
    assert received == [1, 2, 1]


async def test_all_is_there_after_a_restart(tmp_path: Path) -> None:
    first = await FolderDirectory.open(tmp_path)
    ann = await first.add(Member("Ann", limits=Limits(denied_classes=("A", "B"))))
    text, token = await first.new_token("Ann", note="laptop", lifetime=3600)
    first.used(token, "192.0.2.1")
    await first.close()
    second = await FolderDirectory.open(tmp_path)
    try:
        assert second.has_members
        assert second.members() == [ann]
        found = second.access(text)
        assert found is not None
        assert found.member == ann
        assert second.tokens("Ann") == [token]
        use = second.last_use(token)
        assert use is not None
        assert use.address == "192.0.2.1"
    finally:
        await second.close()


def _contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_the_token_itself_is_nowhere_on_disk(opened: Directory, tmp_path: Path) -> None:
    await opened.add(Member("ann"))
    text, token = await opened.new_token("ann")
    await opened.close()
    found = _contents(tmp_path)
    assert token.id.encode() in found
    assert text.encode() not in found
    assert text[12:].encode() not in found


async def test_a_running_server_sees_the_changes_of_another_process(
    opened: Directory, tmp_path: Path
) -> None:
    changed = asyncio.Event()
    opened.subscribe(changed.set)
    opened.start(Supervisor())
    other = await FolderDirectory.open(tmp_path)
    try:
        await other.add(Member("ann"))
        text, token = await other.new_token("ann")
        async with asyncio.timeout(TIMEOUT):
            while opened.access(text) is None:
                await changed.wait()
                changed.clear()
        await opened.change("ann", weight=3.0)
        await other.revoke(token.id)  # on what `opened` has just written
        assert other.get("ann").weight == 3.0
        async with asyncio.timeout(TIMEOUT):
            while opened.access(text) is not None:
                await changed.wait()
                changed.clear()
    finally:
        await other.close()


async def test_a_subscriber_that_fails_ends_neither_the_watch_nor_others_hearing(
    opened: Directory, tmp_path: Path
) -> None:
    def fail() -> None:
        raise RuntimeError("a fault of a subscriber")

    changed = asyncio.Event()
    opened.subscribe(fail)
    opened.subscribe(changed.set)
    opened.start(Supervisor())
    other = await FolderDirectory.open(tmp_path)
    try:
        await other.add(Member("ann"))
        text, token = await other.new_token("ann")
        for revoked in (False, True):
            if revoked:
                await other.revoke(token.id)
            async with asyncio.timeout(TIMEOUT):
                while (opened.access(text) is None) is not revoked:
                    await changed.wait()
                    changed.clear()
    finally:
        await other.close()


async def test_the_watch_goes_on_after_any_fault(
    opened: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def fail(*_: object) -> None:
        failed.set()
        raise RuntimeError("a fault of ours")

    opened.start(Supervisor())
    monkeypatch.setattr(TokenUses, "write", fail)
    await failed.wait()
    monkeypatch.undo()
    changed = asyncio.Event()
    opened.subscribe(changed.set)
    other = await FolderDirectory.open(tmp_path)
    await other.add(Member("ann"))
    await other.close()
    async with asyncio.timeout(TIMEOUT):
        await changed.wait()
    assert opened.has_members


async def test_the_end_of_a_token_is_announced_to_subscribers(tmp_path: Path) -> None:
    directory = await FolderDirectory.open(tmp_path)
    try:
        await directory.add(Member("ann"))
        text, _ = await directory.new_token("ann", lifetime=2.0)
        ended = asyncio.Event()
        directory.subscribe(ended.set)
        directory.start(Supervisor())
        async with asyncio.timeout(TIMEOUT):
            await ended.wait()
        assert directory.access(text) is None
    finally:
        await directory.close()


async def test_uses_are_written_at_most_once_a_minute(tmp_path: Path) -> None:
    server = await FolderDirectory.open(tmp_path)
    try:
        await server.add(Member("ann"))
        _, token = await server.new_token("ann")
        server.used(token, "192.0.2.1")
        await server._uses.write([token.id])
        server.used(token, "192.0.2.2")
        await server._uses.write([token.id])
        use = await written_use(tmp_path, token)
        assert use is not None
        assert use.address == "192.0.2.1"
    finally:
        await server.close()


async def written_use(folder: Path, token: Token) -> Use | None:
    """The last use of a token, as another process reads it."""
    directory = await FolderDirectory.open(folder)
    try:
        return directory.last_use(token)
    finally:
        await directory.close()


async def test_what_another_process_has_just_written_is_known_when_it_is_shown(
    opened: Directory, tmp_path: Path
) -> None:
    other = await FolderDirectory.open(tmp_path)
    try:
        await other.add(Member("ann"))
        text, token = await other.new_token("ann")
        await opened.look_for([text])
        assert opened.access(text) is not None
        session = digest(await other.sessions.begin(token.id))
        assert opened.sessions.token_of(session) is None
        await opened.look_for([], session)
        assert opened.sessions.token_of(session) == token.id
    finally:
        await other.close()


async def test_many_unknown_tokens_at_once_are_looked_for_together(
    opened: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    revision = MemberRepository.revision

    async def counted(repository: MemberRepository) -> int:
        nonlocal looks
        looks += 1
        return await revision(repository)

    monkeypatch.setattr(MemberRepository, "revision", counted)
    wrong = f"ccp_{'a' * 40}"
    await asyncio.gather(*(opened.look_for([wrong]) for _ in range(100)))
    assert looks <= 2
    await opened.look_for(["no token at all"])
    assert looks <= 2


async def test_two_processes_may_change_at_once(opened: Directory, tmp_path: Path) -> None:
    other = await FolderDirectory.open(tmp_path)
    try:
        await asyncio.gather(
            *(
                directory.add(Member(f"{name}{number}"))
                for number in range(10)
                for name, directory in (("ann", opened), ("bob", other))
            )
        )
        await opened._refresh()
        await other._refresh()
        assert len(opened.members()) == 20
        assert other.members() == opened.members()
        with pytest.raises(NameTakenError):
            await other.add(Member("ANN3"))
    finally:
        await other.close()


async def test_a_session_lives_until_its_token_is_revoked_by_anybody(
    opened: Directory, tmp_path: Path
) -> None:
    await opened.add(Member("ann"))
    _, token = await opened.new_token("ann")
    session = digest(await opened.sessions.begin(token.id))
    ended = digest(await opened.sessions.begin(token.id))
    await opened.sessions.end(ended)
    other = await FolderDirectory.open(tmp_path)
    try:
        assert other.sessions.token_of(session) == token.id
        assert other.sessions.token_of(ended) is None
        await other.revoke(token.id)
        await opened._refresh()
        assert opened.sessions.token_of(session) is None
    finally:
        await other.close()


async def test_a_damaged_file_never_passes_for_no_members(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database at all" * 100)
    with pytest.raises(StorageError):
        await FolderDirectory.open(tmp_path)
    assert not any_members(tmp_path)
    (tmp_path / MARKER).touch()
    assert any_members(tmp_path)


async def test_a_record_that_is_none_never_passes_for_no_member(tmp_path: Path) -> None:
    directory = await FolderDirectory.open(tmp_path)
    await directory.add(Member("ann"))
    await directory.close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE members SET data = CAST('[]' AS BLOB)")
    connection.close()
    with pytest.raises(StorageError, match="an invalid member"):
        await FolderDirectory.open(tmp_path)


async def test_whether_there_are_members_can_be_asked_without_making_anything(
    tmp_path: Path,
) -> None:
    assert not any_members(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    directory = await FolderDirectory.open(tmp_path)
    assert not any_members(tmp_path)
    await directory.add(Member("ann"))
    assert any_members(tmp_path)
    await directory.close()
