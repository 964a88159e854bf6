"""Prefixes of routes, addresses of clients, and the origin check of browser pages.

The setting `base_path` and `/t/TOKEN` are prefixes of the path. Only this module removes them,
before aiohttp resolves the route and before anything is logged. With members, tokens in the query
are removed too.

The origin check is ComfyUI's: a page of another site is refused if the browser reports it
(`Sec-Fetch-Site`), or if `Host` is a loopback name and `Origin` names another host or port. ComfyUI
resolves `Host` for this. Here no name that a client sends is resolved: loopback names are
`localhost`, loopback addresses, and those of the hosts file.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

import aiohttp_cors
from aiohttp import web
from yarl import URL

from proxy.cloud.connections import is_host_of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_TOKEN_SEGMENT = "/t/"  # noqa: S105


class Way(NamedTuple):
    """The prefix and tokens of a request. `bare` is a prefix without a final slash, `crooked` is a
    path that leads out of its prefix. `excessive` is a target that was not looked at."""

    path_token: str | None = None
    query_tokens: tuple[str, ...] = ()
    bare: bool = False
    crooked: bool = False
    excessive: bool = False


#: The way of a request without prefix and tokens.
STRAIGHT = Way()
#: Maximum bytes of a request line, and segments and parameters of its target.
MAX_LINE, MAX_SEGMENTS, MAX_PARAMETERS = 8190, 64, 64
#: The way of a request with too many of them.
EXCESSIVE = Way(excessive=True)


def is_excessive(target: str) -> bool:
    """Return whether the target of a request has too many segments or parameters."""
    return target.count("/") > MAX_SEGMENTS or target.count("&") >= MAX_PARAMETERS


class Peer(NamedTuple):
    """The other end of a connection. `proxies` are the networks of all trusted proxies if the peer
    is one of them, whose forwarding headers are believed; none for any other peer."""

    address: str
    proxies: Sequence[Network] = ()


def strip(url: URL, base: str, *, members: bool) -> tuple[URL, Way]:
    """Return the URL without prefixes, and what was removed. `base` is `""` or like `/comfy`.

    A path that is not below `base` is unchanged: a reverse proxy may have removed it. Only the
    plain spelling `/t/` counts. Without `members` tokens are not removed.
    """
    path, token, bare = url.raw_path, None, False
    if base and (path == base or path.startswith(f"{base}/")):
        path = path[len(base) :]
        bare = not path
    if members and path.startswith(_TOKEN_SEGMENT):
        token, slash, rest = path[len(_TOKEN_SEGMENT) :].partition("/")
        path, bare = f"/{rest}", not slash
    stripped = path != url.raw_path
    crooked = stripped and (path.startswith("//") or any(map(_is_dots, path.split("/"))))
    if stripped:
        url = url.with_path(path or "/", encoded=True, keep_query=True)
    found: tuple[str, ...] = ()
    if members and "token" in url.query:
        found = tuple(url.query.getall("token"))
        url = url.without_query_params("token")
    return url, Way(token, found, bare, crooked)


def _is_dots(segment: str) -> bool:
    return segment.lower().replace("%2e", ".") in (".", "..")


def may_have_token(target: str) -> bool:
    """Return whether the target of a request may contain a token; absolute URLs count as such."""
    return (
        target.startswith(_TOKEN_SEGMENT)
        or "token" in target
        or "%" in target
        or not target.startswith("/")
    )


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """Return the address of a text that may have a port; an IPv4-mapped one becomes IPv4."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def peer_of(name: str, trusted: Sequence[Network]) -> Peer:
    """Return the peer of a connection from an address, which gets its canonical form."""
    address = parse_address(name)
    if address is None:
        return Peer(name)
    return Peer(str(address), trusted if is_trusted(address, trusted) else ())


def is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    """Return whether an address is that of a reverse proxy that is trusted."""
    return any(address in network for network in trusted)


def is_loopback_address(name: object) -> bool:
    """Return whether the name of a socket is an address of the loopback interface."""
    address = parse_address(str(name[0])) if isinstance(name, tuple) else None
    return address is not None and address.is_loopback


# --- pages ----------------------------------------------------------------------------------------

#: The headers of ComfyUI's `--enable-cors-header`.
_EVERYBODY = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET, DELETE, PUT, OPTIONS, PATCH",
    "Access-Control-Allow-Headers": "Content-Type, Authorization",
    "Access-Control-Allow-Credentials": "true",
}


def differs(host: str, origin: str) -> bool:
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


def refuses(
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
    return differs(host, origin) and is_loopback(host)


def may_be_rebound(host: str, allowed: Collection[str]) -> bool:
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
