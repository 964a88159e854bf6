"""`/ws`: the event socket."""

from __future__ import annotations

from aiohttp import web

from proxy.simulator.account import offered_key
from proxy.simulator.call import Call, RouteAccess, SimulatedRoute
from proxy.simulator.errors import account_refusal, bad_request, flat, unauthorized


async def connect(call: Call) -> web.StreamResponse:
    """Answer `GET /ws?clientId=…&token=…`; `clientId` selects nothing."""
    fault = call.world.faults.handshake()
    if fault is not None:
        raise flat(fault.status, "UNAVAILABLE", "the handshake is refused")
    key = offered_key(
        call.request.headers, call.request.query, in_headers=call.switches.handshake_headers
    )
    tenant = call.world.tenant(key or "")
    if tenant is None:
        raise unauthorized()
    if call.switches.refuse_account is not None:
        raise account_refusal(call.switches.refuse_account)
    if not web.WebSocketResponse().can_prepare(call.request).ok:
        raise bad_request("this is a websocket: upgrade the connection")
    cap = call.switches.socket_cap
    if cap and len(tenant.event_sockets.sockets) >= cap:
        raise flat(429, "TOO_MANY_CONNECTIONS", "too many event sockets")
    return await tenant.event_sockets.serve(call.request, tenant.queue.remaining())


ROUTES = [SimulatedRoute("GET", "/ws", connect, RouteAccess.PUBLIC)]
