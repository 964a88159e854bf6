"""`/simulator/*`: what a real cloud does not have, for simulators in another process."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgspec
from aiohttp import web

from proxy.simulator.call import Call, RouteAccess, SimulatedRoute, answer
from proxy.simulator.errors import bad_request
from proxy.simulator.faults import Fault, HttpFault, JobFault, SocketFault
from proxy.translate import codec

_KINDS: dict[str, type[Fault]] = {"http": HttpFault, "socket": SocketFault, "job": JobFault}


async def switches(call: Call) -> web.Response:
    """Answer `GET /simulator/switches`: all of them."""
    return answer(call.switches.values())


async def change_switches(call: Call) -> web.Response:
    """Answer `PATCH /simulator/switches`: some of them; all as they are then."""
    try:
        call.switches.update(await call.json(dict[str, Any]))
    except ValueError as error:
        raise bad_request(str(error)) from None
    return answer(call.switches.values())


async def add_fault(call: Call) -> web.Response:
    """Answer `POST /simulator/faults`: `{"http" | "socket" | "job": {...}, "times", "skip",
    "chance"}`."""
    try:
        body = codec.loads(await call.body())
        (kind,) = _KINDS.keys() & body.keys()
        given = body.pop(kind)
        if unknown := given.keys() - {field.name for field in fields(_KINDS[kind])}:
            raise ValueError(f"there is no {', '.join(sorted(unknown))}")
        fault = msgspec.convert(given, _KINDS[kind])
        call.world.faults.add(fault, **body)
    except (ValueError, TypeError, AttributeError) as error:
        raise bad_request(f"not a fault: {error}") from None
    return web.Response(status=204)


async def clear_faults(call: Call) -> web.Response:
    """Answer `DELETE /simulator/faults`: all of them."""
    call.world.faults.clear()
    return web.Response(status=204)


async def record(call: Call) -> web.Response:
    """Answer `GET /simulator/record`: the calls by route, and the leaks to the storage."""
    world = call.world
    leaks = [{"path": leak.path, "credentials": leak.credentials} for leak in world.leaks]
    return answer({"calls": dict(world.calls), "leaks": leaks})


async def drop_sockets(call: Call) -> web.Response:
    """Answer `DELETE /simulator/sockets`: reset them all."""
    call.world.drop_sockets()
    return web.Response(status=204)


ROUTES = [
    SimulatedRoute("GET", "/simulator/switches", switches, RouteAccess.CONTROL),
    SimulatedRoute("PATCH", "/simulator/switches", change_switches, RouteAccess.CONTROL),
    SimulatedRoute("POST", "/simulator/faults", add_fault, RouteAccess.CONTROL),
    SimulatedRoute("DELETE", "/simulator/faults", clear_faults, RouteAccess.CONTROL),
    SimulatedRoute("GET", "/simulator/record", record, RouteAccess.CONTROL),
    SimulatedRoute("DELETE", "/simulator/sockets", drop_sockets, RouteAccess.CONTROL),
]
