"""A connection of a listener: who is admitted on it, its current request and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import structlog
from aiohttp import StreamReader, WSCloseCode, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from yarl import URL

from proxy.edge.addressing import (
    EXCESSIVE_TARGET,
    MAX_SEGMENTS,
    NO_PREFIX,
    ON_LOOPBACK,
    STANDBY,
    Peer,
    client_of,
    is_excessive,
    is_loopback_address,
    may_have_token,
    peer_of,
    standby_at,
    strip,
)
from proxy.edge.aiohttp_internals import BY_ANSWER, has_waiting_request
from proxy.edge.context import EdgeContext
from proxy.edge.counted_connections import CountedConnections
from proxy.edge.limited_connection import LEAVE_TIMEOUT, Leave, LimitedConnection
from proxy.runtime import clock
from proxy.sharing.budget import Allocation
from proxy.sharing.owners import member_owner, stranger

if TYPE_CHECKING:
    from proxy.members.directory import Directory

log = structlog.get_logger(__name__)

#: The target of a request whose own one is not looked at.
NOWHERE = URL("/")
#: The reason in the close frame of a client whose access has ended.
ACCESS_ENDED = "Your access to this server has ended; ask an admin."
#: The reason with which websockets close when the server stops.
GOING_AWAY = "The proxy is stopping."


class Connection(LimitedConnection):
    """aiohttp's protocol of one connection, with its current request."""

    __slots__ = (
        "_counted",
        "address",
        "admission",
        "allocations",
        "is_ending",
        "on_loopback",
        "passes_on",
        "peer",
        "prefix",
    )

    def __init__(
        self,
        context: EdgeContext,
        counted: CountedConnections[Connection],
        server: web.Server,
        **options: Any,
    ) -> None:
        super().__init__(context, server, **options)
        self._counted = counted
        #: The other end, and the address of who sends.
        self.peer, self.address = Peer(""), ""
        #: Whether the connection is to a loopback address of this machine, and not from a proxy.
        self.on_loopback = False
        #: Whether a standby passes on the current request.
        self.passes_on = False
        #: The prefix of the current request, and its admission.
        self.prefix = NO_PREFIX
        self.admission: Admission | None = None
        #: What the current request holds until it has its answer.
        self.allocations: tuple[Allocation, ...] = ()
        #: Whether the connection ends after the answer under way.
        self.is_ending = False

    # --- requests --------------------------------------------------------------------------

    def admit(self, admission: Admission) -> bool:
        """Count the connection for the member of an authenticated request.

        Return whether somebody else was its sender. Raises `LocalError` (503) if the member has too
        many connections.
        """
        self.admission, member = admission, admission.member
        if self.sender.member == member:
            return False
        if self.owner.member != member:
            self._counted.join(self, member, clock.monotonic())
        self.sender = member_owner(member)
        self.driver.account = self.context.turns.of_member(member, self.driver.address)
        return True

    def sent_from(self, address: str) -> None:
        """Record a sender without authentication by its address."""
        self.address, self.sender = address, stranger(address)
        self.driver.address = self.sender.address
        self.driver.account = self.context.turns.of_stranger(self.sender.address)

    def is_of_standby(self, *, on_loopback: bool) -> None:
        """Believe a standby who its clients are, and whether the client of this request is on its
        machine."""
        if not self.peer.proxies:
            self.peer = standby_at(self.peer)
        self.on_loopback = on_loopback

    def release(self) -> None:
        """Release what the current request holds until it has its answer."""
        for allocation in self.allocations:
            allocation.release()
        self.allocations = ()

    def answered(self) -> None:
        """Note that an answer has been sent, or cannot be."""
        self.task = None
        self._idle_since = self.driver.turns.now
        if self._body_timer is not None:
            self._stop_body_timer()
        if self.is_ending:
            self.end()
        elif self.paused_by & BY_ANSWER and not has_waiting_request(self):
            self.resume(BY_ANSWER)

    def upgraded(self, leave: Leave) -> None:
        """Treat the connection as a websocket from now on; `leave` closes it."""
        self._leave = leave
        self.is_ending = False
        if self.task is not None:
            self._counted.keep(self.task)
        self.answered()

    # --- the end ---------------------------------------------------------------------------

    def leave(self, code: int, reason: str) -> bool:
        """Close the websocket. Return whether the connection is one."""
        if self._leave is None:
            return False
        self._leave(code, reason, LEAVE_TIMEOUT)
        return True

    def revoke(self) -> None:
        """End the connection, because the access of its member has ended."""
        log.info("connection_closed", member=self.owner.member)
        if self.leave(WSCloseCode.POLICY_VIOLATION, ACCESS_ENDED):
            return
        if self.task is None:
            self.end()
        else:  # a short answer, such as to the removal of one's own token, is still sent
            self.is_ending = True
            asyncio.get_running_loop().call_later(LEAVE_TIMEOUT, self.cut)

    # --- the transport ---------------------------------------------------------------------

    def accept(self, transport: asyncio.BaseTransport) -> bool:
        """Count a new connection, before its TLS handshake if it has one.

        Return whether there is room for it.
        """
        peer, here = (transport.get_extra_info(name) for name in ("peername", "sockname"))
        name = str(peer[0]) if isinstance(peer, tuple) else ""
        self.peer = peer_of(name, self.context.trusted_proxies)
        self.on_loopback = is_loopback_address(here) and not self.peer.proxies
        self.sent_from(self.peer.address)
        if not self.peer.proxies:
            self.owner = self.sender
        self.transport = cast("asyncio.Transport", transport)
        return self._counted.enter(self, clock.monotonic())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with a connection, or refuse it."""
        if self.transport is not None or self.accept(transport):
            super().connection_made(transport)
        else:
            self._counted.refuse(cast("asyncio.Transport", transport))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._counted.leave(self)
        if self.task is not None:
            self._counted.keep(self.task)
        super().connection_lost(exc)


def driven(
    handle: Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a handler whose steps are charged to the senders of its requests."""

    def drive(request: web.Request) -> Awaitable[web.StreamResponse]:
        connection: Any = request.protocol
        connection.task = asyncio.current_task()
        answer: Awaitable[web.StreamResponse] = connection.driver.drive(handle(request))
        return answer

    return drive


def begun(
    make: Callable[..., web.BaseRequest],
    message: RawRequestMessage,
    body: StreamReader,
    connection: Connection,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """Begin a request at its connection after its headers, and make it without the prefixes of its
    path."""
    connection.begin_body(body, task)
    connection.admission, connection.prefix = None, NO_PREFIX
    if connection.context.is_standby is not None:
        headers = message.headers
        connection.passes_on = connection.context.is_standby(headers.get(STANDBY, ""))
        if connection.passes_on:
            connection.is_of_standby(on_loopback=ON_LOOPBACK in headers)
    if connection.peer.proxies:
        connection.sent_from(client_of(connection.peer, message.headers))
    target = message.path
    if len(target) > MAX_SEGMENTS and is_excessive(target):
        connection.prefix = EXCESSIVE_TARGET
        message = message._replace(url=NOWHERE, path=NOWHERE.path)
    else:
        base, gated = connection.context.base_path, connection.context.members.has_members
        if base or (gated and may_have_token(target)):
            url, connection.prefix = strip(message.url, base, members=gated)
            if url is not message.url:
                message = message._replace(url=url, path=str(url))
    return make(message, body, connection, writer, task)


class Admission(NamedTuple):
    """An authenticated member, with the id of its token and, from a browser, the session's name.

    `shown` is how logs name the token. Without members there is no token.
    """

    member: str
    token: str | None = None
    session: str | None = None
    shown: str | None = None

    def holds(self, members: Directory) -> bool:
        """Return whether the member still has access."""
        if self.token is None:
            return not members.has_members
        if self.session is not None and members.sessions.token_of(self.session) is None:
            return False
        return members.access_by_id(self.token) is not None
