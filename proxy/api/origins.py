"""The origin check of browser pages, and the headers by which other sites may read answers.

The check is ComfyUI's: a page of another site is refused if the browser reports it
(`Sec-Fetch-Site`), or if `Host` is a loopback name and `Origin` names another host or port. ComfyUI
resolves `Host` for this. Here no name that a client sends is resolved: loopback names are
`localhost`, loopback addresses, and those of the hosts file.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import aiohttp_cors
from aiohttp import web

from proxy.cloud.reach import is_host_of

#: The headers of ComfyUI's `--enable-cors-header`.
_EVERYBODY = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET, DELETE, PUT, OPTIONS, PATCH",
    "Access-Control-Allow-Headers": "Content-Type, Authorization",
    "Access-Control-Allow-Credentials": "true",
}


def is_cross_origin(host: str, origin: str) -> bool:
    """Return whether `Origin` names another host than `Host`; ports count if both have one.

    An `Origin` without a host (`null`, `file://`, garbage) is ignored.
    """
    try:
        there = urlsplit(origin.lower())
        if not there.netloc:
            return False
        here = urlsplit("//" + host.lower())
        if _host_name(there) != _host_name(here):
            return True
        return None not in (there.port, here.port) and there.port != here.port
    except ValueError:
        return True


def _host_name(address: SplitResult) -> str:
    """Return the host without the port; a user is included, so that it never matches."""
    user, at, _ = address.netloc.rpartition("@")
    return f"{user}{at}{address.hostname or ''}"


def is_loopback(host: str) -> bool:
    """Return whether a `Host`, perhaps with a port, is the loopback interface; garbage counts as
    it."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return True
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return name in _loopback_names()


@cache
def _loopback_names() -> frozenset[str]:
    """Return the names of loopback addresses in this machine's hosts file, which is read once."""
    folder = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "drivers")
    path = (folder if sys.platform == "win32" else Path("/")) / "etc" / "hosts"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    names: set[str] = set()
    for line in lines:
        address, *found = line.partition("#")[0].split() or [""]
        try:
            if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
                names.update(name.lower() for name in found)
        except ValueError:
            continue
    return frozenset(names)


def is_foreign(
    allowed: Collection[str], headers: Mapping[str, str], host: str, method: str = "GET"
) -> bool:
    """Return whether a request is refused with 403 because of the page that sent it.

    Pages of the `allowed` origins pass; `*` is all pages. `host` is that of the request. As in
    ComfyUI, following a link of another site passes.
    """
    origin = headers.get("Origin", "")
    if allowed and ("*" in allowed or origin in allowed):
        return False
    if headers.get("Sec-Fetch-Site") == "cross-site" and not (
        method in ("GET", "HEAD") and headers.get("Sec-Fetch-Mode") == "navigate"
    ):
        return True
    return is_cross_origin(host, origin) and is_loopback(host)


def is_rebindable(host: str, allowed: Collection[str]) -> bool:
    """Return whether the owner of a web page may have pointed the name in `Host` at this machine.

    Browsers treat such a page as one of this server (DNS rebinding). Safe are IP addresses, names
    without a dot or below `internal`, and names of loopback addresses in the hosts file. `allowed`
    are further safe names; `*.example` is all names below it.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return True
    if "." not in name or name.endswith((".internal", ".localhost")):
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return not (name in _loopback_names() or is_host_of(allowed, name))
    return False


def allow_all(response: web.StreamResponse) -> None:
    """Let pages of all origins read an answer (`cors_origins = *`).

    As in ComfyUI the headers are the same for every request, and errors raised by aiohttp and
    websockets do not have them. aiohttp-cors cannot do this: it adds no headers without `Origin`,
    and repeats the origin instead of `*`.
    """
    if not isinstance(response, web.HTTPException | web.WebSocketResponse):
        response.headers.update(_EVERYBODY)


def allow_some(app: web.Application, cors_origins: Iterable[str]) -> None:
    """Let pages of these origins use all routes of an application, unless it is all of them.

    aiohttp-cors answers preflights and adds the CORS headers to answers.
    """
    origins = set(cors_origins)
    if not origins or "*" in origins:
        return
    options = aiohttp_cors.ResourceOptions(  # type: ignore[no-untyped-call]
        allow_credentials=True, expose_headers="*", allow_headers="*", allow_methods="*"
    )
    cors = aiohttp_cors.setup(app, defaults=dict.fromkeys(origins, options))
    for route in list(app.router.routes()):
        cors.add(route)
