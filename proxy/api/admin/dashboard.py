"""`/proxy/`: the page of the dashboard, its state as it changes, and cancelling from it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from proxy.api import answers, bodies
from proxy.api.admin.members import is_admin, require_admin
from proxy.api.connections import admission_of, authenticator_of
from proxy.api.middleware import prepare
from proxy.api.services import SERVICES, member_of, note, of
from proxy.jobs.protocol import JobLeft
from proxy.members.usage import Usage
from proxy.storage.usage import day_of
from proxy.translate import codec
from proxy.translate.errors import LocalError

if TYPE_CHECKING:
    from proxy.jobs.models import AccountView, JobView
    from proxy.jobs.service import JobService

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

#: So many failures are shown, of one member and in all.
FAILURES = 20

#: So many of the failures in the history are known after a start.
_REMEMBERED = 1000

#: Why a job waits, or an account rests.
REASONS = {
    "turn": "others have their turn first",
    "slot": "every slot is taken",
    "client": "another job of the same client_id runs, and this client follows one at a time",
    "limit": "as many as this member may run are running",
    "disabled": "the member is disabled",
    "no_account": "the member may use no account",
    "no_credits": "the account has no credits left",
    "dead_key": "the account's key does not work",
    "queue_limit": "the cloud takes no more jobs now",
    "rate_limited": "the cloud asks to wait",
    "unreachable": "the cloud cannot be reached",
}


class Dashboard:
    """What is shown, and who is told when it changes. Times are ms since 1970."""

    def __init__(self, jobs: JobService, usage: Usage) -> None:
        self._jobs = jobs
        self._usage = usage
        self._failed: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=FAILURES))
        self._watchers: set[asyncio.Event] = set()
        self.members_version = 0
        self.closed = False

    async def start(self) -> None:
        """Know of the failures that are in the history already. Raises `StorageError`."""
        for member, prompt_id in await self._jobs.history.failures(_REMEMBERED):
            self._failed[member].append(prompt_id)

    @contextlib.contextmanager
    def watched(self) -> Iterator[asyncio.Event]:
        """An event that is set at each change for as long as the block runs."""
        woken = asyncio.Event()
        self._watchers.add(woken)
        try:
            yield woken
        finally:
            self._watchers.discard(woken)

    def jobs_changed(self, news: object) -> None:
        """Take what the bus tells about jobs."""
        match news:
            case JobLeft(job=job, outcome="failed"):
                self._failed[job.member].append(job.prompt_id)
        self._wake()

    def members_changed(self) -> None:
        """Members or tokens are others; somebody's access may have ended."""
        self.members_version += 1
        self._wake()

    def close(self) -> None:
        """Let nobody watch any more."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        for woken in self._watchers:
            woken.set()

    async def state(self, member: str | None) -> dict[str, Any]:
        """Everything that changes, of one member or, for admins, of all (`None`).

        `{"time", "running", "waiting", "accounts", "usage", "failures"}`: jobs on the cloud or on
        their way, waiting ones in the order of turns, today's usage by member, and the newest
        failures first. Accounts are for admins alone.
        """
        now = time.time()
        seen = await self._jobs.overview(member)
        return {
            "time": int(now * 1000),
            "running": [_running(view) for view in seen.jobs if view.state != "waiting"],
            "waiting": [_waiting(view) for view in seen.jobs if view.state == "waiting"],
            "accounts": [] if member is not None else list(map(_account, seen.accounts)),
            "usage": await self._used(day_of(now), member),
            "failures": await self._failures(member),
        }

    async def _used(self, day: str, member: str | None) -> list[dict[str, Any]]:
        days = await self._usage.days(day, day, member)
        return [
            {
                "member": one.member,
                "jobs": one.submitted,
                "failed": one.failed,
                "seconds": one.running_seconds,
                "outputs": one.outputs,
            }
            for one in days
        ]

    async def _failures(self, member: str | None) -> list[dict[str, Any]]:
        shown = []
        for one in list(self._failed) if member is None else [member]:
            for prompt_id in dict.fromkeys(self._failed.get(one, ())):
                summary = await self._jobs.history.summary(one, prompt_id)
                if summary is not None:
                    shown.append(_failure(one, summary))
        return sorted(shown, key=lambda job: -job["ended"])[:FAILURES]


def _account(view: AccountView) -> dict[str, Any]:
    return {
        "name": view.name,
        "slots": view.slots,
        "used": view.used,
        "reason": None if view.reason is None else REASONS[view.reason],
        "until": view.until,
        "events": view.events,
    }


def _running(view: JobView) -> dict[str, Any]:
    return {
        "id": view.prompt_id,
        "member": view.member,
        "state": view.state,
        "account": view.account or "",
        "created": view.create_time,
        "started": view.started_at,
        "progress": view.progress or 0.0,
        "node": view.node_type or view.node,
        "reason": None if view.reason is None else REASONS.get(view.reason, view.reason),
    }


def _waiting(view: JobView) -> dict[str, Any]:
    return {
        "id": view.prompt_id,
        "member": view.member,
        "number": view.number,
        "created": view.create_time,
        "turn": (view.before or 0) + 1,
        "reason": REASONS.get(view.reason or "", view.reason),
    }


def _failure(member: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    error = summary.get("execution_error") or {}
    return {
        "id": summary["id"],
        "member": member,
        "ended": summary["execution_end_time"],
        "node": error.get("node_type") or error.get("node_id") or "",
        "message": str(error.get("exception_message") or "").strip(),
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
    dashboard = _dashboard(request)
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
    told = dashboard.members_version
    with dashboard.watched() as woken, contextlib.suppress(ConnectionError):
        while not dashboard.closed and authenticator.stands(admission):
            woken.clear()
            state = await _state(request)
            await stream.write(b"event: state\ndata: " + codec.dump_bytes(state) + b"\n\n")
            if told != dashboard.members_version:
                told = dashboard.members_version
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
                "invalid_body", 'The body must be {"member": NAME, "id": JOB}, both strings.'
            )
    if member != member_of(request):
        require_admin(request)
    cancelled = await of(request).jobs.cancel(member, prompt_id)
    note(request, "cancel", job=prompt_id, of=member)
    return answers.json({"cancelled": cancelled})


async def _state(request: web.Request) -> dict[str, Any]:
    services, member = of(request), member_of(request)
    admin = is_admin(request)
    state = await _dashboard(request).state(None if admin else member)
    state["viewer"] = {
        "name": member,
        "role": "admin" if admin else "user",
        "gateway": services.members.has_members,
        "signed_in": admission_of(request).session is not None,
    }
    return state


def _dashboard(request: web.Request) -> Dashboard:
    dashboard = of(request).dashboard
    if dashboard is None:
        raise LocalError("no_dashboard", "This server has no dashboard.", kind="not_found")
    return dashboard


async def close(app: web.Application) -> None:
    """Let those who watch go."""
    dashboard = app[SERVICES].dashboard
    if dashboard is not None:
        dashboard.close()
