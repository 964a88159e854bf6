"""A listener: it accepts connections, passes their requests on, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, cast

import structlog
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from proxy.edge.accepting import Acceptor
from proxy.edge.addressing import MAX_LINE
from proxy.edge.aiohttp_internals import intercept
from proxy.edge.connection_manager import ConnectionManager
from proxy.edge.connections import Connection, begun, driven
from proxy.edge.context import ConnectionLimits, EdgeContext
from proxy.edge.input import READ, InputProtocol
from proxy.edge.tls import Certificate

log = structlog.get_logger(__name__)

#: A handler of requests.
Handle = Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]
#: aiohttp's application as a handler.
Application = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: A lower limit of connections is logged even if the setting was not changed.
FEW_CONNECTIONS = 1000
#: Seconds after which aiohttp closes idle connections if the setting is 0.
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


def _fitting(connections: int) -> int:
    """Return how many connections fit into the limit of open files; log it if that is fewer."""
    limit = room_for(connections)
    if limit < connections:
        asked = connections != ConnectionLimits().max_connections
        write_log = log.info if asked or limit < FEW_CONNECTIONS else log.debug
        write_log("connection_limit_lowered", limit=limit, reason="the limit of open files")
    return limit


def _limit_unread(sockets: Sequence[socket.socket], timeout: float) -> None:
    """Let the system close connections whose client reads nothing for `timeout` seconds.

    Those that are accepted inherit it. Only Linux can.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        for listening in sockets:
            option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            listening.setsockopt(*option, round(1000 * timeout))


def address_of(sockets: Sequence[socket.socket], host: str, *, tls: bool) -> str:
    """Return `http://HOST:PORT` of sockets that listen, or `https` with TLS."""
    scheme, port = "https" if tls else "http", sockets[0].getsockname()[1]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def _pending(tasks: set[asyncio.Task[Any]], seconds: float) -> set[asyncio.Task[Any]]:
    """Wait up to so many seconds for tasks, and return those that have not ended."""
    if not tasks:
        return tasks
    _, pending = await asyncio.wait(tasks, timeout=max(0.0, seconds))
    return pending


class SentAnswers(AbstractAccessLogger):
    """Tells connections that an answer was sent, or cannot be because its client disconnected."""

    __slots__ = ()

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Note the end of an answer; aiohttp calls this."""
        connection: Any = request.protocol
        connection.answered()


class HttpListener:
    """Serves an application, whose requests pass `gate` first.

    `gate` gets the application as a handler and returns the handler of all requests. `logger` is
    for clients' faults. `stop_timeout` is the maximum duration of `stop` in seconds.
    """

    def __init__(
        self,
        app: web.Application,
        gate: Callable[[Application], Handle],
        context: EdgeContext,
        *,
        logger: logging.Logger,
        stop_timeout: float = 10.0,
    ) -> None:
        self._gate = gate
        self._context = context
        self._logger = logger
        self._stop_timeout = stop_timeout
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        #: All connections.
        self.manager = ConnectionManager(context, _fitting(context.limits.max_connections))
        self._acceptor: Acceptor | None = None
        #: Whether the listener is about to stop: what still comes is for another one.
        self.is_retired = False

    async def start(
        self, sockets: Sequence[socket.socket], certificate: Certificate | None = None
    ) -> None:
        """Begin to accept what comes to sockets that listen, which stay open; with a `certificate`
        by TLS."""
        if self._acceptor is None:
            await self._runner.setup()
            self._context.members.subscribe(self.manager.review)
            tls = None if certificate is None else certificate.context
            self._acceptor = Acceptor(self._protocols(), tls, self._context.supervisor)
        _limit_unread(sockets, self._context.limits.write_timeout)
        self._acceptor.start(sockets)

    def pause(self) -> None:
        """Accept no connection until the next `start`; those that are open go on."""
        if self._acceptor is not None:
            self._acceptor.stop()

    def _protocols(self) -> Callable[[], InputProtocol]:
        """Return the factory of the protocols of new connections."""
        inner, limits = self._runner.server, self._context.limits
        assert inner is not None  # noqa: S101
        handle = self._gate(cast("Application", inner.request_handler))
        intercept(inner, begun, driven(handle))
        buffer = memoryview(bytearray(READ))
        make = partial(
            Connection,
            self._context,
            self.manager.counted,
            inner,
            access_log=self._logger,
            access_log_class=SentAnswers,
            logger=self._logger,
            auto_decompress=False,
            keepalive_timeout=limits.idle_timeout or NEVER,
            max_line_size=min(MAX_LINE, limits.header_bytes),
            max_field_size=limits.header_bytes,
        )
        return lambda: InputProtocol(make(), buffer)

    async def retire(self, *, spent: float = 0.0, keep_idle: bool) -> None:
        """Accept no more, and finish the answers under way. With `keep_idle` idle connections stay
        until `stop`, since a reverse proxy may be sending a request on one.

        Requests that take too long are answered with 503, so that all ends within `stop_timeout`,
        of which `spent` seconds are over.
        """
        if self._acceptor is not None:
            self._acceptor.stop()
            await self._finish(self._left(spent), keep_idle=keep_idle)

    async def stop(self, *, spent: float = 0.0) -> None:
        """Accept no more, finish the answers under way, and close all connections, in the same
        time."""
        if self._acceptor is not None:
            self._acceptor.stop()
            end = asyncio.get_running_loop().time() + self._left(spent)
            await self._finish(self._left(spent))
            await self.manager.close(end - asyncio.get_running_loop().time())
        await self._runner.cleanup()

    def _left(self, spent: float) -> float:
        return max(0.1, self._stop_timeout - spent)

    async def _finish(self, timeout: float, *, keep_idle: bool = False) -> None:
        loop = asyncio.get_running_loop()
        end, margin = loop.time() + timeout, min(MAX_CANCEL_TIME, timeout / 4)
        await asyncio.sleep(0)  # let received requests reach their handlers
        # What has begun by now is answered here, and nothing that begins later is waited for.
        self.is_retired, answering = True, self.manager.end(keep_idle=keep_idle)
        closing = asyncio.create_task(self._runner.shutdown())
        late = await _pending(answering, end - loop.time() - margin)
        if late:  # the middleware answers them
            log.warning("requests_cancelled", count=sum(task.cancel() for task in late))
            await _pending(late, margin / 2)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end - margin / 2):
                await closing
