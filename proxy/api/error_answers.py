"""Answers to requests that no handler has answered: without a route, and after errors."""

from __future__ import annotations

import structlog
from aiohttp import web

from proxy.api import bodies
from proxy.edge.aiohttp_internals import has_route
from proxy.logging import RequestContext
from proxy.storage.database import BusyError, StorageError, TooManyUnitsError, ValueRefusedError
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: What is told to clients of another API of Comfy, which has these routes.
_API_V2 = ("/api/v2/jobs", "/api/v2/assets")
_NO_API_V2 = (
    "405: Method Not Allowed. This server answers like a ComfyUI and has no API v2. Put Comfy's "
    "own server of API v2 in front of it (pip install comfy-api-proxy, then comfy-api-proxy run "
    "--comfyui with the address of this server), and use that server's address, "
    "http://127.0.0.1:8189."
)


def interrupted(request: web.Request) -> web.Response:
    """Return the answer to a request that the end of the process has cancelled."""
    log.warning("response_truncated", path=request.path)
    return bodies.refusal(
        LocalError(
            "stopping",
            "The proxy stopped before it finished this request. If it submitted a job, check "
            "/history and /queue after the restart before you submit it again.",
            kind="unavailable",
            retry_after=5,
        )
    )


def failed(context: RequestContext) -> web.Response:
    """Return the answer after an error that should not be."""
    return bodies.refusal(
        LocalError(
            "internal_error",
            "The proxy could not answer this request; the log has the reason under the request id.",
            kind="internal",
            extra_info={"request_id": context.id},
        )
    )


def not_stored(request: web.Request, error: StorageError) -> web.Response:
    """Return the answer where the database could not be used."""
    if isinstance(error, TooManyUnitsError):
        log.info("request_shed", path=request.path, reason=str(error))
        refused = LocalError(
            "too_many_requests",
            "Too many of your requests wait for the database. Nothing was changed; wait for the "
            "answers of the others, and try again.",
            kind="rate_limited",
            retry_after=bodies.STORE_WAIT,
        )
    elif isinstance(error, BusyError):
        log.warning("request_shed", path=request.path, reason=str(error))
        refused = LocalError(
            "busy",
            "The proxy is overloaded. Nothing was changed; try again in a few seconds.",
            kind="unavailable",
            retry_after=bodies.STORE_WAIT,
        )
    elif isinstance(error, ValueRefusedError):
        log.warning("request_value_refused", path=request.path, reason=str(error))
        refused = LocalError(
            "value_refused",
            "The database cannot store a name, a text or a number in this request. Nothing was "
            "changed; send a shorter name or a smaller number.",
        )
    else:
        refused = LocalError(
            "store_unavailable",
            "The proxy cannot use its disk or its database; the log has the reason. Nothing was "
            "changed; try again once it is fixed.",
            kind="unavailable",
            retry_after=bodies.STORE_WAIT,
        )
    return bodies.refusal(refused)


def unknown(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    """Return the answer to a request without a route; raise again what a handler has raised.

    ComfyUI's static files at `/` accept every GET, so that only other methods are not allowed.
    """
    if not has_route(request) or request.match_info.http_exception is not error:
        raise error
    if f"{request.path}/".startswith("/internal/"):
        if isinstance(error, web.HTTPMethodNotAllowed):
            raise error
        return bodies.text("404: Not Found", 404)
    if request.method in ("GET", "HEAD"):
        return web.StreamResponse(status=404)
    allowed = {"GET", "HEAD"}
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed |= error.allowed_methods
    text = _NO_API_V2 if request.path.startswith(_API_V2) else None
    raise web.HTTPMethodNotAllowed(request.method, sorted(allowed), text=text)
