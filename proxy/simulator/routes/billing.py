"""What an account costs, and its workspace: routes that a key may use or not."""

from __future__ import annotations

from aiohttp import web

from proxy.simulator.account import Plan
from proxy.simulator.call import Call, SimulatedRoute, answer
from proxy.simulator.errors import unauthorized

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
    """`GET /api/billing/status`."""
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
    """`GET /api/billing/balance`: `*_micros` are cents."""
    _enter(call)
    cents = call.account.balance_cents
    return answer(
        {"currency": "usd", "amount_micros": cents, "effective_balance_micros": str(cents)}
    )


async def capabilities(call: Call) -> web.Response:
    """`GET /api/billing/capabilities`."""
    _enter(call)
    return answer({"capabilities": {"can_run_workflows": {"allowed": True}}})


async def events(call: Call) -> web.Response:
    """`GET /api/billing/events`: one for each job that has run."""
    _enter(call)
    found = [
        {
            "event_id": job.id,
            "event_type": "gpu_usage",
            "createdAt": "2026-11-28T00:00:00Z",
            "params": {"amount": 1, "charge_micro_usd": 12_950},
            "api_key_prefix": call.account.key[:16],
        }
        for job in reversed(list(call.account.jobs.values()))
        if job.terminal
    ]
    return answer({"events": found, "page": 1, "limit": 20, "total": len(found), "totalPages": 1})


async def workspace(call: Call) -> web.Response:
    """`GET /api/workspaces/current`."""
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
    """`GET /api/workspaces/{id}/deployments`."""
    _enter(call)
    return answer({"items": [], "builds_visible": False})


ROUTES = [
    SimulatedRoute("GET", "/api/billing/status", status),
    SimulatedRoute("GET", "/api/billing/balance", balance),
    SimulatedRoute("GET", "/api/billing/capabilities", capabilities),
    SimulatedRoute("GET", "/api/billing/events", events),
    SimulatedRoute("GET", "/api/workspaces/current", workspace),
    SimulatedRoute("GET", "/api/workspaces/{id}/deployments", deployments),
]
