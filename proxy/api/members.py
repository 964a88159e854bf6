"""Who may use the proxy: `/proxy/api/members` and `/proxy/api/tokens`, for admins, and the sign-in
page for browsers, which cannot be told to send a token: it gives them a session.
"""

from __future__ import annotations

import html
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from proxy.api import bodies
from proxy.api.admission import Admission
from proxy.api.authenticator import (
    COOKIE,
    SIGN_IN,
    SIGN_OUT,
    authenticator_of,
    caller_of,
    cookie_of,
    has_token,
)
from proxy.api.connections import admission_of, connection_of, member_of
from proxy.api.keys import MEMBERS, OPTIONS
from proxy.api.middleware import note
from proxy.members.directory import Directory, describe_member, describe_token
from proxy.members.member import (
    DirectoryError,
    MemberFields,
    NameTakenError,
    NewMember,
    NewToken,
    UnknownMemberError,
    UnknownTokenError,
    validated,
)
from proxy.members.tokens import LIFETIME, digest, id_prefix
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: This many tokens a member has before it may make no more for itself.
MAX_OWN_TOKENS = 20


def is_admin(request: web.Request) -> bool:
    """Whether the client's member is an admin; without members everybody is."""
    return request.app[MEMBERS].get(member_of(request)).role == "admin"


def require_admin(request: web.Request) -> None:
    """Raise `LocalError` (403) for a member who is no admin."""
    if not is_admin(request):
        raise LocalError(
            "admins_only",
            "Only admins can use this route; ask an admin of this proxy.",
            kind="forbidden",
        )


def whose(request: web.Request) -> str | None:
    """The `member` of the query, whose things are asked for: anybody, or all (`None`), by an admin,
    the own ones by a member. Raises `LocalError` (403)."""
    asked = request.query.get("member") or None
    if is_admin(request):
        return asked
    if asked not in (None, member_of(request)):
        require_admin(request)
    return member_of(request)


async def list_members(request: web.Request) -> web.Response:
    """All members with their limits; for a member the own entry."""
    directory, name = request.app[MEMBERS], whose(request)
    listed = directory.members()
    found = [describe_member(directory, member) for member in listed if name in (None, member.name)]
    return bodies.json({"members": found})


async def add_member(request: web.Request) -> web.Response:
    """Add a member: `name`, and what else `PATCH` takes; `restore` takes a removed one back."""
    directory = _directory(request)
    if not directory.has_members:
        raise LocalError(
            "no_members",
            "The first member would lock you out; use the command line: comfy-cloud-proxy member "
            "add NAME --role admin, then comfy-cloud-proxy token new NAME.",
            kind="conflict",
        )
    with _told():
        wanted = validated(await _body(request), NewMember)
        member = await directory.add(wanted.member(), restore=wanted.restore)
    note(request, "member_added", name=member.name, role=member.role)
    return bodies.json(describe_member(directory, member), 201)


async def change_member(request: web.Request) -> web.Response:
    """Change a member: `role`, `weight`, `disabled`, and in `limits` any of the limits."""
    directory = _directory(request)
    with _told():
        wanted = await _body(request)
        checked = validated(wanted, MemberFields)
        if checked.disabled is True or checked.role == "user":
            _spare_oneself(request)
        member = await directory.change(request.match_info["name"], **checked.changes())
    what = ", ".join(sorted(wanted))
    note(request, "member_changed", name=member.name, what=what)
    return bodies.json(describe_member(directory, member))


async def remove_member(request: web.Request) -> web.Response:
    """Remove a member and its tokens; history and files stay on disk."""
    directory = _directory(request)
    _spare_oneself(request)
    with _told():
        member = await directory.remove(request.match_info["name"])
    note(request, "member_removed", name=member.name)
    return bodies.empty(204)


async def list_tokens(request: web.Request) -> web.Response:
    """The tokens, or those of a `member`, with their last use; never whole. Members see theirs."""
    directory, name = request.app[MEMBERS], whose(request)
    with _told():
        member = directory.find(name).name if name and directory.has_members else None
    found = [describe_token(directory, token) for token in directory.tokens(member)]
    return bodies.json({"tokens": found})


async def make_token(request: web.Request) -> web.Response:
    """Make a token for a `member`, with a `note` and `expires` as `90d`; shown this once.

    Members make them for themselves, `MAX_OWN_TOKENS` at most. Theirs live no longer than the
    one that they are made with.
    """
    directory, until = request.app[MEMBERS], None
    body = await _body(request)
    if not is_admin(request):
        if body.get("member") != member_of(request):
            require_admin(request)
        until = _own_expiry(request)
    with _told():
        wanted = validated(body, NewToken)
        text, token = await directory.new_token(wanted.member, until=until, **wanted.values())
    note(request, "token_made", name=token.member, of=token.shown)
    answer = bodies.json({**describe_token(directory, token), "token": text}, 201)
    answer.headers["Cache-Control"] = "no-store"
    return answer


async def revoke_token(request: web.Request) -> web.Response:
    """Revoke the token with this prefix; members revoke their own. Connections that use it are
    closed."""
    directory, prefix = request.app[MEMBERS], request.match_info["prefix"]
    if not is_admin(request):
        begin = id_prefix(prefix)
        own = [one.id for one in directory.tokens(member_of(request)) if one.id.startswith(begin)]
        if len(own) != 1:
            require_admin(request)
        (prefix,) = own
    with _told():
        token = await directory.revoke(prefix)
    note(request, "token_revoked", name=token.member, of=token.shown)
    return bodies.empty(204)


def _directory(request: web.Request) -> Directory:
    require_admin(request)
    return request.app[MEMBERS]


def _own_expiry(request: web.Request) -> int | None:
    """When the member's token, with which a new one is to be made, expires (ms).

    Raises `LocalError` (409) for a member who has as many as may be.
    """
    own = request.app[MEMBERS].tokens(member_of(request))
    if len(own) >= MAX_OWN_TOKENS:
        raise LocalError(
            "too_many_tokens",
            f"You have {len(own)} tokens, which is the maximum ({MAX_OWN_TOKENS}): revoke one that "
            "you do not use.",
            kind="conflict",
        )
    used = admission_of(request).token
    return next((token.expires for token in own if token.id == used), None)


def _spare_oneself(request: web.Request) -> None:
    """Raise `LocalError` (409) for an admin who would no longer be one."""
    if request.match_info["name"].lower() == member_of(request).lower():
        raise LocalError(
            "own_access",
            "You cannot remove your own access; ask another admin, or use the command line.",
            kind="conflict",
        )


async def _body(request: web.Request) -> dict[str, Any]:
    """A JSON object. Pages of other sites cannot send its content type without asking first."""
    if request.content_type != "application/json":
        raise LocalError(
            "not_json",
            "Send the body as JSON with the content type application/json.",
            kind="unsupported",
        )
    return await bodies.read_object(request)


@contextmanager
def _told() -> Iterator[None]:
    """What the directory refuses, as an answer."""
    try:
        yield
    except (UnknownMemberError, UnknownTokenError) as error:
        raise LocalError("unknown", str(error), kind="not_found") from None
    except NameTakenError as error:
        raise LocalError("name_taken", str(error), kind="conflict") from None
    except DirectoryError as error:
        raise LocalError("invalid", str(error)) from None


# --- sign-in --------------------------------------------------------------------------------------

#: The largest form that is read, in bytes.
MAX_FORM_BYTES = 16 * 1024

_PAGE = Template(Path(__file__).with_name("sign_in.html").read_text(encoding="utf-8"))

_FORM = """<form method="post" action="{base}{action}">
<label for="token">Your token from an admin of this server</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<input name="next" type="hidden" value="{next}">
<button>Sign in</button>
</form>"""

_SIGNED_IN = """<p>You are signed in as <strong>{member}</strong>.</p>
<p><a href="{base}/">Go to ComfyUI</a></p>
<form method="post" action="{base}{action}"><button>Sign out</button></form>"""


async def get_sign_in(request: web.Request) -> web.Response:
    """The page that takes a token and gives the browser a session; or says who is signed in."""
    if not request.app[MEMBERS].has_members:
        raise web.HTTPFound(f"{request.app[OPTIONS].base_path}/")
    session = authenticator_of(request).session_of(request)
    if session is None:
        return _page(_form(request, request.query.get("next", "/")))
    member, base = html.escape(session[0].member.name), html.escape(request.app[OPTIONS].base_path)
    return _page(_SIGNED_IN.format(member=member, base=base, action=SIGN_OUT))


async def post_sign_in(request: web.Request) -> web.Response:
    """Take the form's `token`, set a session's cookie and lead to `next`."""
    authenticator, caller = authenticator_of(request), caller_of(request)
    members, base = request.app[MEMBERS], request.app[OPTIONS].base_path
    authenticator.refuse_foreign(request, caller)
    if has_token(request):  # a page below /t/TOKEN/ must not sign a browser in as its author
        raise LocalError(
            "sign_in_with_token",
            "This request has a token already; sign in without a token in the path, the headers "
            "or the query.",
        )
    form = await _read_form(request)
    token, target = form.get("token", "").strip(), form.get("next", "/")
    await members.look_for([token])
    access = members.access(token)
    if access is None:
        return _page(_form(request, target), authenticator.wrong(token, caller))
    await _end_session(request)
    session = await members.sessions.begin(access.token.id)
    members.used(access.token, caller.address)
    log.info("member_signed_in", member=access.member.name, address=caller.address)
    connection_of(request).admission = Admission(access.member.name, access.token.id)
    note(request, "sign_in", token=access.token.shown)
    answer = _leads_to(f"{base}{target if _is_local(target) else '/'}")
    answer.set_cookie(
        COOKIE,
        session,
        max_age=LIFETIME // 1000,
        path=base or "/",
        secure=caller.scheme == "https",
        httponly=True,
        samesite="Lax",
    )
    return answer


async def post_sign_out(request: web.Request) -> web.Response:
    """End the browser's session, and its websockets."""
    authenticator, connection = authenticator_of(request), connection_of(request)
    base = request.app[OPTIONS].base_path
    authenticator.refuse_foreign(request, caller_of(request))
    session = authenticator.session_of(request)
    if session is not None:
        connection.admission = Admission(session[0].member.name)
        note(request, "sign_out")
    await _end_session(request)
    connection.manager.review()
    answer = _leads_to(f"{base}{SIGN_IN}")
    if cookie_of(request) is not None:
        answer.del_cookie(COOKIE, path=base or "/")
    return answer


async def _end_session(request: web.Request) -> None:
    cookie = cookie_of(request)
    if cookie:
        await request.app[MEMBERS].sessions.end(digest(cookie))


async def _read_form(request: web.Request) -> dict[str, str]:
    if request.content_type != "application/x-www-form-urlencoded":
        raise LocalError(
            "not_a_form",
            "Send the sign-in form as application/x-www-form-urlencoded.",
            kind="unsupported",
        )
    if "Content-Encoding" in request.headers:
        raise LocalError(
            "packed_form", "Send the sign-in form without Content-Encoding.", kind="unsupported"
        )
    try:
        text = (await bodies.read(request, MAX_FORM_BYTES)).decode("utf-8", "replace")
    except web.HTTPRequestEntityTooLarge:
        raise LocalError(
            "form_too_large", "The sign-in form is too large; send a token.", kind="too_large"
        ) from None
    return dict(parse_qsl(text, keep_blank_values=True))


def _is_local(target: str) -> bool:
    """Whether it is a path of this server, which no browser takes for another site's address."""
    plain = target.isascii() and target.isprintable() and "\\" not in target
    return plain and target.startswith("/") and not target.startswith("//")


def _form(request: web.Request, target: str) -> str:
    base = html.escape(request.app[OPTIONS].base_path)
    return _FORM.format(base=base, action=SIGN_IN, next=html.escape(target))


def _page(form: str, problem: LocalError | None = None) -> web.Response:
    nonce = secrets.token_urlsafe(16)
    alert = f'<p role="alert">{html.escape(str(problem))}</p>' if problem is not None else ""
    return web.Response(
        status=bodies.status_of(problem) if problem is not None else 200,
        text=_PAGE.substitute(nonce=nonce, problem=alert, form=form),
        content_type="text/html",
        headers={
            **(bodies.headers_of(problem) if problem is not None else {}),
            "Cache-Control": "no-store",
            "Content-Security-Policy": f"default-src 'none'; style-src 'nonce-{nonce}'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
        },
    )


def _leads_to(address: str) -> web.Response:
    return web.Response(status=303, headers={"Location": address, "Cache-Control": "no-store"})
