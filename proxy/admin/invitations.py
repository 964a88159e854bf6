"""Invitations: `/proxy/api/invitations` for admins, and the page that exchanges one for a token.

The code is in the fragment of the link, which browsers send to nobody: neither logs nor programs
that look at links in chats get it. Only the form of the page uses it.
"""

from __future__ import annotations

import html

from aiohttp import web

from proxy.admin.members import read_as, require_admin, translated_errors
from proxy.admin.schema.administration import MadeInvitation, OpenInvitations, invitation_shown
from proxy.admin.sign_in import give_session, read_form, refuse_token, sign_in_page
from proxy.api import bodies
from proxy.api.authenticator import INVITATION, SIGN_IN, authenticator_of
from proxy.api.bodies import JsonAnswer
from proxy.api.callers import address_of, site_of
from proxy.api.keys import INVITATIONS, MEMBERS, OPTIONS
from proxy.api.middleware import note
from proxy.api.requests import member_of
from proxy.members.invitations import InvalidInvitationError, NewInvitation, shown
from proxy.storage.members import StoredInvitation
from proxy.translate.errors import LocalError

_FORM = """<p>You are invited to <strong>{server}</strong>.</p>
<form method="post" action="{base}{action}">
<label for="code">Invitation code</label>
<input id="code" name="code" autocomplete="off" spellcheck="false" required>
<input name="look" type="hidden" value="1">
<button>See the invitation</button>
</form>"""

#: Takes the code out of the address, so that it is in no history, and shows whose invitation it is.
_SCRIPT = """
const code = location.hash.slice(1);
if (code) {
  const input = document.getElementById("code");
  input.value = code;
  history.replaceState(null, "", location.pathname);
  input.form.submit();
}
"""

_INVITED = """<p><strong>{inviter}</strong> invites you to <strong>{server}</strong>.
You will be the member <strong>{member}</strong>.</p>
<p>Admins of this server see the prompts, workflows and pictures of all members.</p>
<p>Accepting signs this browser in and shows your token, once.</p>
<form method="post" action="{base}{action}">
<input name="code" type="hidden" value="{code}">
<button>Accept the invitation</button>
</form>"""

_ACCEPTED = """<p>You are signed in as <strong>{member}</strong>.</p>
<p>This is your token. Programs need it to connect. It is shown only once: keep it like a
password.</p>
<p><code id="token">{token}</code></p>
<button id="copy" type="button">Copy the token</button>
<p><a href="{base}/proxy/#/member/{member}">Connect programs</a></p>
<p><a href="{base}/">Go to ComfyUI</a></p>"""

#: Browsers give the clipboard to pages with TLS only; elsewhere the token is selected and copied.
_COPY = """
const token = document.getElementById("token"), button = document.getElementById("copy");
button.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(token.textContent);
  } catch {
    getSelection().selectAllChildren(token);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
});
"""


async def list_invitations(request: web.Request) -> JsonAnswer[OpenInvitations]:
    """Return the open invitations, or those of a `member`, without their codes; for admins."""
    require_admin(request)
    found = await request.app[INVITATIONS].open(request.query.get("member") or None)
    return bodies.json({"invitations": list(map(invitation_shown, found))})


async def make_invitation(request: web.Request) -> JsonAnswer[MadeInvitation]:
    """Make an invitation for a `member`, which `expires` after `7d` or so; for admins.

    The answer has the `code` this once, and the `path` of the page that takes it.
    """
    require_admin(request)
    wanted = await read_as(request, NewInvitation)
    with translated_errors():
        code, invitation = await request.app[INVITATIONS].make(wanted, member_of(request))
    note(request, "invitation_created", name=invitation.member, invitation=shown(invitation))
    path = f"{request.app[OPTIONS].base_path}{INVITATION}#{code}"
    made: MadeInvitation = {**invitation_shown(invitation), "code": code, "path": path}
    return bodies.secret_json(made, 201)


async def revoke_invitation(request: web.Request) -> web.Response:
    """Revoke an invitation; for admins."""
    require_admin(request)
    with translated_errors():
        invitation = await request.app[INVITATIONS].revoke(request.match_info["id"])
    note(request, "invitation_revoked", name=invitation.member, invitation=shown(invitation))
    return bodies.empty(204)


async def get_invitation(request: web.Request) -> web.Response:
    """Return the page that takes an invitation, and change nothing, whoever asks for it."""
    base = request.app[OPTIONS].base_path
    if not request.app[MEMBERS].has_members:
        raise web.HTTPFound(f"{base}{SIGN_IN}")
    return sign_in_page(_form(request), script=_SCRIPT)


async def post_invitation(request: web.Request) -> web.Response:
    """Exchange the form's `code` for a token, which the answer shows, and sign the browser in.

    With `look` the answer shows whose invitation it is, which stays open.
    """
    authenticator = authenticator_of(request)
    authenticator.refuse_foreign(request)
    refuse_token(request)
    form = await read_form(request)
    code, invitations = form.get("code", "").strip(), request.app[INVITATIONS]
    try:
        if "look" in form:
            return sign_in_page(_invited(request, await invitations.look(code), code))
        token, access = await invitations.accept(code)
    except InvalidInvitationError:
        problem = authenticator.wrong(code, address_of(request))
        if problem.type == "wrong_token":
            problem = LocalError(
                "wrong_invitation",
                "This invitation is not valid: it was used, has expired or was revoked. Ask an "
                "admin of this server for a new one.",
                kind=problem.kind,
            )
        return sign_in_page(_form(request), problem)
    member, base = html.escape(access.member.name), html.escape(request.app[OPTIONS].base_path)
    accepted = _ACCEPTED.format(member=member, token=html.escape(token), base=base)
    answer = sign_in_page(accepted, script=_COPY)
    await give_session(request, answer, access)
    note(request, "invitation_accepted", token=access.token.shown)
    return answer


def _form(request: web.Request) -> str:
    return _FORM.format(**_site(request))


def _invited(request: web.Request, invitation: StoredInvitation, code: str) -> str:
    about = {"inviter": invitation.inviter, "member": invitation.member, "code": code}
    escaped = {name: html.escape(value) for name, value in about.items()}
    return _INVITED.format(**_site(request), **escaped)


def _site(request: web.Request) -> dict[str, str]:
    """Return what the pages say of this server, and where their forms go."""
    site = {
        "server": site_of(request).host,
        "base": request.app[OPTIONS].base_path,
        "action": INVITATION,
    }
    return {name: html.escape(value) for name, value in site.items()}
