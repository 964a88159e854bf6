"""Members and tokens as the database has them."""

from __future__ import annotations

import msgspec

from proxy.members.member import Member
from proxy.members.roster import Change, Roster
from proxy.members.tokens import Token
from proxy.storage.database import StorageError
from proxy.storage.members import StoredMember, StoredMembers, StoredToken

_MEMBER = msgspec.json.Decoder(Member)


def rows_of(change: Change) -> list[StoredMember]:
    """Return the rows of the members that a change writes or removes."""
    written = [_row(member, False, msgspec.json.encode(member)) for member in change.members]
    return written + [_row(member, True, b"{}") for member in change.removed]


def roster_of(stored: StoredMembers) -> Roster:
    """Return the members and tokens of these rows. Raises `StorageError`."""
    try:
        members = [_MEMBER.decode(row.data) for row in stored.members if not row.removed]
    except msgspec.DecodeError as error:
        raise StorageError(f"the database contains an invalid member: {error}") from error
    removed = {row.key: row.name for row in stored.members if row.removed}
    return Roster(members, removed, map(_token_of, stored.tokens))


def _row(member: Member, removed: bool, data: bytes) -> StoredMember:
    return StoredMember(member.name.lower(), member.name, removed, data)


def _token_of(row: StoredToken) -> Token:
    return Token(row.id, row.member, row.digest, row.note, row.created, row.expires)
