"""The headers of an answer that are the same for all handlers."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web
from multidict import CIMultiDict

from proxy.api import bodies
from proxy.api.keys import MEMBERS, OPTIONS
from proxy.api.origins import allow_all
from proxy.api.requests import connection_of, services_of
from proxy.translate import SCRIPTS_CACHED

_HOUR = 3600
_DAY = 86400
_NEVER_STORED = (".js", ".mjs", ".css")
_PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_FOUND = frozenset({200, 201, 202, 203, 204, 205, 206, 301, 308})
_ELSEWHERE = frozenset({302, 303, 307})
_CREDENTIALS = "Cookie, Authorization, X-API-Key"


def finish(
    request: web.Request,
    response: web.StreamResponse,
    *,
    has_members: bool,
    origins: Collection[str],
) -> None:
    """Set the headers of an answer that are the same for all handlers, as of the setting
    `cors_origins`.

    `Cache-Control` is ComfyUI's. Pages send no referrer to other sites, and none at all if their
    URL has a token; caches must not give one member's answer to another.
    """
    connection, headers = connection_of(request), response.headers
    if connection.is_ending:
        response.force_close()  # tells the client, which could send its next request in vain
    if response.status == 503:
        headers.setdefault("Retry-After", f"{bodies.STORE_WAIT:.0f}")
    prefix = connection.prefix
    cached = cache_control(request.path, response.status)
    if cached is not None:
        headers.setdefault("Cache-Control", cached)
    if prefix.path_token is not None or prefix.query_tokens:
        headers["Referrer-Policy"] = "no-referrer"
    elif headers.get("Content-Type", "").startswith("text/html"):
        headers.setdefault("Referrer-Policy", "same-origin")
    if has_members:
        _make_private(headers)
    if origins:
        if "*" in origins:
            allow_all(response)
        else:
            headers.add("Vary", "Origin")


def _make_private(headers: CIMultiDict[str]) -> None:
    """Tell caches that an answer is for one member."""
    value = headers.get("Cache-Control", "")
    if value.startswith("public"):
        headers["Cache-Control"] = value.replace("public", "private", 1)
    elif value.startswith("no-cache"):
        headers["Cache-Control"] = f"private, {value}"
    headers.add("Vary", _CREDENTIALS)


async def prepare(request: web.Request, response: web.StreamResponse) -> None:
    """Send the headers of an answer from within a handler."""
    services = services_of(request)
    has_members, origins = services[MEMBERS].has_members, services[OPTIONS].cors_origins
    finish(request, response, has_members=has_members, origins=origins)
    await response.prepare(request)


def cache_control(path: str, status: int) -> str | None:
    """Return ComfyUI's `Cache-Control` for the path of a request and the status of its answer."""
    name = path.rpartition("/")[2]
    return _file_cache_control(name, status) if "." in name else None


def _file_cache_control(name: str, status: int) -> str | None:
    if name.endswith(_NEVER_STORED) or (name.startswith("index") and name.endswith(".json")):
        return SCRIPTS_CACHED
    if not name.lower().endswith(_PICTURES):
        return None
    if status == 404:
        return f"public, max-age={_HOUR}"
    if status in _FOUND:
        return f"public, max-age={_DAY}"
    return "no-cache" if status in _ELSEWHERE else None
