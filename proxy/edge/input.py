"""What a connection receives, in small reads that wait for turns of its owner."""

from __future__ import annotations

import asyncio
from typing import Generic, Protocol, TypeVar, cast

from proxy import clock
from proxy.edge.loop_turns import Driver

#: Maximum bytes of one read; parsing them takes a few ms, even if each has a chunk of its own.
READ = 16 * 1024


class Receiver(Protocol):
    """What `InputProtocol` uses of a connection."""

    driver: Driver

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to use the transport."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the transport."""

    def data_received(self, data: bytes) -> None:
        """Take the next input."""

    def eof_received(self) -> None:
        """Note that there is no more input."""

    def pause_writing(self) -> None:
        """Write no more until `resume_writing`."""

    def resume_writing(self) -> None:
        """Write again."""

    def hold_reading(self) -> None:
        """Read no more until `release_reading`."""

    def release_reading(self) -> None:
        """Read again."""


R = TypeVar("R", bound=Receiver)


class ReadBuffer:
    """The buffer of all reads: what was read is taken before the next read."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ))


class InputProtocol(asyncio.BufferedProtocol, Generic[R]):
    """Reads for a connection, which gets its input when its owner has a turn.

    Meanwhile one read of input waits, and no more is read.
    """

    __slots__ = ("_buffer", "_has_ended", "_transport", "_waiting", "connection")

    def __init__(self, connection: R, buffer: ReadBuffer) -> None:
        self.connection = connection
        self._buffer = buffer.view
        self._waiting = b""
        self._has_ended = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read."""
        self._transport = cast("asyncio.Transport", transport)
        self.connection.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer of the next read."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read, or let it wait."""
        data, driver = bytes(self._buffer[:nbytes]), self.connection.driver
        if not self._waiting:
            if driver.turns.is_calm:
                self.connection.data_received(data)
                return
            if not driver.account.must_wait:
                self._pass_on(data)
                return
        if not self._waiting:
            driver.account.add(driver.address, self._read_on)
        self._waiting += data
        if len(self._waiting) >= READ:
            self.connection.hold_reading()

    def _pass_on(self, data: bytes) -> None:
        """Pass on input, and charge the time that it takes."""
        began = clock.source.monotonic()
        self.connection.data_received(data)
        self.connection.driver.account.charge(clock.source.monotonic() - began)

    def _read_on(self) -> bool:
        """Pass on what waits."""
        data, self._waiting = self._waiting, b""
        if data and self._transport is not None:
            try:
                self._pass_on(data)
            except Exception as error:  # noqa: BLE001 (as asyncio does; others have their turns)
                self._fail(self._transport, error)
                return False
            if self._has_ended:
                self.connection.eof_received()
                self._transport.close()
            elif len(data) >= READ:
                self.connection.release_reading()
        return False

    def _fail(self, transport: asyncio.Transport, error: Exception) -> None:
        """Report an error of the connection, and end it."""
        context = {"message": "input was not taken", "exception": error, "protocol": self}
        asyncio.get_running_loop().call_exception_handler(context)
        transport.abort()

    def eof_received(self) -> bool:
        """Pass on the end, or let it wait; return whether the transport stays open meanwhile."""
        self._has_ended = bool(self._waiting)
        if not self._has_ended:
            self.connection.eof_received()
        return self._has_ended

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget what waits."""
        self._waiting, self._transport = b"", None
        self.connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self.connection.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self.connection.resume_writing()
