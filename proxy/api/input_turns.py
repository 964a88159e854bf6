"""Input that takes long to parse, in slices: bodies in chunks of a few bytes.

One read of 256 KiB may have 43,000 chunks, which take 30 ms to parse and as long to read. Few
slices of such input are parsed in each iteration of the event loop, so that others are served in
between.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

from aiohttp import web

#: Bytes that are parsed at once.
SLICE = 1024
#: Line ends in input that is parsed whole; each chunk has two.
_MAX_LINES = 256
#: Slices that are parsed in one iteration of the event loop: some ms.
_MAX_SLICES = 16

_NOTHING = memoryview(b"")


class InputTurns:
    """The turns of the connections whose input waits, one after another."""

    def __init__(self) -> None:
        self._waiting: dict[SlicedInput, None] = {}
        self._is_scheduled = False

    def add(self, connection: SlicedInput) -> None:
        """Give a connection a turn after those that wait already, if it does not."""
        self._waiting[connection] = None
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._next_iteration)

    def _next_iteration(self) -> None:
        self._is_scheduled = False
        try:
            for connection in list(islice(self._waiting, _MAX_SLICES)):
                del self._waiting[connection]
                connection.parse_slice()
        finally:
            self._schedule()


class SlicedInput(web.RequestHandler):
    """aiohttp's protocol of one connection, with input that waits for its turn to be parsed.

    Meanwhile nothing more is read.
    """

    __slots__ = ("_is_body_full", "_paused_input", "_turns", "unparsed")

    def __init__(self, turns: InputTurns, server: web.Server, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._turns = turns
        #: The input that waits.
        self.unparsed = _NOTHING
        self._is_body_full = False
        #: Whether reading is paused until the current answer has been sent.
        self._paused_input = False

    def is_before_body(self) -> bool:
        """Return whether headers of a request come next."""
        raise NotImplementedError

    def may_be_chunked(self) -> bool:
        """Return whether chunks of a body may come next."""
        raise NotImplementedError

    def count_unparsed(self) -> bool:
        """Count the bytes of `unparsed`; return whether there is memory for them."""
        raise NotImplementedError

    def parse(self, data: bytes) -> None:
        """Pass input to aiohttp's parser."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Parse input, or let it wait if that takes long."""
        while len(data) > SLICE and not self.unparsed:
            if self.is_before_body():
                # The headers alone, which say what the rest is.
                end = data.find(b"\r\n\r\n", 0, SLICE) + 4
                part = data[: end if end >= 4 else SLICE]
                self.parse(part)
                data = data[len(part) :]
            elif self.may_be_chunked() and data.count(b"\r\n") > _MAX_LINES:
                self._wait(data)
                return
            else:
                break
            if not self._is_open():
                return
        if data and self.unparsed:
            self._wait(bytes(self.unparsed) + data)
        else:
            self.parse(data)

    def _wait(self, data: bytes) -> None:
        self.unparsed = memoryview(data)
        if self.count_unparsed():
            self._await_turn()

    def _await_turn(self) -> None:
        if self.transport is not None:
            self.transport.pause_reading()
            self._turns.add(self)

    def parse_slice(self) -> None:
        """Parse the next slice of the input that waits."""
        if self._is_open() and self._may_parse():
            part, self.unparsed = self.unparsed[:SLICE], self.unparsed[SLICE:]
            self.parse(bytes(part))
            if self._is_open() and self.count_unparsed() and self._may_parse():
                self.read_on()

    def read_on(self) -> None:
        """Parse what waits, or read again if nothing does."""
        if self.unparsed:
            self._turns.add(self)
        elif self.transport is not None:
            self.transport.resume_reading()

    def _is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def _may_parse(self) -> bool:
        return not (self._is_body_full or self._paused_input)

    def pause_reading(self) -> None:
        """Parse no more until more of the body has been read; aiohttp calls this."""
        self._is_body_full = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Parse and read again; aiohttp calls this."""
        self._is_body_full = False
        super().resume_reading(resume_parser)
        if self.unparsed:
            self._await_turn()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget what waits."""
        self.unparsed = _NOTHING
        super().connection_lost(exc)
