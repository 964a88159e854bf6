"""Our extension of the web interface: its script, and the state of the server that it shows.

`GET /extensions` lists the script, which is below `/extensions` like those of node packs on a local
server. The frontend itself is served unchanged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict

from aiohttp import web

from proxy.api import bodies
from proxy.api.bodies import JsonAnswer
from proxy.api.keys import CATALOG, INTERFACE, OPTIONS, READINESS
from proxy.api.requests import admission_of

#: Where the script is served.
SCRIPT_PATH = "/extensions/comfy-cloud-proxy/status.js"

_SCRIPT = Path(__file__).with_name("status_extension.js").read_bytes()

#: Seconds that `/` waits for the first node list before it shows the welcome page instead.
LOAD_TIMEOUT = 0.5


class InterfaceState(TypedDict):
    """What the extension of the web interface shows."""

    trouble: str | None
    problem: str | None
    interface: Literal["ready", "waiting", "missing"]
    simulated: bool
    pays_partner_nodes: bool
    signed_in: bool


async def has_nodes(request: web.Request) -> bool:
    """Return whether the node list was loaded; without it the frontend cannot start."""
    return await request.app[CATALOG].load(LOAD_TIMEOUT)


async def get_script(_: web.Request) -> web.Response:
    """Return the script of our extension."""
    return web.Response(
        body=_SCRIPT,
        content_type="application/javascript",
        charset="utf-8",
        headers={"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"},
    )


async def get_interface(request: web.Request) -> JsonAnswer[InterfaceState]:
    """Return the state of the server for the web interface.

    `{"trouble", "problem", "interface", "simulated", "pays_partner_nodes", "signed_in"}`: `trouble`
    is the sentence of `/readyz` that says why no job can be accepted, or null, `problem` the one
    that says what is wrong although jobs run; `interface` says whether `/` is the web interface:
    `ready`, `waiting` for the first node list, or `missing`.
    """
    report = await request.app[READINESS].report(patient=True)
    interface: Literal["ready", "waiting", "missing"] = "missing"
    if request.app[INTERFACE].frontend is not None:
        interface = "ready" if await has_nodes(request) else "waiting"
    return bodies.json(
        {
            "trouble": report.reason,
            "problem": report.problem,
            "interface": interface,
            "simulated": request.app[OPTIONS].simulated,
            "pays_partner_nodes": request.app[OPTIONS].pays_partner_nodes,
            "signed_in": admission_of(request).session is not None,
        }
    )
