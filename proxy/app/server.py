"""The server of the local API: its routes, its application, its listener, and its orderly end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from functools import partial

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.admin import routes as admin_routes
from proxy.admin.metrics import get_open
from proxy.admin.state import ADMIN_LISTENER, state_of
from proxy.admin.state_feed import STATE_FEEDS, StateFeeds
from proxy.api import routes as local_routes
from proxy.api.authenticator import AUTHENTICATOR, Authenticator
from proxy.api.keys import (
    BUDGET,
    JOBS,
    LOOP_TURNS,
    MEMBERS,
    OPTIONS,
    POOLS,
    SUPERVISOR,
    Services,
)
from proxy.api.middleware import Gate
from proxy.api.origins import allow_some
from proxy.api.routes import Route, add_routes
from proxy.api.websocket import SOCKETS, Sockets
from proxy.edge.connections import Connection
from proxy.edge.context import ConnectionLimits, EdgeContext
from proxy.edge.listener import Application, Handle, HttpListener
from proxy.edge.tls import Certificate
from proxy.leader.standby import AmongStandbys
from proxy.runtime import clock
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)


def make_app(services: Services, *, admin: bool = False) -> web.Application:
    """Create the application, or with `admin` that of the admin listener.

    The caller starts and closes the services.
    """
    app = web.Application(client_max_size=services[OPTIONS].max_upload_bytes)
    services.provide(app)
    app[ADMIN_LISTENER] = admin
    app[AUTHENTICATOR] = Authenticator(services)
    feed, supervisor = services[JOBS].feed, services[SUPERVISOR]
    app[STATE_FEEDS] = StateFeeds(services[MEMBERS], feed, supervisor, partial(state_of, app))
    if admin:
        add_routes(app, of_admins())
    else:
        app[SOCKETS] = Sockets(services[SUPERVISOR])
        add_routes(app, of_clients(services))
        allow_some(app, services[OPTIONS].cors_origins)

    async def end_feeds(_: web.Application) -> None:
        app[STATE_FEEDS].end()

    async def close_feeds(_: web.Application) -> None:
        await app[STATE_FEEDS].close()

    app.on_shutdown.append(end_feeds)
    app.on_cleanup.append(close_feeds)
    return app


def _shorten(record: logging.LogRecord) -> bool:
    """Shorten the log record of a client's fault: invalid HTTP, a truncated body, or the like."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    faults = HttpProcessingError | web.RequestPayloadError | ConnectionError | LocalError
    if isinstance(error, faults):
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg, record.args = "bad HTTP of a client: %s", (type(error).__name__,)
        record.exc_info = None
    return True


def server_logger() -> logging.Logger:
    """Return the logger for `web.AppRunner`."""
    logger = logging.getLogger("proxy.app.server")
    logger.addFilter(_shorten)  # adding it again has no effect
    return logger


class Server:
    """Serves the local API, or with `admin` the routes of admins. The caller starts and closes the
    services.

    `stop_timeout` is the maximum duration of `stop` in seconds. Where there are standbys, `among`
    tells the requests that they pass on, and answers once the term is over.
    """

    def __init__(
        self,
        services: Services,
        limits: ConnectionLimits | None = None,
        *,
        stop_timeout: float = 10.0,
        admin: bool = False,
        among: AmongStandbys | None = None,
    ) -> None:
        self._services = services
        self._admin = admin
        self._among = among
        self.app = make_app(services, admin=admin)
        options = services[OPTIONS]
        context = EdgeContext(
            limits or ConnectionLimits(),
            services[BUDGET],
            services[MEMBERS],
            services[SUPERVISOR],
            options.trusted_proxies,
            options.base_path,
            services,
            services[LOOP_TURNS],
            is_standby=None if among is None else among.is_standby,
        )
        self._listener = HttpListener(
            self.app,
            self._gate,
            context,
            logger=server_logger(),
            stop_timeout=stop_timeout,
        )

    def _gate(self, handle: Application) -> Handle:
        authenticator, public = self.app[AUTHENTICATOR], get_open if self._admin else None
        gate = Gate(self.app, self._services, authenticator, handle, public)
        if self._among is None:
            return gate
        return self._among.of_leader(gate, lambda: self._listener.is_retired)

    @property
    def connections(self) -> list[Connection]:
        """The open connections."""
        return self._listener.manager.counted.all()

    @property
    def is_unused(self) -> asyncio.Event:
        """An event that is set while no connection is open."""
        return self._listener.manager.counted.empty

    async def start(
        self, sockets: Sequence[socket.socket], certificate: Certificate | None = None
    ) -> None:
        """Begin to serve what comes to sockets that listen, with a `certificate` by TLS."""
        await self._listener.start(sockets, certificate)
        if not self._admin:
            self._services[POOLS]["connections"] = self._listener.manager.pool

    async def retire(self, *, spent: float = 0.0) -> None:
        """Finish the answers under way, let the engine rest, and close the websockets, before
        `stop`. Among standbys what still comes on a connection is passed on to the next leader."""
        await self._listener.retire(spent=spent, keep_idle=self._among is not None)
        if not self._admin:
            await self._services[JOBS].stop()
            await self.app[SOCKETS].close(self._services[OPTIONS].close_code)

    async def stop(self, *, spent: float = 0.0) -> None:
        """Accept no more, finish the answers under way, and close the websockets.

        All ends within `stop_timeout`, of which `spent` seconds are over.
        """
        began = clock.monotonic()
        await self.retire(spent=spent)
        await self._listener.stop(spent=spent + clock.monotonic() - began)


#: All routes. The last one of the local API matches any path.
ROUTES = (*admin_routes.ROUTES, *local_routes.ROUTES)


def of_clients(services: Services) -> list[Route]:
    """Return the routes of the clients' listener."""
    return [route for route in ROUTES if not (services[OPTIONS].admin_apart and route.apart)]


def of_admins() -> list[Route]:
    """Return the routes of the admin listener."""
    return [route for route in ROUTES if route.apart or f"{route.path}/".startswith("/proxy/")]
