"""The local API on an address, from its first connection to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from dataclasses import replace

import structlog
from aiohttp import web

from proxy.api.app import make_app, server_logger
from proxy.api.descriptors import room_for
from proxy.api.guard import AnswerLog, Limits
from proxy.api.prefix import stripping
from proxy.api.services import Services
from proxy.api.watch import Watch

log = structlog.get_logger(__name__)

#: Connections that may wait to be accepted.
BACKLOG = 2048
#: So few connections are worth a line even where nobody has asked for more.
SCANTY = 1000
#: Seconds of the time to stop that are kept, at most, for what was cut short.
GOODBYE = 1.0


class Server:
    """Serves the local API, or what else `make` makes. Whoever makes it starts and closes the
    services.

    `stop_timeout` bounds `stop`, in seconds.
    """

    def __init__(
        self,
        services: Services,
        limits: Limits | None = None,
        *,
        stop_timeout: float = 10.0,
        make: Callable[[Services], web.Application] = make_app,
    ) -> None:
        self._services = services
        self._limits = limits or Limits()
        self._stop_timeout = stop_timeout
        self._runner = web.AppRunner(
            make(services),
            access_log=logging.getLogger(__name__),
            access_log_class=AnswerLog,
            logger=server_logger(),
            auto_decompress=False,
            max_line_size=self._limits.header_bytes,
            max_field_size=self._limits.header_bytes,
            shutdown_timeout=0.1,
        )
        self._watch: Watch | None = None
        self._watching: asyncio.Task[None] | None = None
        self._listening: asyncio.Server | None = None

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
            tell("fewer_connections", limit=most, reason="the limit of open files")
        watch = Watch(replace(self._limits, max_connections=most), loop.time)
        await self._runner.setup()
        inner = self._runner.server
        assert inner is not None  # noqa: S101
        inner.request_factory = stripping(
            inner.request_factory,
            self._services.base_path,
            lambda: self._services.members.has_members,
        )
        self._listening = await loop.create_server(
            lambda: watch.guard(inner()), host, port, backlog=BACKLOG, ssl=context
        )
        self._watch = watch
        self._watching = asyncio.create_task(watch.run(), name="watch over connections")
        chosen = self._listening.sockets[0].getsockname()[1]
        scheme = "http" if context is None else "https"
        return f"{scheme}://[{host}]:{chosen}" if ":" in host else f"{scheme}://{host}:{chosen}"

    async def stop(self) -> None:
        """Take nothing more, finish the answers under way, close the websockets with 1001.

        Answers that take too long become 503, so that all is done within `stop_timeout`.
        """
        if self._listening is not None:
            self._listening.close()
        if self._watch is not None:
            await self._end_connections(self._watch)
        if self._watching is not None:
            self._watching.cancel()
        await self._runner.cleanup()

    async def _end_connections(self, watch: Watch) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._stop_timeout
        margin = min(GOODBYE, self._stop_timeout / 4)
        await asyncio.sleep(0)  # requests that have been read get to their handlers
        goodbyes = asyncio.create_task(self._runner.shutdown())
        if not await watch.settle(end - loop.time() - margin):
            log.warning("requests_cut_short", count=watch.cancel())
            await watch.settle(margin / 2)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end - margin / 2):
                await goodbyes
        await watch.cut(end - loop.time())
