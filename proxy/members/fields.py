"""What people say of a member, checked: one set of rules for the command line and the admin API."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from proxy.members.directory import Directory, DirectoryError
from proxy.members.member import Limits, Member, Parallelism, Role
from proxy.members.tokens import Token

Count = Annotated[int, Meta(ge=0, le=10**15)] | None | UnsetType
Rate = Annotated[float, Meta(gt=0, le=1e6)] | None | UnsetType
Classes = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...], Meta(max_length=1000)
]
Note = Annotated[str, Meta(max_length=200)]

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
    denied_classes: Classes | UnsetType = UNSET
    deny_partner_nodes: bool | UnsetType = UNSET


class MemberFields(Struct, forbid_unknown_fields=True):
    """What to set of a member."""

    role: Role | UnsetType = UNSET
    weight: Annotated[float, Meta(ge=0.01, le=1000)] | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET
    limits: LimitFields | UnsetType = UNSET
    client_parallelism: Parallelism | UnsetType | None = UNSET


class NewMember(MemberFields, forbid_unknown_fields=True, kw_only=True):
    """A member to add."""

    name: str
    restore: bool = False


class NewToken(Struct, forbid_unknown_fields=True):
    """A token to make. `expires` is a time from now such as `90d`."""

    member: str
    note: Note = ""
    expires: str | None = None


def _given(fields: Struct) -> dict[str, Any]:
    return {
        name: value
        for name in fields.__struct_fields__
        if (value := getattr(fields, name)) is not UNSET
    }


def _changes(fields: MemberFields) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a `Member` and those of its `Limits` that are given."""
    given = _given(fields)
    limits = given.pop("limits", None)
    own = ("role", "weight", "disabled", "client_parallelism")
    return (
        {name: given[name] for name in own if name in given},
        {} if limits is None else _given(limits),
    )


async def add(directory: Directory, fields: NewMember) -> Member:
    """Add a member. Raises `DirectoryError`."""
    changes, limits = _changes(fields)
    member = Member(fields.name, limits=Limits(**limits), **changes)
    return await directory.add(member, restore=fields.restore)


async def change(directory: Directory, name: str, fields: MemberFields) -> Member:
    """Change a member. Raises `DirectoryError`."""
    changes, limits = _changes(fields)
    return await directory.change(name, limits=limits, **changes)


async def new_token(
    directory: Directory, fields: NewToken, *, until: int | None = None
) -> tuple[str, Token]:
    """Make a token, which lives no longer than `until` (ms); the token and what is kept of it.

    Raises `DirectoryError`.
    """
    lifetime = None if fields.expires is None else seconds(fields.expires)
    note = "".join(letter if letter.isprintable() else " " for letter in fields.note).strip()
    return await directory.new_token(fields.member, note=note, lifetime=lifetime, until=until)


def seconds(text: str) -> float:
    """How long `90d`, `12h` and the like are. Raises `DirectoryError`."""
    read = _LIFETIME.fullmatch(text.strip().lower())
    if read is None or int(read[1]) == 0:
        raise DirectoryError(
            "The expiry of a token must be a number with s, m, h, d or w, such as 90d or 12h."
        )
    return float(int(read[1]) * _UNITS[read[2]])


def checked(value: object, kind: type[Any], *, strict: bool = True) -> Any:
    """The value as a `kind`. Raises `DirectoryError` that names the field and what it must be."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise DirectoryError(f"Invalid value: {str(error).replace('`$.', '`')}.") from None


def describe_member(directory: Directory, member: Member) -> dict[str, Any]:
    """A member as JSON."""
    return {**asdict(member), "tokens": len(directory.tokens(member.name))}


def describe_token(directory: Directory, token: Token) -> dict[str, Any]:
    """A token as JSON, without what proves it."""
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
