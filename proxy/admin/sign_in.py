"""The sign-in page for browsers, which cannot be told to send a token: it gives them a session."""

from __future__ import annotations

import html
from pathlib import Path
from string import Template
from urllib.parse import parse_qsl

import structlog
from aiohttp import web
from yarl import URL

from proxy.api import bodies, request_bodies
from proxy.api.authenticator import SIGN_IN, SIGN_OUT, authenticator_of
from proxy.api.credentials import COOKIE, cookie_of, has_token
from proxy.api.keys import MEMBERS, OPTIONS, PROVIDERS
from proxy.api.middleware import record_action
from proxy.api.requests import address_of, connection_of, site_of
from proxy.edge.connections import Admission
from proxy.members.directory import Access
from proxy.members.tokens import SESSION_LIFETIME, Token, digest
from proxy.runtime import randomness
from proxy.sign_in.provider import SignInProvider
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: The largest form that is read, in bytes.
MAX_FORM_BYTES = 16 * 1024

_PAGE = Template(Path(__file__).with_name("sign_in.html").read_text(encoding="utf-8"))

_FORM = """<form method="post" action="{base}{action}">
<label for="token">Your token from an admin of this server</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<input name="next" type="hidden" value="{next}">
<button>Sign in</button>
</form>
<p>Admins of this server see the prompts, workflows and pictures of all members.</p>"""

#: Takes the token of a link out of the address, so that it is in no history, and into the form.
_SCRIPT = """
const token = location.hash.slice(1), input = document.getElementById("token");
if (token) {
  if (input) input.value = token;
  history.replaceState(null, "", location.pathname + location.search);
}
"""

_PROVIDER = """<p><a class="button" href="{address}">Sign in with {name}</a></p>"""

_SIGNED_OUT = """<p>You are signed out here, but still signed in at {name}.
<a href="{address}">Sign out there, too</a></p>"""

_SIGNED_IN = """<p>You are signed in as <strong>{member}</strong>.</p>
<p><a href="{base}/">Go to ComfyUI</a></p>
<form method="post" action="{base}{action}"><button>Sign out</button></form>"""

_SIGNED_IN_ELSEWHERE = """<p>The reverse proxy of this server has signed you in as
<strong>{member}</strong>.</p>
<p><a href="{base}/">Go to ComfyUI</a></p>"""


async def get_sign_in(request: web.Request) -> web.Response:
    """Return the sign-in page, or for a browser with a session the page to sign out.

    The token may be in the fragment, which browsers send to nobody: neither logs nor programs that
    look at links in chats get it. A click on the button sends it.
    """
    if not request.app[MEMBERS].has_members:
        raise web.HTTPFound(f"{request.app[OPTIONS].base_path}/")
    base = html.escape(request.app[OPTIONS].base_path)
    elsewhere = authenticator_of(request).signed_in_elsewhere(request)
    if elsewhere is not None:
        member = html.escape(elsewhere.member.name)
        return sign_in_page(_SIGNED_IN_ELSEWHERE.format(member=member, base=base))
    session = authenticator_of(request).session_of(request)
    if session is None:
        form = await _signed_out(request) + form_of(request, wanted_target(request))
        return sign_in_page(form, script=_SCRIPT)
    member = html.escape(session[0].member.name)
    signed_in = _SIGNED_IN.format(member=member, base=base, action=SIGN_OUT)
    return sign_in_page(signed_in, script=_SCRIPT)


async def post_sign_in(request: web.Request) -> web.Response:
    """Take the form's `token`, set a session's cookie and lead to `next`."""
    authenticator, members = authenticator_of(request), request.app[MEMBERS]
    authenticator.refuse_foreign(request)
    refuse_token(request)
    form = await read_form(request)
    token, target = form.get("token", "").strip(), form.get("next", "/")
    await members.look_for([token])
    access = members.access(token)
    if access is None:
        problem = authenticator.reject(token, address_of(request))
        return sign_in_page(form_of(request, target), problem)
    answer = await begin_session(request, access, target)
    record_action(request, "sign_in", token=access.token.shown)
    return answer


def refuse_token(request: web.Request) -> None:
    """Raise `LocalError` for a request with a token of its own: a page below `/t/TOKEN/` must not
    sign a browser in as its author."""
    if has_token(request):
        raise LocalError(
            "sign_in_with_token",
            "This request has a token already; sign in without a token in the path, the headers "
            "or the query.",
        )


async def begin_session(request: web.Request, access: Access, target: str) -> web.Response:
    """Return an answer that gives the browser a session, instead of one that it has, and leads it
    to a path of this server. Raises `StorageError`."""
    members, address = request.app[MEMBERS], address_of(request)
    connection_of(request).admission = Admission(access.member.name, access.token.id)
    await _end_session(request)
    session = await members.sessions.begin(access.token.id)
    members.used(access.token, address)
    log.info("member_signed_in", member=access.member.name, address=address)
    base = request.app[OPTIONS].base_path
    answer = see_other(f"{base}{target if is_local(target) else '/'}")
    seconds = SESSION_LIFETIME // 1000
    set_cookie(request, answer, COOKIE, session, seconds=seconds, path=base or "/")
    return answer


def set_cookie(
    request: web.Request, answer: web.Response, name: str, value: str, *, seconds: int, path: str
) -> None:
    """Give the browser a cookie that no script reads and no other site sends."""
    answer.set_cookie(
        name,
        value,
        max_age=seconds,
        path=path,
        secure=site_of(request).scheme == "https",
        httponly=True,
        samesite="Lax",
    )


async def post_sign_out(request: web.Request) -> web.Response:
    """End the browser's session, and its websockets."""
    authenticator, connection = authenticator_of(request), connection_of(request)
    base = request.app[OPTIONS].base_path
    authenticator.refuse_foreign(request)
    session = authenticator.session_of(request)
    if session is not None:
        connection.admission = Admission(session[0].member.name)
        record_action(request, "sign_out")
    await _end_session(request)
    provider = None if session is None else _provider_of(request, session[0].token)
    query = {} if provider is None else {"signed-out": provider.options.name}
    answer = see_other(str(URL(f"{base}{SIGN_IN}").with_query(query)))
    if cookie_of(request) is not None:
        answer.del_cookie(COOKIE, path=base or "/")
    return answer


async def _end_session(request: web.Request) -> None:
    cookie = cookie_of(request)
    if cookie:
        await request.app[MEMBERS].end_session(digest(cookie))


async def read_form(request: web.Request) -> dict[str, str]:
    """Return the fields of a form. Raises `LocalError` for another body and a large one."""
    if request_bodies.type_of(request) != "application/x-www-form-urlencoded":
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
        text = (await request_bodies.read(request, MAX_FORM_BYTES)).decode("utf-8", "replace")
    except web.HTTPRequestEntityTooLarge:
        raise LocalError(
            "form_too_large", "The sign-in form is too large; send a token.", kind="too_large"
        ) from None
    return dict(parse_qsl(text, keep_blank_values=True))


def is_local(target: str) -> bool:
    """Return whether `target` is a path that no browser takes for the URL of another site."""
    plain = target.isascii() and target.isprintable() and "\\" not in target
    return plain and target.startswith("/") and not target.startswith("//")


def wanted_target(request: web.Request) -> str:
    """Return where a sign-in leads, as the query says."""
    return request.query.get("next", "/")


def form_of(request: web.Request, target: str) -> str:
    """Return the ways to sign in, each of which leads to `target`."""
    base = html.escape(request.app[OPTIONS].base_path)
    links = "".join(
        _PROVIDER.format(
            address=html.escape(str(URL(f"{base}{SIGN_IN}/{name}").with_query(next=target))),
            name=html.escape(name),
        )
        for name in request.app[PROVIDERS]
    )
    return links + _FORM.format(base=base, action=SIGN_IN, next=html.escape(target))


def _provider_of(request: web.Request, token: Token) -> SignInProvider | None:
    """Return the provider for whose sign-ins a token stands."""
    if not token.stands_for_sign_in:
        return None
    providers = request.app[PROVIDERS].values()
    return next((each for each in providers if each.options.issuer == token.note), None)


async def _signed_out(request: web.Request) -> str:
    """Return a link to sign out at the provider, after signing out here."""
    provider = request.app[PROVIDERS].get(request.query.get("signed-out", ""))
    if provider is None:
        return ""
    try:
        authenticator_of(request).count_sign_in(address_of(request))
    except LocalError:
        return ""
    url = await provider.end_session_url(own_address(request, SIGN_IN))
    if url is None:
        return ""
    return _SIGNED_OUT.format(address=html.escape(url), name=html.escape(provider.options.name))


def own_address(request: web.Request, path: str) -> str:
    """Return the address of a path of this server, as the client calls it."""
    site = site_of(request)
    return f"{site.scheme}://{site.host}{request.app[OPTIONS].base_path}{path}"


def sign_in_page(form: str, problem: LocalError | None = None, *, script: str = "") -> web.Response:
    """Return the page with a form, why the last attempt has failed, and a script of ours."""
    nonce = randomness.token_urlsafe(16)
    if script:
        form += f'<script nonce="{nonce}">{script}</script>'
    alert = f'<p role="alert">{html.escape(str(problem))}</p>' if problem is not None else ""
    return web.Response(
        status=bodies.status_of(problem) if problem is not None else 200,
        text=_PAGE.substitute(nonce=nonce, problem=alert, form=form),
        content_type="text/html",
        headers={
            **(bodies.headers_of(problem) if problem is not None else {}),
            "Cache-Control": "no-store",
            "Content-Security-Policy": f"default-src 'none'; style-src 'nonce-{nonce}'; "
            + (f"script-src 'nonce-{nonce}'; " if script else "")
            + "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
        },
    )


def see_other(address: str) -> web.Response:
    """Return an answer that leads a browser to another address."""
    return web.Response(status=303, headers={"Location": address, "Cache-Control": "no-store"})
