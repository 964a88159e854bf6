"""`/proxy/`: the page of the dashboard, its state as it changes, and cancelling from it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from aiohttp import web

from proxy.api import answers, bodies
from proxy.api.admin import asking
from proxy.api.admin.board import Board
from proxy.api.connections import admission_of, authenticator_of
from proxy.api.middleware import prepare
from proxy.api.services import SERVICES, member_of, of
from proxy.translate import codec
from proxy.translate.errors import LocalError

#: Seconds: the least between two states, the most while a job runs, the most while none does.
OFTEN, LIVELY, QUIET = 0.25, 1.0, 15.0

_PAGE = Path(__file__).with_name("page")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_FILES = {path.name: path.read_bytes() for path in _PAGE.iterdir() if path.suffix in _TYPES}

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "style-src-attr 'unsafe-inline'; connect-src 'self'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def _file(name: str) -> web.Response:
    kind = _TYPES[Path(name).suffix]
    return web.Response(body=_FILES[name], content_type=kind, charset="utf-8", headers=_HEADERS)


async def get_page(_: web.Request) -> web.Response:
    """The page."""
    return _file("index.html")


async def get_bare(_: web.Request) -> web.Response:
    """Redirect to `/proxy/`."""
    return web.Response(status=302, headers={"Location": "proxy/"})


async def get_part(request: web.Request) -> web.Response:
    """The page's style and script."""
    name = f"dashboard.{request.match_info['kind']}"
    return _file(name) if name in _FILES else answers.empty(404)


async def get_state(request: web.Request) -> web.Response:
    """What the dashboard shows at this moment."""
    return answers.json(await _state(request))


async def get_events(request: web.Request) -> web.StreamResponse:
    """The same as server-sent events, one at each change and at each step of what runs."""
    board = _board(request)
    stream = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    authenticator, admission = authenticator_of(request), admission_of(request)
    await prepare(request, stream)
    if request.method == "HEAD":
        return stream
    told = board.bell.members_version
    with board.bell.heard() as woken, contextlib.suppress(ConnectionError):
        while not board.bell.closed and authenticator.stands(admission):
            woken.clear()
            state = await _state(request)
            await stream.write(b"event: state\ndata: " + codec.dump_bytes(state) + b"\n\n")
            if told != board.bell.members_version:
                told = board.bell.members_version
                await stream.write(b"event: members\ndata:\n\n")
            await asyncio.sleep(OFTEN)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LIVELY if state["running"] else QUIET):
                    await woken.wait()
    return stream


async def cancel(request: web.Request) -> web.Response:
    """Cancel a waiting or running job: one's own, and as an admin anybody's.

    The body is `{"member", "id"}`, the answer `{"cancelled": true}`, false for one that has ended.
    """
    asked = await bodies.read_json(request)
    match asked:
        case {"member": str(member), "id": str(prompt_id)}:
            pass
        case _:
            raise LocalError(
                400, "invalid_body", 'The body must be {"member": NAME, "id": JOB}, both strings.'
            )
    if member != member_of(request):
        asking.require_admin(request)
    cancelled = await of(request).jobs.cancel(member, prompt_id)
    of(request).books.note(request, "cancel", job=prompt_id, of=member)
    return answers.json({"cancelled": cancelled})


async def _state(request: web.Request) -> dict[str, Any]:
    services, member = of(request), member_of(request)
    admin = asking.is_admin(request)
    state = await _board(request).state(None if admin else member)
    state["viewer"] = {
        "name": member,
        "role": "admin" if admin else "user",
        "gateway": services.members.has_members,
        "signed_in": admission_of(request).session is not None,
    }
    return state


def _board(request: web.Request) -> Board:
    board = of(request).board
    if board is None:
        raise LocalError(404, "no_dashboard", "This server has no dashboard.")
    return board


async def close(app: web.Application) -> None:
    """Let those who watch go."""
    board = app[SERVICES].board
    if board is not None:
        board.bell.close()
