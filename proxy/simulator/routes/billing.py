"""What an account costs, and its workspace: routes that a key may use or not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from proxy.simulator.account import Plan
from proxy.simulator.answers import DEPLOYMENT
from proxy.simulator.call import PICK_COOKIE, Call, SimulatedRoute, answer
from proxy.simulator.errors import bad_request, flat, unauthorized
from proxy.simulator.jobs import SimulatedJob
from proxy.simulator.nodes.special import PARTNER, PRICE

#: What a second on the GPU costs, in US dollars.
GPU_SECOND = 0.001295

TIERS: dict[Plan, str] = {
    "free": "FREE",
    "standard": "STANDARD",
    "creator": "CREATOR",
    "pro": "PRO",
    "team": "TEAM",
}


def _enter(call: Call) -> None:
    """Refuse the key, if the cloud does so. Raises `Refusal` (401)."""
    if not call.switches.billing_for_keys:
        raise unauthorized()


async def status(call: Call) -> web.Response:
    """Answer `GET /api/billing/status`."""
    _enter(call)
    return answer(
        {
            "is_active": True,
            "has_funds": call.account.balance_cents > 0,
            "subscription_tier": TIERS[call.account.plan],
            "subscription_status": "active",
            "plan_slug": f"{call.account.plan}-monthly",
            "renewal_date": "2026-12-24T00:00:00Z",
        }
    )


async def balance(call: Call) -> web.Response:
    """Answer `GET /api/billing/balance`: `*_micros` are cents."""
    _enter(call)
    cents = call.account.balance_cents
    return answer(
        {"currency": "usd", "amount_micros": cents, "effective_balance_micros": str(cents)}
    )


async def capabilities(call: Call) -> web.Response:
    """Answer `GET /api/billing/capabilities`."""
    _enter(call)
    can_run: dict[str, Any] = {"allowed": True}
    if call.account.credits == 0:
        can_run = {"allowed": False, "reason": "no_funds"}
    return answer({"capabilities": {"can_run_workflows": can_run}})


async def events(call: Call) -> web.Response:
    """Answer `GET /api/billing/events`: one for the GPU of each job that has run and one for each
    of its partner nodes, with those that the account has of elsewhere, newest first."""
    _enter(call)
    page, limit = call.number("page", 1, low=1), call.number("limit", 20, low=1, high=100)
    call.choice("scope", ("self", "workspace", "user"))
    since, until = _date(call, "start_date"), _date(call, "end_date")
    found = [*call.account.events_elsewhere]
    for job in call.account.jobs.values():
        found += _booked(job, call.account.key)
    found = [
        event
        for event in found
        if (since is None or event["createdAt"] >= since)
        and (until is None or event["createdAt"] <= until)
    ]
    found.sort(key=lambda event: str(event["createdAt"]), reverse=True)
    return answer(
        {
            "events": found[(page - 1) * limit : page * limit],
            "page": page,
            "limit": limit,
            "total": len(found),
            "totalPages": -(-len(found) // limit),
        }
    )


def _booked(job: SimulatedJob, key: str) -> Iterator[dict[str, Any]]:
    if job.ended is None or job.started is None:
        return
    seconds = (job.ended - job.started) / 1000
    charges = {"gpu_usage": seconds * GPU_SECOND}
    partners = [node for node in job.executed if job.graph[node].get("class_type") == PARTNER]
    if partners:
        charges["api_node_usage"] = PRICE * len(partners)
    for type_, usd in charges.items():
        yield {
            "event_id": f"{job.id}:{type_}",
            "event_type": type_,
            "createdAt": timestamp(job.ended),
            "params": {"amount": round(usd * 100, 4), "charge_micro_usd": round(usd * 1_000_000)},
            "api_key_name": "simulated",
            "api_key_prefix": key[:16],
        }


def _date(call: Call, name: str) -> str | None:
    """Return a date and time of the query, as events have it. Raises `Refusal` (400)."""
    text = call.request.query.get(name)
    if text is None:
        return None
    try:
        return timestamp(int(datetime.fromisoformat(text).timestamp() * 1000))
    except ValueError:
        raise bad_request(f"{name} must be a date and time") from None


def timestamp(ms: int) -> str:
    """Return a time as events have it."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"


async def workspace(call: Call) -> web.Response:
    """Answer `GET /api/workspaces/current`."""
    _enter(call)
    return answer(
        {
            "id": call.account.workspace_id,
            "name": "simulated",
            "type": "personal",
            "auth_method": "api_key",
        }
    )


async def deployments(call: Call) -> web.Response:
    """Answer `GET /api/workspaces/{id}/deployments`."""
    _enter(call)
    if call.switches.deployment_pick == "none":
        return answer({"items": [], "builds_visible": False})
    item = {"deployment_id": DEPLOYMENT, "release_id": "rel_1", "status": "ready"}
    default = DEPLOYMENT if call.switches.executors else None
    return answer({"items": [item], "builds_visible": True, "default_deployment_id": default})


async def pick(call: Call) -> web.Response:
    """Answer `PUT /api/workspaces/{id}/deployment`."""
    _enter(call)
    if call.switches.deployment_pick == "refused":
        raise flat(403, "FORBIDDEN", "keys pick no deployment")
    headers = {}
    if call.switches.deployment_pick == "followed":
        headers["Set-Cookie"] = f"{PICK_COOKIE}={DEPLOYMENT}; Path=/; HttpOnly"
    return web.Response(status=204, headers=headers)


ROUTES = [
    SimulatedRoute("GET", "/api/billing/status", status),
    SimulatedRoute("GET", "/api/billing/balance", balance),
    SimulatedRoute("GET", "/api/billing/capabilities", capabilities),
    SimulatedRoute("GET", "/api/billing/events", events),
    SimulatedRoute("GET", "/api/workspaces/current", workspace),
    SimulatedRoute("GET", "/api/workspaces/{id}/deployments", deployments),
    SimulatedRoute("PUT", "/api/workspaces/{id}/deployment", pick),
]
