"""What a client may take of one connection: time for a body, and memory.

Memory is input that was not handled yet, and output that was not sent yet. Input is unfinished
headers, trailers and websocket messages. A few bytes are not counted, since the number of
connections limits them: less than `MIN_COUNTED`, and one read that waits for a turn or for the
answer to the request before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import StreamReader, WSCloseCode, WSMessage, WSMsgType, web

from proxy.edge.aiohttp_internals import BY_ANSWER, PausedReading, has_waiting_request
from proxy.edge.context import EdgeContext
from proxy.edge.raw_answers import HEADERS_TOO_LARGE
from proxy.sharing.budget import Allocation, ThresholdAllocation
from proxy.sharing.loop_turns import Driver
from proxy.sharing.owners import Owner
from proxy.translate.errors import LocalError, kept

log = structlog.get_logger(__name__)

#: Minimum bytes of a body within `ConnectionLimits.body_timeout`, unless fewer are left.
MIN_PROGRESS = 16 * 1024
#: Bytes of a connection from which they are counted; the headers of most requests have fewer.
MIN_COUNTED = 4 * 1024
#: Copies of each byte of input, about: as received and as parsed.
INPUT_WEIGHT = 2
#: Maximum bytes of all headers of a request, and of its trailers, as multiples of `header_bytes`.
HEAD_LIMITS = 4
#: Seconds for an answer under way, or for a close frame, before the connection is aborted.
LEAVE_TIMEOUT = 0.5
#: The error of a request whose body cannot be parsed.
INVALID_BODY = LocalError(
    "invalid_body",
    "The chunks of the request body, or the trailers after them, cannot be read; send them as in "
    "RFC 9112, section 7.1, with short trailers.",
)
#: The reason in the close frame of a client whose message takes too much memory.
MESSAGE_REFUSED = "The proxy holds too much unfinished data of yours; connect again."
#: Closes a websocket with a code, a reason, and a timeout in seconds.
Leave = Callable[[int, str, float], object]


class LimitedConnection(PausedReading):
    """aiohttp's protocol of one connection, with what it may take.

    What it holds is taken from the budget of its sender.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_body_timer",
        "_held",
        "_idle_since",
        "_input",
        "_leave",
        "_output",
        "context",
        "driver",
        "owner",
        "sender",
        "task",
    )

    def __init__(self, context: EdgeContext, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self.context = context
        #: Whom the connection is counted for, and who sends: of a reverse proxy's connection the
        #: client of the current request. Memory is held for the sender, and time is charged to its
        #: account.
        self.owner = self.sender = Owner()
        self.driver = Driver(context.turns, context.turns.strangers, "")
        #: The current request's handler, or before it begins aiohttp's task of the connection;
        #: `None` when its answer has been sent.
        self.task: asyncio.Task[Any] | None = None
        #: When the last answer was sent.
        self._idle_since = self.driver.turns.now
        #: Bytes of input and output, and what of the budget is held for them.
        self._input = self._output = 0
        self._held = ThresholdAllocation(MIN_COUNTED)
        #: The current body, and how many bytes of it had come with the last input.
        self._body: StreamReader | None = None
        self._body_bytes = 0
        self._body_timer: asyncio.TimerHandle | None = None
        #: Closes the websocket.
        self._leave: Leave | None = None

    # --- bodies ----------------------------------------------------------------------------

    def begin_body(self, body: StreamReader, task: asyncio.Task[None]) -> None:
        """Count what comes after the headers of a request as its body."""
        self.task, self._input = task, 0
        self._body, self._body_bytes = body, body.total_bytes
        if self._held.allocation is not None:
            self._fits()
        if not body.is_eof():  # the rest of it comes before the answer
            self._expect_body(body)
            self.resume(BY_ANSWER)

    def _expect_body(self, body: StreamReader) -> None:
        """Look later whether enough of the body has arrived."""
        timeout = self.context.limits.body_timeout
        loop = asyncio.get_running_loop()
        self._body_timer = loop.call_later(timeout, self._check_body, body, body.total_bytes)

    def _check_body(self, body: StreamReader, before: int) -> None:
        """Fail the request if its body arrives too slowly."""
        self._body_timer = None
        if self.transport is None or body.is_eof():
            return
        received = body.total_bytes - before
        if received >= MIN_PROGRESS or not self.transport.is_reading():
            self._expect_body(body)
            return
        if (more := self._refusal_is_due("body_timed_out")) is not None:
            log.info("body_timed_out", **{**more, "received": received})
        body.set_exception(
            LocalError(
                "request_timeout",
                "The request body arrived too slowly; use a faster connection.",
                kind="timed_out",
            )
        )

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    # --- the budget ------------------------------------------------------------------------

    def _fits(self) -> bool:
        """Hold what there is now. Return whether it fits into the budget.

        A lost connection holds nothing, though its handler or its websocket may still go on.
        """
        size = INPUT_WEIGHT * self._input + self._output
        return self._held.fits(0 if self.transport is None else size, self._allocate)

    def _allocate(self) -> Allocation:
        return self.context.budget.owner(self.sender, "connection")

    # --- input -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Pass input to the parser and count it, since the last thing that it has completed."""
        self._input += len(data)
        super().data_received(data)
        if not data or self.transport is None:
            return
        if self._leave is not None:
            self._count_frames(self._leave)
        elif self.task is not None or not has_waiting_request(self):
            self._count_request()

    def _count_request(self) -> None:
        """Count headers and trailers; pause before the next request until the answer is sent."""
        body = self._body
        if body is None or body.is_eof():
            if self.task is not None:
                self.pause(BY_ANSWER)
            else:
                self._limit_input()
        elif has_waiting_request(self):  # an error of the parser
            self.pause(BY_ANSWER)
            body.set_exception(kept(INVALID_BODY))
        elif body.total_bytes != self._body_bytes:
            self._body_bytes, self._input = body.total_bytes, 0
        else:
            self._limit_input()

    def _limit_input(self) -> None:
        """End the connection if headers or trailers are too large or do not fit into the budget."""
        is_too_large = self._input > HEAD_LIMITS * self.max_field_size
        if not is_too_large and self._fits():
            return
        if (more := self._refusal_is_due("input_refused")) is not None:
            log.info("input_refused", **more)
        if is_too_large and self.task is None and self.transport is not None:
            self.transport.write(HEADERS_TOO_LARGE)
            self.end()
        else:
            self.cut()

    def _refusal_is_due(self, event: str) -> dict[str, object] | None:
        """Return the fields of a line about refused input; `None` for strangers whose last line is
        less than a second old."""
        member = self.sender.member
        more = {} if member else self.context.lines.due(event)
        return None if more is None else {"member": member, "received": self._input, **more}

    def _count_frames(self, leave: Leave) -> None:
        """Count the input as a part of a websocket message."""
        if not self._fits():
            if (more := self._refusal_is_due("socket_refused")) is not None:
                log.info("socket_refused", **more)
            self.pause(BY_ANSWER)
            leave(WSCloseCode.TRY_AGAIN_LATER, MESSAGE_REFUSED, LEAVE_TIMEOUT)

    def received(self, message: WSMessage) -> None:
        """Note that a websocket message, a ping or a pong was received completely."""
        if message.type in (WSMsgType.PING, WSMsgType.PONG):  # between the parts of a message
            self._input = max(0, self._input - 2 - len(message.data))
        else:
            self._input = 0
        self._fits()

    # --- output ----------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """Note that the client reads more slowly than the answer is written."""
        super().pause_writing()
        if self.transport is not None:
            self._output = self.transport.get_write_buffer_size()
            if not self._fits():
                if (more := self._refusal_is_due("answer_refused")) is not None:
                    log.info("answer_refused", **more)
                asyncio.get_running_loop().call_soon(self.cut)

    def resume_writing(self) -> None:
        """Note that the client has read most of what was written."""
        super().resume_writing()
        self._output = 0
        self._fits()

    # --- the end ---------------------------------------------------------------------------

    @property
    def is_websocket(self) -> bool:
        """Whether it was upgraded."""
        return self._leave is not None

    def idle_for(self, now: float) -> float:
        """Return the seconds since the last answer; 0 during a request, and of a websocket."""
        return now - self._idle_since if self.task is None and not self.is_websocket else 0.0

    def end(self) -> None:
        """Close the connection after sending what was written."""
        if self.transport is not None:
            self.transport.close()

    def cut(self) -> None:
        """Abort the connection."""
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Release the memory that is held."""
        self._held.release()
        self._stop_body_timer()
        super().connection_lost(exc)
