"""The server of the local API: its application, its listener, and its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec.structs import replace

from proxy.admin.metrics import get_open
from proxy.admin.state import ADMIN_LISTENER, state_of
from proxy.admin.state_feed import STATE_FEEDS, StateFeeds
from proxy.api import Services
from proxy.api.addressing import MAX_LINE, allow_some
from proxy.api.authenticator import AUTHENTICATOR, Authenticator
from proxy.api.connection_manager import ConnectionLimits, ConnectionManager, ManagedConnection
from proxy.api.connections import Connection, begun, driven
from proxy.api.keys import provide
from proxy.api.middleware import Gate
from proxy.api.routes import add_routes
from proxy.api.tls import Certificate, TlsListener
from proxy.api.websocket import SOCKETS, Sockets
from proxy.app.routes import of_admins, of_clients
from proxy.edge.input import InputProtocol, ReadBuffer
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)


def make_app(services: Services, *, admin: bool = False) -> web.Application:
    """Create the application, or with `admin` that of the admin listener.

    The caller starts and closes the services.
    """
    app = web.Application(client_max_size=services.options.max_upload_bytes)
    provide(app, services)
    app[ADMIN_LISTENER] = admin
    app[AUTHENTICATOR] = Authenticator(services)
    app[STATE_FEEDS] = StateFeeds(services.bus, services.supervisor, partial(state_of, app))
    if admin:
        add_routes(app, of_admins())
    else:
        app[SOCKETS] = Sockets(services.supervisor, services.options.ping_interval)
        add_routes(app, of_clients(services))
        allow_some(app, services.options.cors_origins)

    async def close_sockets(_: web.Application) -> None:
        if not admin:
            await app[SOCKETS].close(services.options.close_code)
        app[STATE_FEEDS].end()

    app.on_shutdown.append(close_sockets)
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


#: Connections that may wait to be accepted.
BACKLOG = 2048
#: A lower limit of connections is logged even if the setting was not changed.
FEW_CONNECTIONS = 1000
#: Seconds after which aiohttp closes idle connections: never, since `ConnectionManager` does.
NEVER = 10.0 * 365 * 24 * 3600
#: Maximum seconds of the time to stop that are reserved for cancelled requests.
MAX_CANCEL_TIME = 1.0
#: File descriptors reserved for files, the database and connections to the cloud, at most half.
RESERVED_FILES = 256


def room_for(connections: int) -> int:
    """Raise the process's limit of open files, and return how many connections fit into it.

    Without free descriptors the process could neither write to the database nor reach the cloud, so
    that it accepts fewer clients instead.
    """
    if sys.platform == "win32":
        return connections
    import resource

    wanted = connections + RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError):  # macOS allows fewer than it reports
            pass
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, soft - min(RESERVED_FILES, soft // 2)))


class Server:
    """Serves the local API, or with `admin` the routes of admins. The caller starts and closes the
    services.

    `stop_timeout` is the maximum duration of `stop` in seconds.
    """

    def __init__(
        self,
        services: Services,
        limits: ConnectionLimits | None = None,
        *,
        stop_timeout: float = 10.0,
        admin: bool = False,
    ) -> None:
        self._services = services
        self._limits = limits or ConnectionLimits()
        self._stop_timeout = stop_timeout
        self._admin = admin
        self.app = make_app(services, admin=admin)
        self._runner = web.AppRunner(self.app, shutdown_timeout=0.1)
        self._connections: ConnectionManager | None = None
        self._watching: asyncio.Task[None] | None = None
        self._listening: asyncio.Server | TlsListener | None = None

    @property
    def connections(self) -> list[ManagedConnection]:
        """The open connections."""
        return list(self._connections.connections) if self._connections is not None else []

    async def start(
        self, hosts: str | Sequence[str], port: int, *, certificate: Certificate | None = None
    ) -> str:
        """Begin to listen, and return `http://HOST:PORT` of the first host; port 0 is chosen by the
        system.

        With a `certificate` it is `https`. Raises `OSError` if the address cannot be used.
        """
        max_connections = room_for(self._limits.max_connections)
        if max_connections < self._limits.max_connections:
            asked = self._limits.max_connections != ConnectionLimits().max_connections
            write_log = log.info if asked or max_connections < FEW_CONNECTIONS else log.debug
            write_log(
                "connection_limit_lowered", limit=max_connections, reason="the limit of open files"
            )
        await self._runner.setup()
        connections = ConnectionManager(
            replace(self._limits, max_connections=max_connections), self._services
        )
        if not self._admin:
            self._services.pools["connections"] = connections.pool
        self._services.members.subscribe(connections.review)
        hosts = [hosts] if isinstance(hosts, str) else hosts
        protocols = self._protocols(connections)
        self._listening = await self._listen(protocols, hosts, port, certificate)
        self._connections = connections
        keep = self._services.supervisor.keep
        self._watching = keep(connections.run, "watch over connections")
        host, chosen = hosts[0], self._listening.sockets[0].getsockname()[1]
        scheme = "http" if certificate is None else "https"
        return f"{scheme}://[{host}]:{chosen}" if ":" in host else f"{scheme}://{host}:{chosen}"

    async def _listen(
        self,
        make: Callable[[], InputProtocol[Connection]],
        hosts: Sequence[str],
        port: int,
        certificate: Certificate | None,
    ) -> asyncio.Server | TlsListener:
        if certificate is None:
            loop = asyncio.get_running_loop()
            return await loop.create_server(make, hosts, port, backlog=BACKLOG)
        listener = TlsListener(make, certificate.context, self._services.supervisor.failed)
        await listener.start(hosts, port, backlog=BACKLOG)
        return listener

    def _protocols(self, connections: ConnectionManager) -> Callable[[], InputProtocol[Connection]]:
        """Return the factory of the protocol of each new connection."""
        inner = self._runner.server
        assert inner is not None  # noqa: S101
        services = self._services
        inner.request_factory = partial(begun, inner.request_factory)
        inner.request_handler = partial(
            driven,
            Gate(
                self.app,
                services,
                self.app[AUTHENTICATOR],
                inner.request_handler,
                public=get_open if self._admin else None,
            ),
        )
        make = partial(
            Connection,
            connections,
            inner,
            access_log=None,
            logger=server_logger(),
            auto_decompress=False,
            keepalive_timeout=NEVER,
            max_line_size=min(MAX_LINE, self._limits.header_bytes),
            max_field_size=self._limits.header_bytes,
        )
        buffer = ReadBuffer()
        return lambda: InputProtocol(make(), buffer)

    async def stop(self, *, spent: float = 0.0) -> None:
        """Stop listening, finish the answers under way, and close the websockets.

        Requests that take too long are answered with 503, so that all ends within `stop_timeout`,
        of which `spent` seconds are over.
        """
        self._stop_timeout = max(0.1, self._stop_timeout - spent)
        if self._listening is not None:
            self._listening.close()
        if self._connections is not None:
            await self._end_connections(self._connections)
        if self._watching is not None:
            self._watching.cancel()
        if isinstance(self._listening, TlsListener):
            await self._listening.wait_closed()
        await self._runner.cleanup()

    async def _end_connections(self, connections: ConnectionManager) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._stop_timeout
        margin = min(MAX_CANCEL_TIME, self._stop_timeout / 4)
        await asyncio.sleep(0)  # let received requests reach their handlers
        closing = asyncio.create_task(self._runner.shutdown())
        if not await connections.drain(end - loop.time() - margin):
            log.warning("requests_cancelled", count=connections.cancel())
            await connections.drain(margin / 2)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end - margin / 2):
                await closing
        await connections.close(end - loop.time())
