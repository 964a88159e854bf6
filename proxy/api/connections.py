"""The connections of a listener: how slow each is and how it ends, and how many there may be.

A `Connection` is aiohttp's protocol of one connection that also knows in which state it is. The
`ConnectionManager` counts them. A connection is *anonymous* until a request on it has been
authenticated. Anonymous connections never get all places: when theirs are taken, the one that has
been idle for longest is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import structlog
from aiohttp import StreamReader, WSCloseCode, web
from msgspec import Struct

from proxy.api.addressing import STRAIGHT, Caller, Network, Way, parse_address
from proxy.translate import codec
from proxy.translate.errors import LocalError

if TYPE_CHECKING:
    from proxy.api import Services
    from proxy.members.directory import Directory

log = structlog.get_logger(__name__)

#: Bytes of a body that arrive within `ConnectionLimits.body_timeout`, unless fewer are left.
LEAST_PROGRESS = 16 * 1024
#: Seconds in which a refused client has to say what it wanted.
REFUSAL_TIMEOUT = 2.0
#: Seconds that an answer under way and a close frame have when the access of their member ends.
REVOKE_TIMEOUT = 0.5
#: The reason in the close frame.
ACCESS_ENDED = "Your access to this server has ended."
#: This many connections beyond the limit are told why they are refused; others are just cut.
ANSWERED_REFUSALS = 256
#: Seconds that an anonymous connection may be idle, if `ConnectionLimits.idle_timeout` is not less.
ANONYMOUS_TIMEOUT = 60.0
#: Seconds after which an idle connection may be closed in favour of another.
EVICTION_IDLE = 5.0
#: This many connections are looked at for one that can be closed.
EVICTION_CANDIDATES = 1024
#: The parts of all places that anonymous connections, those of one address and one member take.
ANONYMOUS_SHARE, ADDRESS_SHARE, MEMBER_SHARE = 3 / 4, 1 / 4, 1 / 2
#: This many places an address or a member may always take.
LEAST_SHARE = 64
#: Dictionaries instead of sets, for their order: the first have been idle for longest.
_Groups = dict[str | bytes, dict["Connection", None]]
#: Closes a websocket: with a code, a reason, and the seconds that the client has.
Leave = Callable[[int, str, float], object]


class Admission(NamedTuple):
    """An authenticated member, with the id of its token and, from a browser, the session's name.

    `shown` is how logs name the token. Without members there is no token.
    """

    member: str
    token: str | None = None
    session: str | None = None
    shown: str | None = None

    def holds(self, members: Directory) -> bool:
        """Whether it still holds."""
        if self.token is None:
            return not members.has_members
        if self.session is not None and members.sessions.token_of(self.session) is None:
            return False
        return members.access_by_id(self.token) is not None


class ConnectionLimits(Struct, frozen=True):
    """Bounds for connections. Times are seconds, 0 is no bound.

    `header_timeout` runs from the first byte of a request to the end of its headers;
    `body_timeout` is that in which a part of the body has to arrive, and `write_timeout` that in
    which a client has to take a part of an answer. `idle_timeout` is that between two requests.
    `header_bytes` bounds each header and the request line.
    """

    max_connections: int = 20_000
    header_timeout: float = 20.0
    body_timeout: float = 60.0
    write_timeout: float = 60.0
    idle_timeout: float = 660.0
    header_bytes: int = 16 * 1024


# The states of a connection. `_REST`: the answer has gone out before the whole body had come.
_IDLE, _HEADERS, _BODY, _ANSWER, _REST, _SOCKET, _REFUSED = range(7)
_IDLE_STATES = (_IDLE, _HEADERS, _REST)


class Connection(web.RequestHandler):
    """One connection: aiohttp's protocol, and in which state it is since when."""

    __slots__ = (
        "_body",
        "_leave",
        "_lost",
        "_received",
        "_since",
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
        self._leave: Leave | None = None
        self._received = 0
        self._state = _IDLE
        self._since = manager.now()
        self._lost: asyncio.Future[None] | None = None

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

    def upgraded(self, leave: Leave) -> None:
        """The connection is a websocket, which may be silent; `leave` closes it."""
        self._state, self._leave = _SOCKET, leave
        self._parser = None  # aiohttp no longer reads HTTP here, and the parser takes memory
        if self.admission is not None and not self.admission.holds(self.services.members):
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
        if self._leave is not None:
            self._leave(WSCloseCode.POLICY_VIOLATION, ACCESS_ENDED, REVOKE_TIMEOUT)
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
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)
        if refused:
            self.transport = None
        else:
            super().connection_lost(exc)

    def lost(self) -> asyncio.Future[None]:
        """Return a future that is done when the client has gone."""
        if self._lost is None:
            self._lost = self._loop.create_future()
            if self.transport is None or self.transport.is_closing():
                self._lost.set_result(None)
        return self._lost


def connection_of(request: web.BaseRequest) -> Connection:
    """The connection on which a request came."""
    return cast("Connection", request.protocol)


def way_of(request: web.BaseRequest) -> Way:
    """How a request came."""
    return connection_of(request).way


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


class ConnectionManager:
    """The connections of a listener. Those from trusted proxies are not counted by address."""

    def __init__(self, limits: ConnectionLimits, services: Services) -> None:
        self.now = asyncio.get_running_loop().time
        self.services = services
        #: Connections that `check` has to look at, and since when a client takes nothing more.
        self.timed: set[Connection] = set()
        self.stalled: dict[Connection, float] = {}
        self._limits = limits
        most = limits.max_connections
        self._most_anonymous = max(1, most - int(most * (1 - ANONYMOUS_SHARE)))
        self._most_of_address = max(LEAST_SHARE, int(most * ADDRESS_SHARE))
        self._most_of_member = max(LEAST_SHARE, int(most * MEMBER_SHARE))
        self.connections: set[Connection] = set()
        self._refused = 0
        self._anonymous: dict[Connection, None] = {}
        self._by_address: _Groups = {}
        self._by_member: _Groups = {}
        self.draining = False
        self._changed = asyncio.Event()

    # --- what the connections tell ---------------------------------------------------------

    def accept(self, connection: Connection) -> bool | None:
        """Count a new connection. `None` lets it in; `True` refuses it with words, `False` without.

        Where all places are taken, or those of anonymous connections or of the address, one that
        has been idle for long is closed.
        """
        connection.address = _counted_by(connection.peer, self.services.trusted_proxies)
        self.connections.add(connection)
        neighbours = self._by_address.get(connection.address, {})
        many = len(neighbours) >= self._most_of_address
        most = self._limits.max_connections
        full = len(self.connections) - self._refused > most
        crowded = many or full or len(self._anonymous) >= self._most_anonymous
        if not crowded or self._evict(neighbours if many else self._anonymous):
            self._join_anonymous(connection)
            return None
        if self._refused == 0:
            log.warning("connection_limit_reached", limit=most, anonymous=len(self._anonymous))
        self._refused += 1
        return self._refused <= ANSWERED_REFUSALS

    def join(self, connection: Connection, admission: Admission) -> None:
        """Count a connection as its member's. Raises `LocalError` (503) for one too many."""
        member = admission.member
        others = self._by_member.get(member, {})
        many = admission.token is not None and len(others) >= self._most_of_member
        if many and not self._evict(others):
            raise LocalError(
                "too_many_connections",
                f"You have {len(others)} connections, which is the maximum for a member; close "
                "some and try again.",
                kind="unavailable",
                retry_after=5,
            )
        self._leave(connection)
        connection.member = member
        self._by_member.setdefault(member, {})[connection] = None

    def answered(self, connection: Connection) -> None:
        """An answer has gone out."""
        if connection.member is None:
            self._leave(connection)
            self._join_anonymous(connection)
        if self.draining:
            self._changed.set()

    def forget(self, connection: Connection, *, refused: bool) -> None:
        """A connection is gone."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._refused -= refused
        self._leave(connection)
        self.timed.discard(connection)
        self.stalled.pop(connection, None)
        self._changed.set()

    def _join_anonymous(self, connection: Connection) -> None:
        self._anonymous[connection] = None
        if connection.address:
            self._by_address.setdefault(connection.address, {})[connection] = None

    def _leave(self, connection: Connection) -> None:
        """Take it out of the anonymous connections, or out of its member's."""
        groups, key = self._by_address, connection.address
        if connection.member is not None:
            groups, key = self._by_member, connection.member
        else:
            self._anonymous.pop(connection, None)
        if (group := groups.get(key)) is not None:
            group.pop(connection, None)
            if not group:
                del groups[key]

    def _evict(self, candidates: dict[Connection, None]) -> bool:
        """Cut the connection that has been idle for longest, if that is long enough."""
        now = self.now()
        for connection in islice(candidates, EVICTION_CANDIDATES):
            if connection.idle_for(now) >= EVICTION_IDLE:
                log.debug("connection_evicted", member=connection.member)
                connection.cut()
                self.forget(connection, refused=False)
                return True
        return False

    # --- what the server asks for ----------------------------------------------------------

    def review(self) -> None:
        """End what is under way for those whose access has ended."""
        standing: dict[Admission, bool] = {}
        for connection in [one for group in self._by_member.values() for one in group]:
            admission = connection.admission
            if admission is not None:
                if admission not in standing:
                    standing[admission] = admission.holds(self.services.members)
                if not standing[admission]:
                    connection.revoke()

    async def run(self) -> None:
        """End what is too slow, until cancelled."""
        limits, idle = self._limits, self._limits.idle_timeout
        bounds = (limits.header_timeout, limits.body_timeout, limits.write_timeout, idle)
        pause = min(1.0, REFUSAL_TIMEOUT / 4, *(bound / 4 for bound in bounds if bound > 0))
        anonymous = min(idle or ANONYMOUS_TIMEOUT, ANONYMOUS_TIMEOUT)
        swept = self.now()
        while True:
            await asyncio.sleep(pause)
            now = self.now()
            for connection in list(self.timed):
                connection.check(now, limits)
            for connection, since in list(self.stalled.items()):
                if connection.busy and 0 < limits.write_timeout <= now - since:
                    log.info("answer_abandoned", member=connection.member)
                    connection.cut()
            self._end_idle(self._anonymous, now, anonymous)
            if 0 < idle <= 8 * (now - swept):
                swept = now
                for group in self._by_member.values():
                    self._end_idle(group, now, idle)

    @staticmethod
    def _end_idle(group: dict[Connection, None], now: float, patience: float) -> None:
        for connection in group:
            if connection.idle_for(now) >= patience:
                connection.drop()

    async def drain(self, patience: float) -> bool:
        """Close what is idle and wait for the answers under way, at most `patience` seconds.

        Says whether all have gone out.
        """
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while True:
                    self._changed.clear()
                    for connection in list(self.connections):
                        connection.end_unless_busy()
                    if not any(connection.busy for connection in self.connections):
                        return True
                    await self._changed.wait()
        return False

    def cancel(self) -> int:
        """Cancel the handlers that still run; their number."""
        busy = [connection for connection in self.connections if connection.busy]
        for connection in busy:
            connection.cancel()
        return len(busy)

    async def close(self, patience: float) -> None:
        """Close what is left, and cut what is not closed after `patience` seconds."""
        for connection in list(self.connections):
            connection.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.connections:
                    self._changed.clear()
                    await self._changed.wait()
        for connection in list(self.connections):
            connection.cut()


def _counted_by(peer: str, trusted: tuple[Network, ...]) -> str | bytes:
    """What connections of one place have in common: an IPv4 address, the /64 of an IPv6 one.

    It is empty where they are not counted.
    """
    address = parse_address(peer)
    if address is None or any(address in network for network in trusted):
        return ""
    return str(address) if address.version == 4 else address.packed[:8]
