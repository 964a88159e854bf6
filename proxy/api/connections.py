"""A connection: how slow it is, how it ends, and how and from whom the request on it came.

A `Connection` is aiohttp's protocol of one connection that also knows in which state it is. The
`ConnectionManager` counts them.

Reverse proxies say in headers who a client is. Anybody can send these, so that only those of
trusted proxies count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import structlog
from aiohttp import StreamReader, WSCloseCode, web
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.api.addressing import (
    STRAIGHT,
    Address,
    Network,
    Way,
    may_have_token,
    parse_address,
    strip,
)
from proxy.members.directory import Directory
from proxy.translate import codec
from proxy.translate.errors import LocalError

if TYPE_CHECKING:
    from proxy.api.authenticator import Admission, Authenticator
    from proxy.api.connection_manager import ConnectionLimits, ConnectionManager
    from proxy.api.server import Services
    from proxy.api.websocket import ClientSocket
    from proxy.members.audit import Value

log = structlog.get_logger(__name__)

Headers = CIMultiDict[str] | CIMultiDictProxy[str]

#: Bytes of a body that arrive within `ConnectionLimits.body_timeout`, unless fewer are left.
LEAST_PROGRESS = 16 * 1024
#: Seconds in which a refused client has to say what it wanted.
REFUSAL_TIMEOUT = 2.0
#: Seconds that an answer under way and a close frame have when the access of their member ends.
REVOKE_TIMEOUT = 0.5
#: The reason in the close frame.
ACCESS_ENDED = "Your access to this server has ended."


# The states of a connection. `_REST`: the answer has gone out before the whole body had come.
_IDLE, _HEADERS, _BODY, _ANSWER, _REST, _SOCKET, _REFUSED = range(7)
_IDLE_STATES = (_IDLE, _HEADERS, _REST)


class Connection(web.RequestHandler):
    """One connection: aiohttp's protocol, and in which state it is since when."""

    __slots__ = (
        "_body",
        "_received",
        "_since",
        "_socket",
        "_state",
        "address",
        "admission",
        "caller",
        "cancelled",
        "manager",
        "member",
        "peer",
        "services",
        "task",
        "way",
    )

    def __init__(self, manager: ConnectionManager, server: web.Server, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self.manager = manager
        self.services: Services = manager.services
        #: How the request under way came, who sent it if that was asked, and its admission.
        self.way = STRAIGHT
        self.caller: Caller | None = None
        self.admission: Admission | None = None
        #: Whose the connection is.
        self.member: str | None = None
        #: The handler of the request under way, and whether it was cancelled because of the end.
        self.task: asyncio.Task[object] | None = None
        self.cancelled = False
        #: Where it comes from, and by what it is counted.
        self.peer = ""
        self.address: str | bytes = ""
        self._body: StreamReader | None = None
        self._socket: ClientSocket | None = None
        self._received = 0
        self._state = _IDLE
        self._since = manager.now()

    # --- the course of a request -----------------------------------------------------------

    def begin(self, body: StreamReader, way: Way) -> None:
        """The headers of a request have come."""
        self._body = body
        self.way = way
        self.caller = self.admission = None
        if body.is_eof():
            if self._state == _HEADERS:
                self.manager.timed.discard(self)
            self._state = _ANSWER
        else:
            self._since, self._received = self.manager.now(), 0
            self._state = _BODY
            self.manager.timed.add(self)

    def admit(self, admission: Admission) -> None:
        """The request was authenticated. Raises `LocalError` (503) for a connection too many."""
        self.admission = admission
        if self.member != admission.member:
            self.manager.join(self, admission)

    def log_access(
        self, request: web.BaseRequest, response: web.StreamResponse, time: float | None
    ) -> None:
        """Aiohttp calls this when the answer has gone out."""
        if self._state not in (_BODY, _ANSWER):
            return
        if self._state == _BODY:
            self.manager.timed.discard(self)
        self.task = None
        self._since = self.manager.now()
        self._state = _IDLE if self._body is None or self._body.is_eof() else _REST
        if self.member is None or self.manager.draining:
            self.manager.answered(self)

    def upgraded(self, socket: ClientSocket) -> None:
        """The connection is a websocket, which may be silent."""
        self._state, self._socket = _SOCKET, socket
        self._parser = None  # aiohttp no longer reads HTTP here, and the parser takes memory
        if self.admission is not None and not self.manager.authenticator.is_valid(self.admission):
            self.revoke()  # its access ended during the handshake

    @property
    def busy(self) -> bool:
        """Whether an answer is being made or sent."""
        return self._state in (_BODY, _ANSWER)

    def idle_for(self, now: float) -> float:
        """Seconds since it was last of use; 0 while it is."""
        return now - self._since if self._state in _IDLE_STATES and not self._messages else 0.0

    # --- the end ---------------------------------------------------------------------------

    def check(self, now: float, limits: ConnectionLimits) -> None:
        """End what is too slow."""
        passed = now - self._since
        if self._state == _REFUSED and passed >= REFUSAL_TIMEOUT:
            self.end()
        elif self._state == _HEADERS and 0 < limits.header_timeout <= passed:
            log.info("headers_timed_out")
            self.end()
        elif self._state == _BODY:
            self._check_body(now, limits.body_timeout)

    def _check_body(self, now: float, patience: float) -> None:
        body, transport = self._body, self.transport
        if body is None or transport is None or body.is_eof():
            self._state = _ANSWER
            self.manager.timed.discard(self)
        elif 0 < patience <= now - self._since:
            if self._received >= LEAST_PROGRESS or not transport.is_reading():
                self._since, self._received = now, 0
                return
            log.info("body_timed_out", received=self._received)
            self._state = _ANSWER
            self.manager.timed.discard(self)
            body.set_exception(
                LocalError(
                    "request_timeout",
                    "The request body arrived too slowly; use a faster connection, or increase the "
                    "setting `body_timeout`.",
                    kind="timed_out",
                )
            )

    def cancel(self) -> None:
        """Cancel the handler; the middleware answers in its place."""
        if self.task is not None and not self.cancelled:
            self.cancelled = True
            self.task.cancel()

    def revoke(self) -> None:
        """End what is under way, because the access of its member has ended."""
        log.info("connection_closed", member=self.member)
        if self._socket is not None:
            closing = self._socket.leave(
                WSCloseCode.POLICY_VIOLATION, ACCESS_ENDED, patience=REVOKE_TIMEOUT
            )
            self.manager.keep_closing(closing)
        elif self.busy:  # an answer that is short, such as that to one's own removal, goes out
            self._loop.call_later(REVOKE_TIMEOUT, self._cut_unless_answered, self.task)
        else:
            self.end()

    def _cut_unless_answered(self, task: asyncio.Task[object] | None) -> None:
        if self.busy and self.task is task:
            self.cut()

    def end_unless_busy(self) -> None:
        """Close the connection if nothing is under way that a client waits for."""
        if self._state not in (_BODY, _ANSWER, _SOCKET):
            self.end()

    def end(self) -> None:
        """Close the connection; what was written before is still sent."""
        if self.transport is not None:
            self.transport.close()

    def drop(self) -> None:
        """Close the connection; what the client does not take is not waited for."""
        if self.transport is not None and self.transport.get_write_buffer_size() == 0:
            self.transport.close()
        else:
            self.cut()

    def cut(self) -> None:
        """Close the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    # --- the transport ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the connection in, or refuse it."""
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if isinstance(peer, tuple) else ""
        taken = self.manager.accept(self)
        if taken is None:
            super().connection_made(transport)
            return
        self.transport = cast("asyncio.Transport", transport)
        self._state = _REFUSED
        self.manager.timed.add(self)
        if not taken:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on, or tell a refused client why."""
        state = self._state
        if state == _REFUSED:
            if self.transport is not None:
                self.transport.write(_TOO_MANY)
                self.transport.close()
            return
        self._received += len(data)
        super().data_received(data)
        if self._messages or not data:
            return
        if state == _IDLE and self._state == _IDLE:  # the headers have begun and not ended
            self._state, self._since = _HEADERS, self.manager.now()
            self.manager.timed.add(self)
        elif state == _REST and (self._body is None or self._body.is_eof()):
            self._state = _IDLE

    def pause_writing(self) -> None:
        """The client takes less than is written."""
        super().pause_writing()
        self.manager.stalled[self] = self.manager.now()

    def resume_writing(self) -> None:
        """The client has taken most of what was written."""
        super().resume_writing()
        self.manager.stalled.pop(self, None)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        refused = self._state == _REFUSED
        self.manager.forget(self, refused=refused)
        if refused:
            self.transport = None
        else:
            super().connection_lost(exc)


def _too_many() -> bytes:
    """The whole answer to a client too many."""
    error = LocalError(
        "too_many_connections",
        "The proxy has reached the setting `max_connections`; close some connections and try "
        "again.",
        kind="unavailable",
    )
    body = codec.dump_bytes(error.body())
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


_TOO_MANY = _too_many()


# --- requests -------------------------------------------------------------------------------------


def stripping(
    make: Callable[..., web.BaseRequest], base: str, members: Directory
) -> Callable[..., web.BaseRequest]:
    """The request factory `make` of a `web.Server`, which begins a request of a connection."""
    straight = Way(base)

    def make_stripped(
        message: RawRequestMessage,
        payload: Any,
        protocol: Connection,
        writer: Any,
        task: asyncio.Task[Any],
    ) -> web.BaseRequest:
        path = message.path
        gated = members.has_members
        if base or (gated and may_have_token(path)):
            url, way = strip(message.url, base, members=gated)
            if url is not message.url:
                message = message._replace(url=url, path=str(url))
            protocol.begin(payload, way)
        else:
            protocol.begin(payload, straight)
        return make(message, payload, protocol, writer, task)

    return make_stripped


class Caller(NamedTuple):
    """The client: its address, and with which scheme and host it called us."""

    address: str
    scheme: str
    host: str


def caller(
    peer: str, headers: Headers, trusted: Sequence[Network], *, scheme: str = "http"
) -> Caller:
    """Who is behind the connection from `peer`.

    The right-most address of `X-Forwarded-For` that is not a trusted proxy's; `scheme` and `Host`
    are those of the connection unless the nearest proxy is trusted and says otherwise.
    """
    host = headers.get("Host", "")
    address = parse_address(peer)
    if address is None or not _is_trusted(address, trusted):
        return Caller(_shown(peer), scheme, host)
    said = _last(headers, "X-Forwarded-Proto").lower()
    return Caller(
        str(_behind(address, headers, trusted)),
        said if said in ("http", "https") else scheme,
        _last(headers, "X-Forwarded-Host") or host,
    )


def _behind(address: Address, headers: Headers, trusted: Sequence[Network]) -> Address:
    hops = _items(headers, "X-Forwarded-For")
    while hops and _is_trusted(address, trusted):
        hop = parse_address(hops.pop())
        if hop is None:
            break
        address = hop
    return address


@lru_cache(maxsize=4096)
def _shown(peer: str) -> str:
    """The one spelling of an address, by which it is counted."""
    return str(parse_address(peer) or peer)


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted)


def _items(headers: Headers, name: str) -> list[str]:
    items = ",".join(headers.getall(name, ())).split(",")
    return [item.strip() for item in items if item.strip()]


def _last(headers: Headers, name: str) -> str:
    items = _items(headers, name)
    return items[-1] if items else ""


def connection_of(request: web.BaseRequest) -> Connection:
    """The connection on which a request came."""
    return cast(Connection, request.protocol)


def way_of(request: web.BaseRequest) -> Way:
    """How a request came."""
    return connection_of(request).way


def caller_of(request: web.BaseRequest) -> Caller:
    """Who sent a request."""
    connection = connection_of(request)
    if connection.caller is None:
        connection.caller = caller(
            connection.peer,
            request.headers,
            connection.services.trusted_proxies,
            scheme=request.scheme,
        )
    return connection.caller


def authenticator_of(request: web.BaseRequest) -> Authenticator:
    """Who lets clients of the listener in."""
    return connection_of(request).manager.authenticator


def admission_of(request: web.BaseRequest) -> Admission:
    """The authenticated member of a request."""
    admission = connection_of(request).admission
    if admission is None:
        raise RuntimeError("no request was authenticated")
    return admission


def of(request: web.BaseRequest) -> Services:
    """The services of the listener that got a request."""
    return connection_of(request).services


def member_of(request: web.BaseRequest) -> str:
    """Who is behind the client."""
    return admission_of(request).member


def note(request: web.Request, action: str, **about: Value) -> None:
    """Record an action of the request's member."""
    admission, address = connection_of(request).admission, caller_of(request).address
    member = admission.member if admission is not None else ""
    of(request).accounting.audit.note(action, member=member, address=address, **about)
