"""TLS: the certificate of a listener, and connections during their handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from proxy.edge.input import InputProtocol
from proxy.supervisor import Supervisor

log = structlog.get_logger(__name__)

#: Seconds for a handshake, and for a client to answer the close of a connection.
HANDSHAKE_TIMEOUT, SHUTDOWN_TIMEOUT = 10.0, 5.0
#: Seconds before the next attempt if the system has no descriptor or memory for a connection.
_RETRY_DELAY = 1.0


class CertificateError(Exception):
    """Raised for files that cannot be used. The text says what to do."""


class Certificate:
    """A certificate and its private key, in PEM files. `context` is for the listener.

    Raises `CertificateError` if the files cannot be used.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        self._seen = self._look()
        self.context = _context(cert, key)

    async def follow(self, interval: float = 2.0) -> None:
        """Reload changed files every `interval` seconds, until cancelled.

        Open connections are not affected. Files that do not match, for example during a change, are
        read again after their next change.
        """
        while True:
            await asyncio.sleep(interval)
            seen = await asyncio.to_thread(self._look)
            if seen == self._seen:
                continue
            self._seen = seen
            try:
                await asyncio.to_thread(_context, self._cert, self._key)
                self.context.load_cert_chain(self._cert, self._key, password="")
            except (CertificateError, OSError) as error:
                log.error("certificate_rejected", error=str(error))
            else:
                log.info("certificate_reloaded", file=str(self._cert))

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in (self._cert, self._key))


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    for path, what in ((cert, "tls_cert"), (key, "tls_key")):
        try:
            path.read_bytes()
        except OSError as error:
            raise CertificateError(
                f"The file {path} of {what} cannot be read ({error.strerror}): correct its path or "
                "its permissions."
            ) from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError):
        raise CertificateError(
            f"The files {cert} and {key} are not a certificate and its private key, in PEM and "
            "without a passphrase: correct tls_cert and tls_key."
        ) from None
    return context


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


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


class TlsListener:
    """Listens, and begins TLS with a protocol of `make` on each connection for which there is room.

    asyncio reports a connection only after its handshake, so that those of silent clients would not
    be counted.
    """

    def __init__(
        self, make: Callable[[], InputProtocol], context: ssl.SSLContext, supervisor: Supervisor
    ) -> None:
        self._make = make
        self._context = context
        self._supervisor = supervisor
        self._accepting: list[asyncio.Task[None]] = []
        self.sockets: list[socket.socket] = []

    async def start(self, hosts: Sequence[str], port: int, *, backlog: int) -> None:
        """Begin to listen. Raises `OSError` if an address cannot be used."""
        loop, found = asyncio.get_running_loop(), []
        for host in hosts:
            found += await loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                self.sockets.append(
                    socket.create_server(address[:2], family=family, backlog=backlog)
                )
        except OSError:
            self.close()
            raise
        for listening in self.sockets:
            listening.setblocking(False)
            accept = partial(self._accept, listening)
            self._accepting.append(self._supervisor.keep(accept, "accept TLS connections"))

    def close(self) -> None:
        """Stop accepting connections."""
        for accepting in self._accepting:
            accepting.cancel()
        for listening in self.sockets:
            listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listening)
            except ConnectionError:  # the client has closed it already
                continue
            except OSError as error:
                log.warning("accept_failed", error=str(error))
                await asyncio.sleep(_RETRY_DELAY)
                continue
            self._begin(accepted, peer)
            await asyncio.sleep(0)  # let others go on, too

    def _begin(self, accepted: socket.socket, peer: Any) -> None:
        """Start the handshake of a connection, if there is room for it."""
        accepted.setblocking(False)
        protocol = self._make()
        if protocol.connection.accept(Handshake(accepted, peer)):
            self._supervisor.spawn(self._shake_hands(protocol, accepted), "TLS handshake")
        else:
            accepted.close()

    async def _shake_hands(self, protocol: InputProtocol, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT,
            )
        except OSError as error:
            log.debug("handshake_failed", error=type(error).__name__)
            accepted.close()
            protocol.connection_lost(error)
