"""`/proxy/`: the page, the state that it shows as it changes, and cancelling from it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from aiohttp import web

from proxy import __version__, clock
from proxy.admin.budgets import shown_budgets
from proxy.admin.members import is_admin, require_admin
from proxy.admin.schema.jobs import LiveJobShown, WaitingJobShown
from proxy.admin.schema.state import AccountShown, State
from proxy.api import bodies
from proxy.api.answer_headers import prepare
from proxy.api.keys import ACCOUNTING, BUS, INTERFACE, JOBS, MEMBERS, OPTIONS, READINESS, WEBHOOKS
from proxy.api.middleware import note
from proxy.api.requests import admission_of, connection_of, member_of
from proxy.bus import MISSED
from proxy.costs.credits import to_credits
from proxy.jobs.messages import JobChanged, MembersChanged
from proxy.jobs.models import shown_state
from proxy.storage.usage import day_of
from proxy.storage.webhooks import GATEWAY
from proxy.translate import codec
from proxy.translate.errors import LocalError

if TYPE_CHECKING:
    from proxy.jobs.models import AccountView

#: Whether an application serves what is for admins, and nothing else.
ADMIN_LISTENER = web.AppKey("admin_listener", bool)

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

#: Seconds: the least between two states, the most while a job runs, the most while none does.
OFTEN, LIVELY, QUIET = 0.25, 1.0, 15.0

#: This many running and this many waiting jobs are shown, of the others their number.
MAX_RUNNING, MAX_WAITING = 100, 200

#: Why a job waits, or an account rests.
REASONS = {
    "turn": "other members' jobs run first",
    "slot": "all slots are in use",
    "client": "another job of this client is running",
    "model": "the accounts that have its models are busy",
    "limit": "the member's limit of running jobs is reached",
    "disabled": "the member is disabled",
    "no_account": "the member has no account",
    "no_credits": "the account has no credits left",
    "dead_key": "the account's key does not work",
    "queue_limit": "the cloud's queue is full",
    "rate_limited": "the cloud limits requests",
    "unreachable": "the cloud cannot be reached",
}


@dataclass(eq=False)
class Watch:
    """What has changed for somebody who looks: anything, and whether it was members or tokens."""

    news: asyncio.Event = field(default_factory=asyncio.Event)
    members: bool = False

    def take(self, message: object) -> None:
        """Take what the bus tells."""
        self.members |= isinstance(message, MembersChanged) or message is MISSED
        self.news.set()


#: Those who look at the dashboard; the end of the server is news to them.
WATCHES = web.AppKey("watches", WeakSet[Watch])


def _account_shown(view: AccountView) -> AccountShown:
    return {
        "name": view.name,
        "slots": view.slots,
        "used": view.used,
        "reason": None if view.reason is None else REASONS[view.reason],
        "until": view.until,
        "events": view.events,
        "plan": view.plan.sentence(),
    }


def describe(view: JobChanged) -> LiveJobShown:
    """Return a live job as JSON."""
    job, progress = view.job, view.progress
    return {
        "id": job.prompt_id,
        "member": job.member,
        "label": job.label,
        "state": shown_state(job),
        "account": job.account,
        "created": job.created_at,
        "started": job.started_at,
        "progress": progress.share or 0.0,
        "remaining": progress.remaining,
        "node": progress.node_type or progress.node,
        "reason": REASONS.get(progress.reason or "", progress.reason),
    }


def _waiting(view: JobChanged) -> WaitingJobShown:
    turn = (view.progress.before or 0) + 1
    return {**describe(view), "number": view.job.number, "turn": turn}


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


async def get_state(request: web.Request) -> web.Response:
    """Return what the dashboard shows at this moment."""
    return bodies.json(await _state(request))


async def get_events(request: web.Request) -> web.StreamResponse:
    """Send the state as server-sent events, one at each change and at each step of what runs."""
    admission = admission_of(request)
    manager = connection_of(request).manager
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
    watch = Watch()
    request.app[WATCHES].add(watch)
    with (
        request.app[BUS].subscribe("jobs", watch.take),
        request.app[BUS].subscribe("members", watch.take),
        contextlib.suppress(ConnectionError),
    ):
        while not manager.draining and admission.holds(request.app[MEMBERS]):
            watch.news.clear()
            shown = await _state(request)
            await stream.write(b"event: state\ndata: " + codec.dump_bytes(shown) + b"\n\n")
            if watch.members:
                watch.members = False
                await stream.write(b"event: members\ndata:\n\n")
            await asyncio.sleep(OFTEN)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LIVELY if shown["running"] else QUIET):
                    await watch.news.wait()
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
    cancelled = await request.app[JOBS].cancel(member, prompt_id)
    note(request, "cancel", job=prompt_id, owner=member)
    return bodies.json({"cancelled": cancelled})


async def _state(request: web.Request) -> State:
    """Return everything that changes, of the member or, for admins, of all.

    Jobs on the cloud or on their way, waiting ones in the order of turns, how many there are of
    both in all and by member, today's usage by member, and budgets. Accounts are for admins alone.
    `trouble` is why no job can be accepted or what is wrong otherwise, as `/readyz` says it, or
    null. `history` is another word whenever the ended jobs are others. Times are ms since 1970.
    """
    viewer, admin = member_of(request), is_admin(request)
    report = await request.app[READINESS].report()
    member = None if admin else viewer
    now, here = clock.time(), request.app[ADMIN_LISTENER]
    today = day_of(now)
    seen = await request.app[JOBS].overview(member)
    running = [view for view in seen.jobs if shown_state(view.job) != "waiting"]
    waiting = [view for view in seen.jobs if shown_state(view.job) == "waiting"]
    return {
        "time": int(now * 1000),
        "running": list(map(describe, running[:MAX_RUNNING])),
        "waiting": list(map(_waiting, waiting[:MAX_WAITING])),
        "counts": {
            "running": len(running),
            "waiting": len(waiting),
            "waiting_by_member": Counter(view.job.member for view in waiting),
        },
        "accounts": list(map(_account_shown, seen.accounts)) if admin else [],
        "usage": [
            {
                "member": row.member,
                "jobs": row.submitted,
                "failed": row.failed,
                "seconds": row.running_seconds,
                "outputs": row.outputs,
                "credits_reported": to_credits(row.credits_reported),
                "credits_estimated": to_credits(row.credits_estimated),
                "unknown_costs": row.unknown_costs,
            }
            for row in await request.app[ACCOUNTING].usage.days(today, today, member)
        ],
        "budgets": await shown_budgets(request),
        "history": request.app[JOBS].history.word(member),
        "webhooks_disabled": await request.app[WEBHOOKS].disabled(
            [viewer, GATEWAY] if admin else [viewer]
        ),
        "trouble": (report.reason if report.checked else None) or report.problem,
        "viewer": {
            "name": viewer,
            "role": "admin" if admin else "user",
            "gateway": request.app[MEMBERS].has_members,
            "signed_in": admission_of(request).session is not None,
        },
        "server": {
            "version": __version__,
            "simulated": request.app[OPTIONS].simulated,
            "documentation": _documentation(),
            "interface": not here,
            "frontend": not here and request.app[INTERFACE].frontend is not None,
            "audit": admin and (here or not request.app[OPTIONS].admin_apart),
            "metrics": request.app[OPTIONS].metrics_shown
            and admin
            and (here or not request.app[OPTIONS].admin_apart),
        },
    }


@cache
def _documentation() -> str | None:
    """Return where the package says that its documents are."""
    with contextlib.suppress(PackageNotFoundError):
        for line in metadata("comfy-cloud-proxy").get_all("Project-URL") or ():
            label, _, url = line.partition(", ")
            if label == "Documentation" and url.startswith("https://"):
                return str(url)
    return None
