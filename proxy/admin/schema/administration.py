"""The JSON for administration: members, their tokens, the audit record, and what is known of the
cloud beyond its documents."""

from __future__ import annotations

from typing import Any, TypedDict

from msgspec.structs import asdict

from proxy.cloud.observations import AccountAnomalies
from proxy.members.directory import Directory
from proxy.members.member import Member
from proxy.members.tokens import Token


class AuditPage(TypedDict):
    """Entries of the audit record: `at`, `action`, `member`, `address` and what belongs to each."""

    entries: list[dict[str, Any]]
    offset: int
    has_more: bool


class Anomalies(TypedDict):
    """That of all accounts."""

    accounts: list[AccountAnomalies]


class MemberShown(Member, frozen=True, kw_only=True):
    """A member with the number of its tokens."""

    tokens: int


class Members(TypedDict):
    """Members."""

    members: list[MemberShown]


class LastUse(TypedDict):
    """When and from where a token was last used."""

    at: int
    address: str


class TokenShown(TypedDict):
    """A token, of which only the beginning is `shown`."""

    id: str
    shown: str
    member: str
    note: str
    created: int
    expires: int | None
    last_used: LastUse | None


class Tokens(TypedDict):
    """Tokens."""

    tokens: list[TokenShown]


class MadeToken(TokenShown):
    """A new token, whole this once."""

    token: str


def member_shown(directory: Directory, member: Member) -> MemberShown:
    """Return a member with the number of its tokens."""
    return MemberShown(**asdict(member), tokens=len(directory.tokens(member.name)))


def token_shown(directory: Directory, token: Token) -> TokenShown:
    """Return a token without its digest."""
    use = directory.last_use(token)
    return {
        "id": token.id,
        "shown": token.shown,
        "member": token.member,
        "note": token.note,
        "created": token.created,
        "expires": token.expires,
        "last_used": None if use is None else {"at": use.at, "address": use.address},
    }
