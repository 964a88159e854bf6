"""Sockets that listen, and connections until they are made."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import structlog

from proxy.edge.input import InputProtocol
from proxy.runtime.supervisor import Supervisor

log = structlog.get_logger(__name__)

#: Connections that may wait to be accepted.
BACKLOG = 2048
#: Connections that are accepted in one iteration of the event loop; with TLS, one is.
TOGETHER = 16
#: Seconds for a handshake, and for a client to answer the close of a connection.
HANDSHAKE_TIMEOUT, SHUTDOWN_TIMEOUT = 10.0, 5.0
#: Seconds before the next attempt if the system has no descriptor or memory for a connection.
_RETRY_DELAY = 1.0

#: A socket of a client, and the client's address.
_Accepted = tuple[socket.socket, Any]


class Handshake(asyncio.Transport):
    """The transport of a connection until its handshake is done, which it can only end."""

    def __init__(self, accepted: socket.socket, peer: Any) -> None:
        super().__init__({"peername": peer, "sockname": accepted.getsockname()})
        self._accepted = accepted

    def close(self) -> None:
        """Let the handshake fail."""
        with contextlib.suppress(OSError):  # its client has closed it
            self._accepted.shutdown(socket.SHUT_RDWR)

    abort = close


async def listen(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Return sockets of these addresses, which listen from `Acceptor.start` on; port 0 is chosen by
    the system. Raises `OSError` if an address cannot be used.

    Of a name's addresses those of a family that the system lacks are left out, unless all are.
    """
    loop, found = asyncio.get_running_loop(), []
    for host in hosts:
        found += await loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    lacking: OSError | None = None
    with contextlib.ExitStack() as stack:
        sockets = []
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                made = _bound(family, address)
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                lacking = error
            else:
                sockets.append(stack.enter_context(made))
        if lacking is not None and not sockets:
            raise lacking
        stack.pop_all()
    return sockets


def _bound(family: int, address: Any) -> socket.socket:
    """Return a socket with an address. Raises `OSError`."""
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # where it lets two servers have the same port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


class Acceptor:
    """Listens, and begins a protocol of `make` on each connection; with TLS if it has a `context`.

    A server of asyncio reports a connection only after its handshake, so that those of silent
    clients would not be counted; one of uvloop accepts a single connection an iteration, so that
    all others wait while one client opens hundreds.
    """

    def __init__(
        self,
        make: Callable[[], InputProtocol],
        context: ssl.SSLContext | None,
        supervisor: Supervisor,
    ) -> None:
        self._make = make
        self._supervisor = supervisor
        self._tls: dict[str, Any] = {}
        if context is not None:
            self._tls = {
                "ssl": context,
                "ssl_handshake_timeout": HANDSHAKE_TIMEOUT,
                "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT,
            }
        self._together = 1 if self._tls else TOGETHER
        self._accepting: list[asyncio.Task[None]] = []

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Begin to accept what comes to sockets."""
        for listening in sockets:
            listening.listen(BACKLOG)
            accept = partial(self._accept, listening)
            self._accepting.append(self._supervisor.keep(accept, "accept connections"))

    def stop(self) -> None:
        """Stop accepting connections. The sockets listen on."""
        for accepting in self._accepting:
            accepting.cancel()
        self._accepting.clear()

    async def _accept(self, listening: socket.socket) -> None:
        """Accept connections until cancelled."""
        while True:
            try:
                for accepted, peer in await self._next(listening):
                    self._begin(accepted, peer)
            except ConnectionError:  # the client has closed it already
                continue
            except OSError as error:
                log.warning("accept_failed", error=str(error))
                await asyncio.sleep(_RETRY_DELAY)
                continue
            await asyncio.sleep(0)  # let others go on, too

    async def _next(self, listening: socket.socket) -> list[_Accepted]:
        """Return the connections that wait, at least one."""
        found = [await asyncio.get_running_loop().sock_accept(listening)]
        with contextlib.suppress(OSError):  # there is none, or it fails again in the next turn
            while len(found) < self._together:
                found.append(listening.accept())
        return found

    def _begin(self, accepted: socket.socket, peer: Any) -> None:
        """Begin with a connection; before a handshake only if there is room for it."""
        accepted.setblocking(False)
        protocol = self._make()
        if not self._tls or protocol.connection.accept(Handshake(accepted, peer)):
            self._supervisor.spawn(self._connect(protocol, accepted), "begin connection")
        else:
            accepted.close()

    async def _connect(self, protocol: InputProtocol, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: protocol, accepted, **self._tls)
        except OSError as error:
            log.debug("handshake_failed", error=type(error).__name__)
            accepted.close()
            protocol.connection_lost(error)
