"""The user."""

from __future__ import annotations

from aiohttp import web

from proxy.simulator.call import Call, SimulatedRoute, answer


async def user(call: Call) -> web.Response:
    """Answer `GET /api/user`."""
    return answer({"id": call.account.user_id, "status": "active"})


async def users(_call: Call) -> web.Response:
    """Answer `GET /api/users`."""
    return answer({"storage": "server", "migrated": True})


ROUTES = [
    SimulatedRoute("GET", "/api/user", user),
    SimulatedRoute("GET", "/api/users", users),
]
