"""The local API on an address, from its first connection to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import cast

import structlog
from aiohttp import web

from proxy.api.addressing import stripping
from proxy.api.admin.metrics import get_open
from proxy.api.app import make_admin_app, make_app, server_logger
from proxy.api.authenticator import Authenticator
from proxy.api.connections import Connection, ConnectionManager, Limits, room_for
from proxy.api.middleware import Gate
from proxy.api.services import Services

log = structlog.get_logger(__name__)

#: Connections that may wait to be accepted.
BACKLOG = 2048
#: So few connections are worth a line even where nobody has asked for more.
SCANTY = 1000
#: Seconds after which aiohttp ends silent connections; here the `ConnectionManager` does.
NEVER = 10.0 * 365 * 24 * 3600
#: Seconds of the time to stop that are kept, at most, for what was cut short.
GOODBYE = 1.0


class Server:
    """Serves the local API, or with `admin` what is for admins. Whoever makes it starts and closes
    the services.

    `stop_timeout` bounds `stop`, in seconds.
    """

    def __init__(
        self,
        services: Services,
        limits: Limits | None = None,
        *,
        stop_timeout: float = 10.0,
        admin: bool = False,
    ) -> None:
        self._services = services
        self._limits = limits or Limits()
        self._stop_timeout = stop_timeout
        self._admin = admin
        self.app = make_admin_app(services) if admin else make_app(services)
        self._runner = web.AppRunner(self.app, shutdown_timeout=0.1)
        self._connections: ConnectionManager | None = None
        self._watching: asyncio.Task[None] | None = None
        self._listening: asyncio.Server | None = None

    @property
    def connections(self) -> list[Connection]:
        """Those that are open."""
        return list(self._connections.connections) if self._connections is not None else []

    async def start(self, host: str, port: int, *, context: ssl.SSLContext | None = None) -> str:
        """Listen; returns `http://HOST:PORT`, with the port that the system chose for 0.

        With a `context` it is `https`.

        Raises `OSError` when the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        most = room_for(self._limits.max_connections)
        if most < self._limits.max_connections:
            asked = self._limits.max_connections != Limits().max_connections
            tell = log.info if asked or most < SCANTY else log.debug
            tell("connection_limit_lowered", limit=most, reason="the limit of open files")
        await self._runner.setup()
        services = self._services
        authenticator = Authenticator(
            services.members,
            base_path=services.base_path,
            cors_origins=services.cors_origins,
            on_wrong=services.books.wrong_token,
        )
        connections = ConnectionManager(
            replace(self._limits, max_connections=most),
            self._services,
            authenticator,
        )
        self._services.members.subscribe(connections.review)
        self._listening = await loop.create_server(
            self._protocols(connections), host, port, backlog=BACKLOG, ssl=context
        )
        self._connections = connections
        self._watching = asyncio.create_task(connections.run(), name="watch over connections")
        chosen = self._listening.sockets[0].getsockname()[1]
        scheme = "http" if context is None else "https"
        return f"{scheme}://[{host}]:{chosen}" if ":" in host else f"{scheme}://{host}:{chosen}"

    def _protocols(self, connections: ConnectionManager) -> Callable[[], Connection]:
        """What makes the protocol of each new connection."""
        inner = self._runner.server
        assert inner is not None  # noqa: S101
        services = self._services
        inner.request_factory = stripping(
            inner.request_factory, services.base_path, services.members
        )
        inner.request_handler = cast(
            "Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]",
            Gate(
                self.app,
                services,
                connections.authenticator,
                inner.request_handler,
                public=get_open if self._admin else None,
            ),
        )
        return partial(
            Connection,
            connections,
            inner,
            access_log=None,
            logger=server_logger(),
            auto_decompress=False,
            keepalive_timeout=NEVER,
            max_line_size=self._limits.header_bytes,
            max_field_size=self._limits.header_bytes,
        )

    async def stop(self) -> None:
        """Take nothing more, finish the answers under way, close the websockets with 1001.

        Answers that take too long become 503, so that all is done within `stop_timeout`.
        """
        if self._listening is not None:
            self._listening.close()
        if self._connections is not None:
            await self._end_connections(self._connections)
        if self._watching is not None:
            self._watching.cancel()
        await self._runner.cleanup()

    async def _end_connections(self, connections: ConnectionManager) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._stop_timeout
        margin = min(GOODBYE, self._stop_timeout / 4)
        await asyncio.sleep(0)  # requests that have been read get to their handlers
        goodbyes = asyncio.create_task(self._runner.shutdown())
        if not await connections.settle(end - loop.time() - margin):
            log.warning("requests_cancelled", count=connections.cancel())
            await connections.settle(margin / 2)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end - margin / 2):
                await goodbyes
        await connections.close(end - loop.time())
