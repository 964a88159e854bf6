"""The JSON for administration: members, their tokens and invitations, the audit record, and what
is known of the cloud beyond its documents."""

from __future__ import annotations

from typing import Any, TypedDict

from proxy.members.member import Member


class AuditPage(TypedDict):
    """Entries of the audit record: `at`, `action`, `member`, `address` and what belongs to each."""

    entries: list[dict[str, Any]]
    offset: int
    has_more: bool


class Anomaly(TypedDict):
    """Something undocumented that the cloud has sent."""

    kind: str
    name: str
    count: int
    first: int
    last: int
    example: Any


class AccountAnomalies(TypedDict):
    """What is known of an account's cloud beyond its documents."""

    account: str
    facts: dict[str, Any]
    anomalies: list[Anomaly]


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


class InvitationShown(TypedDict):
    """An open invitation, of whose code only the beginning is `shown`; an admin, the `inviter`, has
    made it."""

    id: str
    shown: str
    member: str
    inviter: str
    created: int
    expires: int


class OpenInvitations(TypedDict):
    """Open invitations."""

    invitations: list[InvitationShown]


class MadeInvitation(InvitationShown):
    """A new invitation with its `code`, this once, and the `path` of the page that takes it."""

    code: str
    path: str
