"""`/proxy/`: the page, the state that it shows as it changes, and cancelling from it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from aiohttp import web

from proxy.admin.members import require_admin
from proxy.admin.schema.jobs import Cancelled, JobToCancel, Released
from proxy.admin.schema.state import State
from proxy.admin.state import StateScope, scope_of
from proxy.admin.state_feed import STATE_FEEDS, StateMessage
from proxy.api import bodies, request_bodies
from proxy.api.answer_headers import prepare
from proxy.api.bodies import JsonAnswer
from proxy.api.holding import CountedStream
from proxy.api.keys import JOBS, MEMBERS
from proxy.api.middleware import record_action
from proxy.api.requests import admission_of, connection_of, member_of
from proxy.members.member import DirectoryError, validated
from proxy.translate.errors import LocalError

#: The files of the page: plain HTML, CSS and ES modules, read once.
_PAGE = Path(__file__).with_name("page")
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_FILES = {path.name: path.read_bytes() for path in _PAGE.iterdir() if path.suffix in _TYPES}

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def get_bare(_: web.Request) -> web.Response:
    """Redirect to `/proxy/`."""
    return web.Response(status=302, headers={"Location": "proxy/"})


async def get_page(_: web.Request) -> web.Response:
    """Return the page."""
    return _page_file("index.html")


async def get_part(request: web.Request) -> web.Response:
    """Return the page's style, scripts or icon."""
    name = request.match_info["name"]
    return _page_file(name) if name in _FILES else bodies.empty(404)


def _page_file(name: str) -> web.Response:
    kind = _TYPES[Path(name).suffix]
    return web.Response(body=_FILES[name], content_type=kind, charset="utf-8", headers=_HEADERS)


async def get_state(request: web.Request) -> JsonAnswer[State]:
    """Return what the dashboard shows at this moment."""
    return bodies.ready(await request.app[STATE_FEEDS].now(scope_of(request)))


async def get_events(request: web.Request) -> web.StreamResponse:
    """Send the state as server-sent events, one at each change and at each step of what runs."""
    with CountedStream(request):
        return await _send_states(request)


async def _send_states(request: web.Request) -> web.StreamResponse:
    admission, connection = admission_of(request), connection_of(request)
    stream = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    await prepare(request, stream)
    if request.method == "HEAD":
        return stream
    feeds, members = request.app[STATE_FEEDS], request.app[MEMBERS]

    def goes_on(scope: StateScope) -> bool:
        """Whether the client may see the next state: an admin may have become a user."""
        holds = not connection.is_ending and admission.holds(members)
        return holds and scope_of(request) == scope

    with contextlib.suppress(ConnectionError):
        while goes_on(scope := scope_of(request)):
            with feeds.follow(scope) as feed:
                last: StateMessage | None = None
                while (state := await feed.after(last)) is not None and goes_on(scope):
                    await stream.write(state.event)
                    if last is not None and state.member_changes != last.member_changes:
                        await stream.write(b"event: members\ndata:\n\n")
                    last = state
    return stream


async def cancel(request: web.Request) -> JsonAnswer[Cancelled]:
    """Cancel a waiting or running job: one's own, and as an admin anybody's.

    The body is `{"member", "id"}`, the answer `{"cancelled": true}`, false for one that has ended.
    """
    body = await request_bodies.read_json(request)
    try:
        asked = validated(body, JobToCancel)
    except DirectoryError:
        raise LocalError(
            "invalid_body", 'The body must be {"member": NAME, "id": JOB}, both strings.'
        ) from None
    member, prompt_id = asked["member"], asked["id"]
    if member != member_of(request):
        require_admin(request)
    cancelled = await request.app[JOBS].cancel(member, prompt_id)
    record_action(request, "cancel", job=prompt_id, owner=member)
    return bodies.json({"cancelled": cancelled})


async def release(request: web.Request) -> JsonAnswer[Released]:
    """Let the jobs that waited in a restored backup be sent, for admins; return how many there are.

    They may have run since the backup: cancel those that have before.
    """
    require_admin(request)
    count = await request.app[JOBS].release_held()
    record_action(request, "jobs_released", count=count)
    return bodies.json({"released": count})
