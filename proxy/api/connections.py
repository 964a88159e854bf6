"""A connection of a listener: its state, timeouts, memory, and end.

A `Connection` extends aiohttp's protocol of one connection. The `ConnectionManager` checks all of
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import structlog
from aiohttp import StreamReader, WSCloseCode, WSMessage, WSMsgType, web
from aiohttp.http_parser import RawRequestMessage

from proxy.api.addressing import (
    STRAIGHT,
    Caller,
    Peer,
    is_loopback_address,
    may_have_token,
    peer_of,
    strip,
)
from proxy.api.admission import Admission
from proxy.api.aiohttp_internals import has_waiting_request
from proxy.api.connection_manager import REFUSAL_TIMEOUT, ConnectionLimits, ConnectionManager
from proxy.api.held import Held
from proxy.api.input_turns import SLICE, SlicedInput
from proxy.api.places import AddressKey
from proxy.api.raw_answers import HEADERS_TOO_LARGE, TOO_MANY_CONNECTIONS, TOO_MUCH_UNFINISHED
from proxy.budget import Allocation
from proxy.translate.errors import LocalError

if TYPE_CHECKING:
    from proxy.api import Services

log = structlog.get_logger(__name__)

#: Minimum bytes of a body within `ConnectionLimits.body_timeout`, unless fewer are left.
MIN_PROGRESS = 16 * 1024
#: Seconds for an answer under way, or for a close frame, after the access of a member has ended.
REVOKE_TIMEOUT = 0.5
#: Reasons in close frames.
ACCESS_ENDED = "Your access to this server has ended."
MESSAGE_REFUSED = "The proxy holds too much unfinished data of yours; connect again."
#: Maximum bytes of all headers of a request, and of its trailers, as multiples of `header_bytes`.
HEAD_LIMITS = 4
#: Maximum error in bytes of the estimate of what the parser has consumed.
_SLACK = 1024
#: Closes a websocket with a code, a reason, and a timeout in seconds.
Leave = Callable[[int, str, float], object]


# The states of a connection. `_REST`: the answer was sent before the whole body was received.
_IDLE, _HEADERS, _BODY, _ANSWER, _REST, _SOCKET, _REFUSED, _HANDSHAKE = range(8)
_IDLE_STATES = (_IDLE, _HEADERS, _REST)
#: The states that end by a timeout, which `check` looks after.
_TIMED_STATES = (_HEADERS, _BODY, _REFUSED)


class Connection(SlicedInput):
    """aiohttp's protocol of one connection, with its state and since when it has it."""

    __slots__ = (
        "_accepted_at",
        "_body",
        "_body_bytes",
        "_chunk",
        "_handshake",
        "_held",
        "_is_chunked",
        "_leave",
        "_lost",
        "_paused_input",
        "_received",
        "_since",
        "_state",
        "address",
        "admission",
        "allocations",
        "caller",
        "cancelled",
        "manager",
        "member",
        "on_loopback",
        "peer",
        "services",
        "task",
        "way",
    )

    def __init__(self, manager: ConnectionManager, server: web.Server, **options: Any) -> None:
        super().__init__(manager.input_turns, server, **options)
        self.manager = manager
        self.services: Services = manager.services
        #: The way of the current request, its caller if that was determined, and its admission.
        self.way = STRAIGHT
        self.caller: Caller | None = None
        self.admission: Admission | None = None
        #: The member that the connection is counted for.
        self.member: str | None = None
        #: The handler of the current request, and whether it was cancelled by `cancel`.
        self.task: asyncio.Task[object] | None = None
        self.cancelled = False
        #: What the current request holds until it has its answer.
        self.allocations: list[Allocation] = []
        #: The other end; `address` is the key by which it is counted.
        self.peer = Peer("")
        #: Whether the connection is to a loopback address of this machine, and not from a proxy.
        self.on_loopback = False
        self.address: AddressKey = ""
        self._held = Held()
        #: Bytes of the last chunk of input, and those of the body at that time.
        self._chunk = self._body_bytes = 0
        #: Whether reading is paused until the current answer has been sent.
        self._paused_input = False
        #: Whether the current body is in chunks.
        self._is_chunked = False
        #: Ends the TLS handshake while it lasts.
        self._handshake: Callable[[], object] | None = None
        self._body: StreamReader | None = None
        self._leave: Leave | None = None
        self._received = 0
        self._state = _IDLE
        self._lost: asyncio.Future[None] | None = None
        self._since = self._accepted_at = manager.now()

    # --- requests --------------------------------------------------------------------------

    def begin(self, message: RawRequestMessage, body: StreamReader) -> RawRequestMessage:
        """Begin a request after its headers. Return them without the prefixes of the path."""
        self._body, self._is_chunked = body, message.chunked
        self.caller = self.admission = None
        self._body_bytes = body.total_bytes
        if self._held.input <= _SLACK:
            self._held.input = 0
        else:
            taken = _head_bytes(message) + body.total_bytes
            self._held.input = max(0, self._held.input - taken)
        self._received = 0
        self._enter(_ANSWER if body.is_eof() else _BODY)
        self.way = STRAIGHT
        base, gated = self.services.options.base_path, self.services.members.has_members
        if base or (gated and may_have_token(message.path)):
            url, self.way = strip(message.url, base, members=gated)
            if url is not message.url:
                return message._replace(url=url, path=str(url))
        return message

    def admit(self, admission: Admission) -> None:
        """Count the connection for the member of an authenticated request.

        Raises `LocalError` (503) if the member has too many.
        """
        self.admission = admission
        if self.member != admission.member:
            self.manager.join(self, admission)
            self._held.release()  # taken from the member's budget with the next input

    def log_access(
        self, request: web.BaseRequest, response: web.StreamResponse, time: float | None
    ) -> None:
        """Note that an answer has been sent; aiohttp calls this."""
        if self._state not in (_BODY, _ANSWER):
            return
        self.task = None
        self._enter(_IDLE if self._body is None or self._body.is_eof() else _REST)
        if self.member is None or self.manager.draining:
            self.manager.answered(self)
        if not has_waiting_request(self):
            self._resume_input()

    def upgraded(self, leave: Leave) -> None:
        """Treat the connection as a websocket from now on; `leave` closes it."""
        self._leave = leave
        self._enter(_SOCKET)
        if self.admission is not None and not self.admission.holds(self.services.members):
            self.revoke()  # its access ended during the handshake
        self._resume_input()

    def received(self, message: WSMessage) -> None:
        """Note that a websocket message, a ping or a pong was received completely."""
        held = self._held
        if message.type in (WSMsgType.PING, WSMsgType.PONG):  # between the parts of a message
            held.input = max(0, held.input - 2 - len(message.data))
        else:
            held.input = min(held.input, self._chunk)
        held.fits(self._allocate)

    def _resume_input(self) -> None:
        """Resume reading; a part of the next request may have been received already."""
        if self._paused_input:
            self._paused_input = False
            self.read_on()
        if self._state == _IDLE:
            if self._held.input > _SLACK:
                self._enter(_HEADERS)
            else:
                self._held.input = 0
        if self._held.allocation is not None:
            self._held.fits(self._allocate)

    def _enter(self, state: int) -> None:
        """Begin a state, and its timeout if it has one."""
        self._state, self._since = state, self.manager.now()
        if state in _TIMED_STATES:
            self.manager.timed.add(self)
        else:
            self.manager.timed.discard(self)

    def _allocate(self) -> Allocation:
        budget = self.services.budget
        if self.member is not None:
            return budget.member(self.member, "connection")
        return budget.address(self.peer.address, "connection")

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._state in (_BODY, _ANSWER)

    def idle_for(self, now: float) -> float:
        """Return the seconds since the last request; 0 while there is one."""
        idle = self._state in _IDLE_STATES and not has_waiting_request(self)
        return now - self._since if idle else 0.0

    def age(self, now: float) -> float:
        """Return the seconds since it was accepted."""
        return now - self._accepted_at

    # --- timeouts and the end --------------------------------------------------------------

    def check(self, now: float, limits: ConnectionLimits) -> None:
        """Close the connection, or fail the request, if it is too slow."""
        passed = now - self._since
        if self._state == _REFUSED and passed >= REFUSAL_TIMEOUT:
            self.end()
        elif self._state == _HEADERS and 0 < limits.header_timeout <= passed:
            log.info("headers_timed_out")
            self.end()
        elif self._state == _BODY:
            self._check_body(now, limits.body_timeout)

    def _check_body(self, now: float, timeout: float) -> None:
        body, transport = self._body, self.transport
        if body is None or transport is None or body.is_eof():
            self._enter(_ANSWER)
        elif 0 < timeout <= now - self._since:
            if self._received >= MIN_PROGRESS or not transport.is_reading():
                self._since, self._received = now, 0
                return
            log.info("body_timed_out", received=self._received)
            self._enter(_ANSWER)
            body.set_exception(
                LocalError(
                    "request_timeout",
                    "The request body arrived too slowly; use a faster connection, or increase the "
                    "setting `body_timeout`.",
                    kind="timed_out",
                )
            )

    def cancel(self) -> None:
        """Cancel the handler of the current request; the middleware answers in its place."""
        if self.task is not None and not self.cancelled:
            self.cancelled = True
            self.task.cancel()

    def revoke(self) -> None:
        """End the connection, because the access of its member has ended."""
        log.info("connection_closed", member=self.member)
        if self._leave is not None:
            self._leave(WSCloseCode.POLICY_VIOLATION, ACCESS_ENDED, REVOKE_TIMEOUT)
        elif self.busy:  # a short answer, such as to the removal of one's own token, is still sent
            asyncio.get_running_loop().call_later(
                REVOKE_TIMEOUT, self._cut_unless_answered, self.task
            )
        else:
            self.end()

    def _cut_unless_answered(self, task: asyncio.Task[object] | None) -> None:
        if self.busy and self.task is task:
            self.cut()

    def end_unless_busy(self) -> None:
        """Close the connection unless a request is being answered or it is a websocket."""
        if self._state not in (_BODY, _ANSWER, _SOCKET):
            self.end()

    def end(self) -> None:
        """Close the connection after sending what was written."""
        if self._handshake is not None:
            self._handshake()
        elif self.transport is not None:
            self.transport.close()

    def drop(self) -> None:
        """Close the connection without waiting for the client to take what was written."""
        if self.transport is not None and self.transport.get_write_buffer_size() == 0:
            self.transport.close()
        else:
            self.cut()

    def cut(self) -> None:
        """Abort the connection."""
        if self._handshake is not None:
            self._handshake()
        elif self.transport is not None:
            self.transport.abort()

    # --- the transport ---------------------------------------------------------------------

    def accept(self, peer: str, end_handshake: Callable[[], object]) -> bool:
        """Accept a connection at the beginning of its TLS handshake; `end_handshake` closes it.

        Return whether there is a place for it. `connection_made` or `handshake_failed` follows.
        """
        self.peer = peer_of(peer, self.services.options.trusted_proxies)
        self._handshake, self._state = end_handshake, _HANDSHAKE
        if self.manager.accept(self) is None:
            return True
        self.handshake_failed()
        return False

    def refuse(self) -> None:
        """Answer whatever the client sends with a refusal."""
        self._enter(_REFUSED)

    def handshake_failed(self) -> None:
        """Forget a connection whose handshake has failed."""
        self.manager.forget(self, refused=self._state == _REFUSED)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept or refuse the connection."""
        accepted = self._handshake is not None
        if not accepted:
            name = transport.get_extra_info("peername")
            peer = str(name[0]) if isinstance(name, tuple) else ""
            self.peer = peer_of(peer, self.services.options.trusted_proxies)
        here = transport.get_extra_info("sockname")
        self.on_loopback = is_loopback_address(here) and not self.peer.proxies
        if accepted:
            self._handshake = None
            self._enter(_IDLE)
            super().connection_made(transport)
            return
        with_answer = self.manager.accept(self)
        if with_answer is None:
            super().connection_made(transport)
            return
        self.transport = cast("asyncio.Transport", transport)
        if not with_answer:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse input, or let it wait if that takes long; answer a refused client."""
        if self._state == _REFUSED:
            self._answer_raw(TOO_MANY_CONNECTIONS)
        elif len(data) <= SLICE and not self.unparsed:
            self.parse(data)
        else:
            super().data_received(data)

    def is_before_body(self) -> bool:
        """Return whether headers of a request come next."""
        return self._state in (_IDLE, _HEADERS)

    def may_be_chunked(self) -> bool:
        """Return whether chunks of a body may come next."""
        return self._state != _SOCKET and (self._state != _BODY or self._is_chunked)

    def is_input_paused(self) -> bool:
        """Return whether input waits until the current answer has been sent."""
        return self._paused_input

    def count_unparsed(self, size: int) -> bool:
        """Count the input that waits; close the connection and return `False` if it is too much."""
        self._held.unparsed = size
        fits = self._held.fits(self._allocate)
        if not fits:
            log.info("request_refused", member=self.member)
            self.cut()
        return fits

    def parse(self, data: bytes) -> None:
        """Pass input to the parser and count it."""
        state = self._state
        self._chunk = len(data)
        self._received += self._chunk
        if state in (_IDLE, _HEADERS):
            self._held.input += self._chunk
        web.RequestHandler.data_received(self, data)
        if not data or self.transport is None:
            return
        if state in (_IDLE, _HEADERS):
            if not has_waiting_request(self):
                self._count_headers()
        elif state == _SOCKET:
            self._count_frames()
        else:
            self._count_after_headers()

    def _count_headers(self) -> None:
        """Count the input as headers that are not complete, and start their timeout."""
        if self._state == _IDLE:
            self._enter(_HEADERS)
        if self._held.input > HEAD_LIMITS * self.max_field_size:
            log.info("headers_refused", received=self._held.input)
            self._answer_raw(HEADERS_TOO_LARGE)
        elif not self._held.fits(self._allocate):
            log.info("headers_refused", member=self.member)
            self._answer_raw(TOO_MUCH_UNFINISHED)

    def _count_after_headers(self) -> None:
        """Count trailers of a body, and pause before the next request until the answer is sent."""
        body = self._body
        if self._state == _REST:
            if body is None or body.is_eof():
                self._state = _IDLE
            return
        if body is not None and body.total_bytes != self._body_bytes:
            self._body_bytes = body.total_bytes
            self._held.input = 0
            return
        self._held.input += self._chunk
        if body is None or body.is_eof():
            self._pause_input()
        elif self._held.input > HEAD_LIMITS * self.max_field_size:
            log.info("trailers_refused", received=self._held.input)
            self.cut()
            return
        if not self._held.fits(self._allocate):
            log.info("request_refused", member=self.member)
            self.cut()

    def _count_frames(self) -> None:
        """Count the input as a part of a websocket message."""
        self._held.input += self._chunk
        if self._held.fits(self._allocate) or self._paused_input:
            return
        log.info("socket_refused", member=self.member, received=self._held.input)
        self._pause_input()
        if self._leave is not None:
            self._leave(WSCloseCode.TRY_AGAIN_LATER, MESSAGE_REFUSED, REVOKE_TIMEOUT)

    def _pause_input(self) -> None:
        if self.transport is not None and not self._paused_input:
            self._paused_input = True
            self.transport.pause_reading()

    def _answer_raw(self, answer: bytes) -> None:
        """Send a whole answer, and close the connection."""
        if self.transport is not None:
            self.transport.write(answer)
            self.transport.close()

    def pause_writing(self) -> None:
        """Note that the client reads more slowly than the answer is written."""
        super().pause_writing()
        self.manager.stalled[self] = self.manager.now()
        if self.transport is not None:
            self._held.output = self.transport.get_write_buffer_size()
            if not self._held.fits(self._allocate):
                log.info("answer_refused", member=self.member)
                asyncio.get_running_loop().call_soon(self.cut)

    def resume_writing(self) -> None:
        """Note that the client has read most of what was written."""
        super().resume_writing()
        self.manager.stalled.pop(self, None)
        self._held.output = 0
        self._held.fits(self._allocate)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        refused = self._state == _REFUSED
        self.manager.forget(self, refused=refused)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)
        self._held.release()
        if refused:
            self.transport = None
        else:
            super().connection_lost(exc)

    def lost(self) -> asyncio.Future[None]:
        """Return a future that is done when the connection is closed."""
        if self._lost is None:
            self._lost = asyncio.get_running_loop().create_future()
            if self.transport is None or self.transport.is_closing():
                self._lost.set_result(None)
        return self._lost


def begun(
    make: Callable[..., web.BaseRequest],
    message: RawRequestMessage,
    body: StreamReader,
    connection: Connection,
    *others: object,
) -> web.BaseRequest:
    """Begin a request at its connection, and make it."""
    return make(connection.begin(message, body), body, connection, *others)


def _head_bytes(message: RawRequestMessage) -> int:
    """Return the approximate size of a request line and headers."""
    fields = sum(len(name) + len(value) + 4 for name, value in message.raw_headers)
    return len(message.method) + len(message.path) + 14 + fields
