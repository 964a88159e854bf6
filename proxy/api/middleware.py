"""What every request passes before its route is resolved and after its handler.

Authentication, origin check, limits, errors, headers, metrics and the log are one function around
aiohttp's application: aiohttp's own middlewares cost a coroutine each and begin after the route is
resolved.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from proxy.api import bodies
from proxy.api.answer_headers import finish
from proxy.api.bodies import Handler
from proxy.api.error_answers import failed, interrupted, not_stored, unknown
from proxy.api.holding import LargeBody, forget_frames
from proxy.api.keys import ACCOUNTING, MEMBERS, OPTIONS
from proxy.api.origins import is_foreign, is_rebindable
from proxy.api.requests import address_of, connection_of, services_of, site_of
from proxy.edge.aiohttp_internals import has_route, set_route
from proxy.logging import RequestContext, SummedLines, begin_request
from proxy.members.accounting import LIMIT_REACHED
from proxy.runtime import clock
from proxy.sharing.owners import act_for
from proxy.storage.database import OutcomeUnknownError, StorageError
from proxy.translate.errors import LocalError

if TYPE_CHECKING:
    from proxy.api.authenticator import Authenticator
    from proxy.api.keys import Services
    from proxy.edge.connections import Connection
    from proxy.members.audit import Value

log = structlog.get_logger(__name__)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: Health checks, which do not count as requests of a member.
_UNLIMITED = frozenset({"/healthz", "/leader", "/readyz"})

#: Maximum number of values of `Host` of which it is known whether they are allowed.
_MAX_CACHED_HOSTS = 64

_REALM = 'realm="comfy-cloud-proxy"'

_ROOT_LOGGER = logging.getLogger()


def record_action(request: web.Request, action: str, **about: Value) -> None:
    """Record an action of the request's member."""
    connection, address = connection_of(request), address_of(request)
    member = connection.admission.member if connection.admission is not None else ""
    audit = services_of(request)[ACCOUNTING].audit
    audit.record(action, member=member, address=address, **about)


def challenge(request: web.Request) -> str:
    """Return the `WWW-Authenticate` of a 401; for pages it never makes a browser ask for a
    password."""
    if "Origin" in request.headers or "Sec-Fetch-Mode" in request.headers:
        return f"Bearer {_REALM}"
    return f'Bearer {_REALM}, Basic {_REALM}, charset="UTF-8"'


class Gate:
    """Passes requests to `handle`, aiohttp's application, and handles errors and answers.

    `public` returns the answer to requests without authentication, and `None` for all others.
    """

    def __init__(
        self,
        app: web.Application,
        services: Services,
        authenticator: Authenticator,
        handle: Handler,
        public: Callable[[web.Request], Awaitable[web.StreamResponse | None]] | None = None,
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._handle = handle
        self._public = public
        self._members = services[MEMBERS]
        self._origins = frozenset(services[OPTIONS].cors_origins)
        self._preflights = bool(services[OPTIONS].cors_origins) and "*" not in self._origins
        self._may_be_rebound = lru_cache(_MAX_CACHED_HOSTS)(
            partial(is_rebindable, allowed=services[OPTIONS].allowed_hosts)
        )
        self._limiter = services[ACCOUNTING].limiter
        self._lines = SummedLines()
        self._metrics = services[ACCOUNTING].metrics

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        connection = connection_of(request)
        began = connection.driver.turns.now
        context = begin_request()
        act_for(connection.sender)
        try:
            answer = await self._answer(request, connection, context)
        except web.HTTPException as error:
            self._count(request, connection, error.status, began)
            if not error.prepared:
                finish(request, error, has_members=self._members.has_members, origins=self._origins)
            raise
        except asyncio.CancelledError:
            task = connection.task
            if not connection.is_ending or task is None:
                raise
            task.uncancel()
            answer = interrupted(request)
        finally:
            if connection.allocations:
                connection.release()
            if (lost := request.content.exception()) is not None:
                forget_frames(lost)
        self._count(request, connection, answer.status, began)
        if not answer.prepared:
            finish(request, answer, has_members=self._members.has_members, origins=self._origins)
        if _ROOT_LOGGER.level <= logging.DEBUG:
            _log_handled(request, answer.status, clock.monotonic() - began)
        return answer

    async def _answer(
        self, request: web.Request, connection: Connection, context: RequestContext
    ) -> web.StreamResponse:
        if connection.prefix.refusal is not None:
            return bodies.refusal(connection.prefix.refusal)
        headers = request.headers
        if self._preflights:
            await self._resolve(request)
        if ("Origin" in headers or "Sec-Fetch-Site" in headers) and is_foreign(
            self._origins, headers, site_of(request).host, request.method
        ):
            return bodies.empty(403)
        if request.method == "OPTIONS":
            return await self._answer_options(request)
        try:
            if (
                connection.on_loopback
                and not self._members.has_members
                and self._may_be_rebound(headers.get("Host", ""))
            ):
                raise _unknown_host()
            if self._public is not None:
                answer = await self._public(request)
                if answer is not None:
                    return answer
            if self._members.has_members:
                await self._authenticator.catch_up(request)
            admission = self._authenticator.authenticate(request)
            if admission is not None:
                context.member, context.token_id = admission.member, admission.shown
                if connection.admit(admission):
                    act_for(connection.sender)
                    await connection.driver.give_way()  # and wait for a turn of the member
                if admission.token is not None and request.path not in _UNLIMITED:
                    self._limiter.request(admission.member)
            answer = await self._handle(request)
            body = getattr(answer, "body", None)
            if type(body) is LargeBody:  # an abstract class, whose instances are found slowly
                body.hold(request)
            return answer
        except Exception as error:  # noqa: BLE001 (each has an answer)
            return self._of_error(request, context, error)

    async def _answer_options(self, request: web.Request) -> web.StreamResponse:
        """Answer a preflight request of a browser; any other has ComfyUI's empty answer."""
        if self._preflights and "Access-Control-Request-Method" in request.headers:
            return await self._handle(request)
        return bodies.empty()

    def _of_error(
        self, request: web.Request, context: RequestContext, error: Exception
    ) -> web.StreamResponse:
        """Return the answer of an error of a handler; raise again an answer that it has raised."""
        if isinstance(error, web.HTTPException):
            return unknown(request, error)
        match error:
            case LocalError():
                answer = self._refused(request, context, error)
            case OutcomeUnknownError():
                log.error("outcome_lost", path=request.path, error=str(error))
                if request.transport is not None:
                    request.transport.abort()  # no answer would be right for certain
                answer = bodies.empty(499)
            case StorageError():
                answer = not_stored(request, error)
            case _ if request.transport is None or request.transport.is_closing():
                log.debug("client_disconnected", path=request.path)
                answer = bodies.empty(499)
            case _:
                log.exception("request_failed", path=request.path, error=type(error).__name__)
                answer = failed(context)
        forget_frames(error)
        return answer

    def _refused(
        self, request: web.Request, context: RequestContext, error: LocalError
    ) -> web.Response:
        """Return the answer of a refusal."""
        if error.type == LIMIT_REACHED and context.member is not None:
            self._metrics.limit_refusals.labels(context.member, error.details).inc()
        answer = bodies.refusal(error)
        write_log = log.warning if answer.status >= 500 else log.info
        more = self._lines.due(error.type) if context.member is None else {}
        if more is not None:
            write_log("refused", path=request.path, status=answer.status, error=error.type, **more)
        if error.kind == "unauthenticated":
            answer.headers["WWW-Authenticate"] = challenge(request)
        return answer

    async def _resolve(self, request: web.Request) -> None:
        """Resolve the route, for answers before aiohttp does."""
        match_info = await self._app.router.resolve(request)
        match_info.add_app(self._app)
        set_route(request, match_info)

    def _count(
        self, request: web.Request, connection: Connection, status: int, began: float
    ) -> None:
        resource = request.match_info.route.resource if has_route(request) else None
        admission = connection.admission
        self._metrics.answered(
            admission.member if admission is not None else "",
            request.method if request.method in _METHODS else "other",
            "other" if resource is None else resource.canonical,
            status,
            clock.monotonic() - began,
        )


def _unknown_host() -> LocalError:
    return LocalError(
        "host_not_allowed",
        "This server does not answer to the host name of this request; use localhost, or add the "
        "name to the setting `allowed_hosts`.",
        kind="forbidden",
    )


def _log_handled(request: web.Request, status: int, seconds: float) -> None:
    log.debug(
        "request_handled",
        method=request.method,
        path=request.path,
        status=status,
        ms=round(1000 * seconds, 1),
    )
