"""What a connection receives, in small reads that wait for turns of its owner."""

from __future__ import annotations

import asyncio

from proxy.edge.aiohttp_internals import BY_TURNS
from proxy.edge.connections import Connection

#: Maximum bytes of one read; parsing them takes a few ms, even if each has a chunk of its own.
READ = 16 * 1024
#: The same of a connection whose member is not known. New connections of one address wait for each
#: other, and what is sent behind the headers of one must not delay the rest.
STRANGERS_READ = 2 * 1024


class InputProtocol(asyncio.BufferedProtocol):
    """Reads for a connection, which gets its input when its owner has a turn.

    Meanwhile one read of input waits, and no more is read. All connections of a listener read
    into one `buffer`, since what was read is taken before the next read.
    """

    __slots__ = ("_buffer", "_waiting", "connection")

    def __init__(self, connection: Connection, buffer: memoryview) -> None:
        self.connection = connection
        self._buffer = buffer
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read."""
        self.connection.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer of the next read."""
        return self._buffer if self.connection.owner.member else self._buffer[:STRANGERS_READ]

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read, or let it wait."""
        data, driver = self._buffer[:nbytes].tobytes(), self.connection.driver
        is_calm = driver.turns.is_calm()
        if not is_calm and driver.account.must_wait:
            self._waiting = data
            self.connection.pause(BY_TURNS)
            driver.account.add(driver.address, self._read_on)
        else:
            self._pass_on(data, is_calm=is_calm)

    def _pass_on(self, data: bytes, *, is_calm: bool) -> None:
        """Pass on input, and charge the time that it takes."""
        turns = self.connection.driver.turns
        began = turns.now
        self.connection.data_received(data)
        turns.charge(self.connection.driver.account, began, is_calm=is_calm)

    def _read_on(self) -> bool:
        """Pass on what waits, and read again."""
        data, self._waiting = self._waiting, b""
        if data:
            try:
                self._pass_on(data, is_calm=self.connection.driver.turns.is_calm())
                self.connection.resume(BY_TURNS)
            except Exception as error:  # noqa: BLE001 (as asyncio does; others have their turns)
                context = {"message": "input was not taken", "exception": error, "protocol": self}
                asyncio.get_running_loop().call_exception_handler(context)
                self.connection.cut()
        return False

    def eof_received(self) -> None:
        """Pass it on; the transport closes."""
        self.connection.eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget what waits."""
        self._waiting = b""
        self.connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self.connection.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self.connection.resume_writing()
