"""The state of the dashboard: what it shows of jobs, accounts, usage and budgets at a moment."""

from __future__ import annotations

import contextlib
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from proxy import __version__
from proxy.admin.budgets import shown_budgets
from proxy.admin.members import is_admin
from proxy.admin.schema.jobs import LiveJobShown, WaitingJobShown
from proxy.admin.schema.state import AccountShown, State
from proxy.api.keys import ACCOUNTING, INTERFACE, JOBS, MEMBERS, OPTIONS, READINESS, WEBHOOKS
from proxy.api.requests import admission_of, member_of
from proxy.costs.credits import to_credits
from proxy.jobs.engine_calls import JobSeen
from proxy.jobs.models import shown_state
from proxy.runtime import clock
from proxy.storage.webhooks import GATEWAY

if TYPE_CHECKING:
    from proxy.jobs.models import AccountView

#: Whether an application serves what is for admins, and nothing else.
ADMIN_LISTENER = web.AppKey("admin_listener", bool)

#: This many running and this many waiting jobs are shown, of the others their number.
MAX_RUNNING, MAX_WAITING = 100, 200

#: Why a job waits, or an account rests.
REASONS = {
    "turn": "other members' jobs run first",
    "slot": "all slots are in use",
    "client": "another job of this client is running",
    "model": "the accounts that have its models are busy",
    "budget": "the member's budget does not allow it",
    "ceiling": "the member's running jobs may use up its budget",
    "memory": "the member's running jobs hold its share of memory",
    "limit": "the member's limit of running jobs is reached",
    "disabled": "the member is disabled or was removed",
    "restored": "the job is from a backup and may have run since: an admin must release it",
    "no_account": "the member has no account",
    "no_credits": "the account has no credits left",
    "dead_key": "the account's key does not work",
    "queue_limit": "the cloud's queue is full",
    "rate_limited": "the cloud limits requests",
    "unanswered": "its submission was not answered: the proxy looks for it on the account",
    "unreachable": "the cloud cannot be reached",
    "stopped": "the deployment is stopped",
    "no_nodes": "the deployment's list of nodes cannot be read",
    "starting": "the deployment is starting",
    "busy": "the queue of the deployment is full",
}


class StateScope(NamedTuple):
    """What the state of a client depends on: clients of the same scope see the same.

    `signed_in` is whether the client has a session in a browser.
    """

    viewer: str
    admin: bool
    signed_in: bool


def scope_of(request: web.Request) -> StateScope:
    """Return the scope of a client."""
    signed_in = admission_of(request).session is not None
    return StateScope(member_of(request), is_admin(request), signed_in)


def _account_shown(view: AccountView) -> AccountShown:
    return {
        "name": view.name,
        "kind": view.kind,
        "slots": view.slots,
        "used": view.used,
        "reason": None if view.reason is None else REASONS[view.reason],
        "until": view.until,
        "events": view.events,
        "plan": view.plan.sentence(),
    }


def describe(view: JobSeen) -> LiveJobShown:
    """Return a live job as JSON."""
    job, state = view.job, shown_state(view.job)
    return {
        "id": job.prompt_id,
        "member": job.member,
        "label": job.label,
        "state": state,
        "account": "" if state == "waiting" else job.account,
        "created": job.created_at,
        "started": job.started_at,
        "progress": view.share or 0.0,
        "remaining": view.remaining,
        "node": view.node_type or view.node,
        "reason": REASONS.get(view.reason or "", view.reason),
    }


def _waiting(view: JobSeen) -> WaitingJobShown:
    return {**describe(view), "number": view.job.number, "turn": view.before + 1}


async def state_of(app: web.Application, scope: StateScope) -> State:
    """Return everything that changes, of the member or, for admins, of all. Raises `StorageError`.

    Jobs on the cloud or on their way, waiting ones in the order of turns, how many there are of
    both in all and by member, today's usage by member, and budgets. Accounts are for admins alone.
    `trouble` is why no job can be accepted or what is wrong otherwise, as `/readyz` says it, or
    null. `history` is another token whenever the ended jobs are others. Times are ms since 1970.
    """
    viewer, admin = scope.viewer, scope.admin
    report = await app[READINESS].report()
    member = None if admin else viewer
    now, here = clock.time(), app[ADMIN_LISTENER]
    seen = app[JOBS].overview(member)
    running = [view for view in seen.jobs if shown_state(view.job) != "waiting"]
    waiting = [view for view in seen.jobs if shown_state(view.job) == "waiting"]
    return {
        "time": int(now * 1000),
        "running": list(map(describe, running[:MAX_RUNNING])),
        "waiting": list(map(_waiting, waiting[:MAX_WAITING])),
        "counts": {
            "running": len(running),
            "waiting": sum(seen.waiting.values()),
            "waiting_by_member": dict(seen.waiting),
            "held": seen.held,
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
            for row in await app[ACCOUNTING].usage.today_by_member(member)
        ],
        "budgets": await shown_budgets(app, None if admin else viewer),
        "history": app[JOBS].history.change_token(member),
        "webhooks_disabled": await app[WEBHOOKS].disabled([viewer, GATEWAY] if admin else [viewer]),
        "trouble": (report.reason if report.checked else None) or report.problem,
        "viewer": {
            "name": viewer,
            "role": "admin" if admin else "user",
            "gateway": app[MEMBERS].has_members,
            "signed_in": scope.signed_in,
        },
        "server": {
            "version": __version__,
            "simulated": app[OPTIONS].simulated,
            "documentation": _documentation(),
            "interface": not here,
            "frontend": not here and app[INTERFACE].frontend is not None,
            "audit": admin and (here or not app[OPTIONS].admin_apart),
            "metrics": admin and (here or not app[OPTIONS].admin_apart),
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
