"""Who may use the proxy: `/proxy/api/members` and `/proxy/api/tokens`, for admins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from aiohttp import web

from proxy.admin.schema.administration import (
    MadeToken,
    Members,
    MemberShown,
    Tokens,
    member_shown,
    token_shown,
)
from proxy.api import bodies, request_bodies
from proxy.api.bodies import JsonAnswer
from proxy.api.keys import MEMBERS
from proxy.api.middleware import record_action
from proxy.api.requests import admission_of, member_of
from proxy.members.directory import Directory
from proxy.members.member import (
    DirectoryError,
    MemberFields,
    NameTakenError,
    NewMember,
    NewToken,
    TooManyTokensError,
    UnknownMemberError,
    UnknownTokenError,
    validated,
)
from proxy.members.tokens import id_prefix
from proxy.translate.errors import LocalError

T = TypeVar("T")

#: Maximum number of tokens of a member that creates them itself.
MAX_OWN_TOKENS = 20


def is_admin(request: web.Request) -> bool:
    """Return whether the client's member is an admin; without members everybody is."""
    return request.app[MEMBERS].get(member_of(request)).role == "admin"


def require_admin(request: web.Request) -> None:
    """Raise `LocalError` (403) for a member that is not an admin."""
    if not is_admin(request):
        raise LocalError(
            "admins_only",
            "Only admins can use this route; ask an admin of this proxy.",
            kind="forbidden",
        )


def requested_member(request: web.Request) -> str | None:
    """Return the `member` of the query: for an admin any member, or `None` for all, for others
    their own. Raises `LocalError` (403)."""
    asked = request.query.get("member") or None
    if is_admin(request):
        return asked
    if asked not in (None, member_of(request)):
        require_admin(request)
    return member_of(request)


async def list_members(request: web.Request) -> JsonAnswer[Members]:
    """Return all members with their limits; members get their own entry."""
    directory, name = request.app[MEMBERS], requested_member(request)
    listed = directory.members()
    found = [member_shown(directory, member) for member in listed if name in (None, member.name)]
    return bodies.json({"members": found})


async def add_member(request: web.Request) -> JsonAnswer[MemberShown]:
    """Add a member by `name` and the fields of `change_member`; `restore` reuses a removed one."""
    directory = _directory(request)
    if not directory.has_members:
        raise LocalError(
            "no_members",
            "The first member would lock you out; use the command line: comfy-cloud-proxy member "
            "add NAME --role admin, then comfy-cloud-proxy token new NAME.",
            kind="conflict",
        )
    wanted = await read_as(request, NewMember)
    with translated_errors():
        member = await directory.add(wanted.member(), restore=wanted.restore)
    record_action(request, "member_added", name=member.name, role=member.role)
    return bodies.json(member_shown(directory, member), 201)


async def change_member(request: web.Request) -> JsonAnswer[MemberShown]:
    """Change a member: `role`, `weight`, `disabled`, and in `limits` any of the limits."""
    directory = _directory(request)
    with translated_errors():
        wanted = await json_body(request)
        checked = validated(wanted, MemberFields)
        if checked.disabled is True or checked.role == "user":
            _spare_oneself(request)
        member = await directory.change(request.match_info["name"], **checked.changes())
    what = ", ".join(sorted(wanted))
    record_action(request, "member_changed", name=member.name, what=what)
    return bodies.json(member_shown(directory, member))


async def remove_member(request: web.Request) -> web.Response:
    """Remove a member and its tokens, but not its history and files."""
    directory = _directory(request)
    _spare_oneself(request)
    with translated_errors():
        member = await directory.remove(request.match_info["name"])
    record_action(request, "member_removed", name=member.name)
    return bodies.empty(204)


async def list_tokens(request: web.Request) -> JsonAnswer[Tokens]:
    """Return the tokens, or those of a `member`, without secrets; members get their own."""
    directory, name = request.app[MEMBERS], requested_member(request)
    with translated_errors():
        member = directory.find(name).name if name and directory.has_members else None
    found = [token_shown(directory, token) for token in directory.tokens(member)]
    return bodies.json({"tokens": found})


async def make_token(request: web.Request) -> JsonAnswer[MadeToken]:
    """Create a token of a `member`, or one's own, with a `note` and `expires` such as `90d`.

    It is returned once. Members may create up to `MAX_OWN_TOKENS` for themselves, which expire no
    later than the token of the request.
    """
    directory, until = request.app[MEMBERS], None
    body, max_tokens = await json_body(request), None
    if not is_admin(request):
        if body.get("member", member_of(request)) != member_of(request):
            require_admin(request)
        until, max_tokens = _own_expiry(request), MAX_OWN_TOKENS
    with translated_errors():
        wanted = validated(body, NewToken)
        text, token = await directory.new_token(
            wanted.member or member_of(request),
            until=until,
            max_tokens=max_tokens,
            **wanted.values(),
        )
    record_action(request, "token_created", name=token.member, token=token.shown)
    made: MadeToken = {**token_shown(directory, token), "token": text}
    return bodies.secret_json(made, 201)


async def revoke_token(request: web.Request) -> web.Response:
    """Revoke the token with this prefix, and close its connections; members revoke their own."""
    directory, prefix = request.app[MEMBERS], request.match_info["prefix"]
    if not is_admin(request):
        start = id_prefix(prefix)
        own = directory.tokens(member_of(request))
        ids = [token.id for token in own if token.id.startswith(start)]
        if len(ids) != 1:
            require_admin(request)
        (prefix,) = ids
    with translated_errors():
        token = await directory.revoke(prefix)
    record_action(request, "token_revoked", name=token.member, token=token.shown)
    return bodies.empty(204)


def _directory(request: web.Request) -> Directory:
    require_admin(request)
    return request.app[MEMBERS]


def _own_expiry(request: web.Request) -> int | None:
    """Return when the member's token of this request expires (ms), `None` for never."""
    own = request.app[MEMBERS].tokens(member_of(request))
    used = admission_of(request).token
    return next((token.expires for token in own if token.id == used), None)


def _spare_oneself(request: web.Request) -> None:
    """Raise `LocalError` (409) for an admin that would remove its own access."""
    if request.match_info["name"].lower() == member_of(request).lower():
        raise LocalError(
            "own_access",
            "You cannot remove your own access; ask another admin, or use the command line.",
            kind="conflict",
        )


async def json_body(request: web.Request) -> dict[str, Any]:
    """Return the body as a JSON object. Pages of other sites cannot send its content type without a
    preflight."""
    if request_bodies.type_of(request) != "application/json":
        raise LocalError(
            "not_json",
            "Send the body as JSON with the content type application/json.",
            kind="unsupported",
        )
    return await request_bodies.read_object(request)


async def read_as(request: web.Request, kind: type[T]) -> T:
    """Return the body, JSON, as a `kind`. Raises `LocalError` (400, 415)."""
    body = await json_body(request)
    with translated_errors():
        return validated(body, kind)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise `LocalError` for the errors of the directory."""
    try:
        yield
    except (UnknownMemberError, UnknownTokenError) as error:
        raise LocalError("unknown", str(error), kind="not_found") from None
    except TooManyTokensError as error:
        raise LocalError("too_many_tokens", str(error), kind="conflict") from None
    except NameTakenError as error:
        raise LocalError("name_taken", str(error), kind="conflict") from None
    except DirectoryError as error:
        raise LocalError("invalid", str(error)) from None
