"""What every request passes: a request id for the log, the origin check, errors, cache headers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware
from structlog.contextvars import bind_contextvars

from proxy.api import answers, compression
from proxy.api.access import DOOR
from proxy.api.connections import connection_of
from proxy.api.origin import OriginCheck
from proxy.metrics import Metrics
from proxy.store.base import StoreError
from proxy.translate.errors import LocalError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger(__name__)

MEMBER = web.RequestKey("member", str)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_HOUR = 3600
_DAY = 86400
_NEVER_STORED = (".js", ".mjs", ".css")
_PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_FOUND = frozenset({200, 201, 202, 203, 204, 205, 206, 301, 308})
_ELSEWHERE = frozenset({302, 303, 307})


def cache_control(path: str, status: int) -> str | None:
    """The `Cache-Control` of ComfyUI for the path of a request and the status of its answer."""
    name = path.rpartition("/")[2]
    if name.endswith(_NEVER_STORED) or (name.startswith("index") and name.endswith(".json")):
        return "no-store"
    if not name.lower().endswith(_PICTURES):
        return None
    if status == 404:
        return f"public, max-age={_HOUR}"
    if status in _FOUND:
        return f"public, max-age={_DAY}"
    return "no-cache" if status in _ELSEWHERE else None


def gate(
    cors_origins: Iterable[str] = (), *, compress: bool = False, metrics: Metrics | None = None
) -> Middleware:
    """The middleware. Requests from pages of `cors_origins` are spared the origin check.

    With `compress` JSON and text are packed for clients that can unpack them.
    """
    check = OriginCheck(cors_origins)
    count = partial(_count, metrics or Metrics())

    @web.middleware
    async def pass_through(request: web.Request, handler: Handler) -> web.StreamResponse:
        bind_contextvars(request_id=secrets.token_hex(6))
        began = time.perf_counter()
        caller = request.app[DOOR].identify(request)
        if check.refuses(request.headers, host=caller.host):
            answer: web.StreamResponse = answers.empty(403)
        elif request.method == "OPTIONS":
            answer = answers.empty()
        else:
            try:
                answer = await _guarded(request, handler)
            except web.HTTPException as error:
                count(request, error.status, began)
                raise
        count(request, answer.status, began)
        if not answer.prepared:
            cached = cache_control(request.path, answer.status)
            if cached is not None:
                answer.headers.setdefault("Cache-Control", cached)
        if compress:
            compression.pack(request, answer)
        log.debug(
            "request",
            method=request.method,
            path=request.path,
            status=answer.status,
            ms=round(1000 * (time.perf_counter() - began), 1),
        )
        return answer

    return pass_through


def _count(metrics: Metrics, request: web.Request, status: int, began: float) -> None:
    resource = request.match_info.route.resource
    metrics.answered(
        request.get(MEMBER, ""),
        request.method if request.method in _METHODS else "other",
        "other" if resource is None else resource.canonical,
        status,
        time.perf_counter() - began,
    )


async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer for the handler when the server stops."""
    connection = connection_of(request)
    connection.task = task = asyncio.current_task()
    try:
        return await _answer(request, handler)
    except asyncio.CancelledError:
        if not connection.cancelled or task is None:
            raise
        task.uncancel()
        log.warning("cut_short", path=request.path)
        return answers.refusal(
            LocalError(
                503,
                "stopping",
                "The proxy was stopped before this request was done. If it was a job, look into "
                "/history and /queue when the proxy runs again, before you submit it again.",
                headers={"Retry-After": "5"},
            )
        )


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        admission = request.app[DOOR].admit(request)
        if admission is not None:
            request[MEMBER] = admission.member
            connection = connection_of(request)
            connection.keeper.admit(connection, admission)
        unmatched = request.match_info.http_exception
        if unmatched is not None:
            return _unknown(request, unmatched)
        return await handler(request)
    except LocalError as error:
        tell = log.warning if error.status >= 500 else log.info
        tell("refused", path=request.path, status=error.status, error=error.type)
        return answers.refusal(error)
    except StoreError as error:
        log.error("store_unavailable", path=request.path, error=str(error))
        return answers.refusal(
            LocalError(
                503,
                "store_unavailable",
                "The proxy cannot use its data folder; free or repair the disk, then try again.",
            )
        )
    except web.HTTPException:
        raise
    except Exception as error:
        if _client_left(request):
            log.debug("client_left", path=request.path)
            return answers.empty(499)
        log.exception("request_failed", path=request.path, error=type(error).__name__)
        return answers.refusal(
            LocalError(
                500,
                "internal_error",
                "The proxy could not answer this request; its log says why, under the request id.",
                extra_info=structlog.contextvars.get_contextvars(),
            )
        )


def _client_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _unknown(request: web.Request, unmatched: web.HTTPException) -> web.StreamResponse:
    """ComfyUI's static files at `/` take every GET, so that only other methods are not allowed."""
    if f"{request.path}/".startswith("/internal/"):
        if isinstance(unmatched, web.HTTPMethodNotAllowed):
            raise unmatched
        return answers.text("404: Not Found", 404)
    if request.method in ("GET", "HEAD"):
        return web.StreamResponse(status=404)
    allowed = {"GET", "HEAD"}
    if isinstance(unmatched, web.HTTPMethodNotAllowed):
        allowed |= unmatched.allowed_methods
    raise web.HTTPMethodNotAllowed(request.method, sorted(allowed))
