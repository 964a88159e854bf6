"""A member, its limits, and the fields that people may set. Pure.

The command line and the admin API share these rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from proxy.translate.errors import LocalError

T = TypeVar("T")

#: The one member of a proxy that has no members.
LOCAL = "local"

#: The default limit of a member's user data, in bytes.
STORED_BYTES = 1_000_000_000
#: The default limit of a member's waiting jobs.
MAX_QUEUED = 5_000
#: Characters of the reason why a value is refused, which may repeat the value.
_MAX_REASON = 300

Role = Literal["user", "admin"]

#: How many jobs of one client run at once: as the proxy finds out, one, or as many as slots are
#: free.
Parallelism = Literal["auto", "one", "many"]


class DirectoryError(Exception):
    """Raised for an operation on members that is not possible. The text says what to do."""


class UnknownMemberError(DirectoryError):
    """Raised for the name of no member."""


class UnknownTokenError(DirectoryError):
    """Raised for a prefix that no token has, or more than one."""


class NameTakenError(DirectoryError):
    """Raised for the name of a current or removed member."""


class TooManyTokensError(DirectoryError):
    """Raised for a new token of a member that has as many as it may."""


class Limits(msgspec.Struct, frozen=True):
    """The limits of a member; `None` is no limit.

    `max_queued` limits waiting jobs, `max_running` concurrent jobs on the cloud; days are in UTC.
    `stored_bytes` limits user data and settings. Amounts in credits are hard budgets, and soft ones
    that refuse nothing; where they are `None`, those of the settings count. `denied_classes` are
    patterns of node classes that the member cannot use; with `deny_partner_nodes` it cannot use
    nodes that are paid for by use.
    """

    max_queued: int | None = MAX_QUEUED
    max_running: int | None = None
    jobs_per_day: int | None = None
    upload_bytes_per_day: int | None = None
    stored_bytes: int | None = STORED_BYTES
    requests_per_second: float | None = None
    credits_per_day: float | None = None
    credits_per_month: float | None = None
    soft_credits_per_day: float | None = None
    soft_credits_per_month: float | None = None
    denied_classes: tuple[str, ...] = ()
    deny_partner_nodes: bool = False


class Member(msgspec.Struct, frozen=True):
    """A person or an integration. `weight` is its share of turns; `created` is in ms since 1970.

    `client_parallelism` replaces the setting of that name unless it is `None`. Of the accounts that
    have what a job names, `account` comes before all others. `identities` are those by which others
    sign the member in: an issuer, a space, the issuer's name for the person.
    """

    name: str
    role: Role = "user"
    weight: float = 1.0
    limits: Limits = msgspec.field(default_factory=Limits)
    disabled: bool = False
    created: int = 0
    client_parallelism: Parallelism | None = None
    account: str | None = None
    identities: tuple[str, ...] = ()


#: Returns a node class of the catalog, `None` if it is unknown or nothing is loaded yet.
KnownClass = Callable[[str], Mapping[str, Any] | None]


def check_classes(member: Member, graph: Mapping[str, Any], known_class: KnownClass) -> None:
    """Refuse a graph with a node that the member cannot use.

    Raises `LocalError`: 403 with the nodes in `node_errors`; 503 for a member who cannot use
    partner nodes if it is not known yet whether a class is one.
    """
    denied = {
        node_id: (node["class_type"], limit)
        for node_id, node in graph.items()
        if isinstance(node, Mapping)
        and isinstance(node.get("class_type"), str)
        and (limit := _denied_by(node["class_type"], member.limits, known_class)) is not None
    }
    if not denied:
        return
    node_id, (class_type, limit) = next(iter(denied.items()))
    raise LocalError(
        "node_not_allowed",
        f"The member {member.name} cannot use the node {class_type} ({limit}); remove it from the "
        "workflow, or ask an admin of this server.",
        kind="forbidden",
        details=f"Node ID '#{node_id}'",
        extra_info={"node_id": node_id, "class_type": class_type, "limit": limit},
        node_errors={id_: _node_error(*about) for id_, about in denied.items()},
    )


def _denied_by(class_type: str, limits: Limits, known_class: KnownClass) -> str | None:
    """Return the limit that denies a class, `None` if it is allowed."""
    for pattern in limits.denied_classes:
        if class_type == pattern or fnmatchcase(class_type, pattern):
            return f"denied_classes: {pattern}"
    if not limits.deny_partner_nodes:
        return None
    info = known_class(class_type)
    if info is None:
        raise LocalError(
            "catalog_unavailable",
            f"The proxy does not know yet whether {class_type} is a partner node, which you cannot "
            "use; try again later.",
            kind="unavailable",
            retry_after=5,
        )
    return "deny_partner_nodes" if info.get("api_node") else None


def _node_error(class_type: str, limit: str) -> dict[str, Any]:
    reason = {
        "type": "node_not_allowed",
        "message": "You cannot use this node",
        "details": limit,
        "extra_info": {"limit": limit},
    }
    return {"errors": [reason], "dependent_outputs": [], "class_type": class_type}


# --- what people set ----------------------------------------------------------------------

Count = Annotated[int, Meta(ge=0, le=10**15)] | None | UnsetType
Rate = Annotated[float, Meta(gt=0, le=1e6)] | None | UnsetType
Credits = Annotated[float, Meta(ge=0, le=10**9)] | None | UnsetType
Classes = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...], Meta(max_length=1000)
]
Note = Annotated[str, Meta(max_length=200)]
Identities = Annotated[
    tuple[Annotated[str, Meta(pattern=r"^\S+ \S(.*\S)?\Z", max_length=600)], ...],
    Meta(max_length=20),
]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LIFETIME = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)


class LimitFields(Struct, forbid_unknown_fields=True):
    """Limits to set; `None` removes one."""

    max_queued: Count = UNSET
    max_running: Count = UNSET
    jobs_per_day: Count = UNSET
    upload_bytes_per_day: Count = UNSET
    stored_bytes: Count = UNSET
    requests_per_second: Rate = UNSET
    credits_per_day: Credits = UNSET
    credits_per_month: Credits = UNSET
    soft_credits_per_day: Credits = UNSET
    soft_credits_per_month: Credits = UNSET
    denied_classes: Classes | UnsetType = UNSET
    deny_partner_nodes: bool | UnsetType = UNSET


class MemberFields(Struct, forbid_unknown_fields=True):
    """Fields of a member to set."""

    role: Role | UnsetType = UNSET
    weight: Annotated[float, Meta(ge=0.01, le=1000)] | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET
    limits: LimitFields | UnsetType = UNSET
    client_parallelism: Parallelism | UnsetType | None = UNSET
    account: Annotated[str, Meta(min_length=1, max_length=200)] | UnsetType | None = UNSET
    identities: Identities | UnsetType = UNSET

    def changes(self) -> dict[str, Any]:
        """Return the fields of `Member` that are given; `limits` are those of `Limits`."""
        given = _given(self, MemberFields)
        return given if self.limits is UNSET else {**given, "limits": _given(self.limits)}


class NewMember(MemberFields, forbid_unknown_fields=True, kw_only=True):
    """A member to add."""

    name: str
    restore: bool = False

    def member(self) -> Member:
        """Return the member."""
        changes = self.changes()
        return Member(self.name, limits=Limits(**changes.pop("limits", {})), **changes)


class NewToken(Struct, forbid_unknown_fields=True):
    """A token to create, of who asks unless `member` is given. `expires` is a time from now such as
    `90d`."""

    member: str = ""
    note: Note = ""
    expires: str | None = None

    def values(self) -> dict[str, Any]:
        """Return the note and the lifetime (s) of the token. Raises `DirectoryError`."""
        note = "".join(letter if letter.isprintable() else " " for letter in self.note).strip()
        return {"note": note, "lifetime": None if self.expires is None else seconds(self.expires)}


def _given(fields: Struct, kind: type[Struct] | None = None) -> dict[str, Any]:
    """Return the fields that have a value; with `kind`, only the fields of that type."""
    names = (kind or type(fields)).__struct_fields__
    return {name: value for name in names if (value := getattr(fields, name)) is not UNSET}


def seconds(text: str) -> float:
    """Return the seconds of `90d`, `12h` and the like. Raises `DirectoryError`."""
    read = _LIFETIME.fullmatch(text.strip().lower())
    if read is None or int(read[1]) == 0:
        raise DirectoryError(
            "The expiry of a token must be a number with s, m, h, d or w, such as 90d or 12h."
        )
    return float(int(read[1]) * _UNITS[read[2]])


def validated(value: object, kind: type[T], *, strict: bool = True) -> T:
    """Return the value as a `kind`. Raises `DirectoryError` that names the field and its rule."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        reason = str(error).replace("`$.", "`")
    except UnicodeEncodeError:  # a half of a surrogate pair, where text is not enough
        reason = "there is text that is not Unicode"
    raise DirectoryError(f"Invalid value: {reason[:_MAX_REASON]}.")
