"""The last uses of tokens."""

from __future__ import annotations

from pathlib import Path

from backend import open_database

from proxy.members.tokens import Token, TokenUses
from proxy.storage.members import MemberRepository

TOKEN = Token("tok_1", "ann", "digest", "", 0, None)


async def test_nothing_is_remembered_of_a_token_that_was_revoked(tmp_path: Path) -> None:
    database = await open_database(tmp_path)
    uses = TokenUses(MemberRepository(database))
    uses.record(TOKEN, "127.0.0.1")
    await uses.write({TOKEN.id}, every=True)
    uses.forget(TOKEN)
    assert uses.last(TOKEN) is None
    assert not uses._written
    uses.record(TOKEN, "127.0.0.1")
    await uses.write({TOKEN.id}, every=True)
    uses.replace([])
    assert uses.last(TOKEN) is None
    assert not uses._written
    await database.close()
