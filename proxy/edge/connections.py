"""A connection of a listener: its current request, its place among all connections, and its end.

A `Connection` extends aiohttp's protocol of one connection. The `ConnectionManager` checks all of
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import structlog
from aiohttp import StreamReader, WSCloseCode, web
from aiohttp.http_parser import RawRequestMessage
from yarl import URL

from proxy.budget import Allocation
from proxy.edge.addressing import (
    EXCESSIVE,
    STRAIGHT,
    is_excessive,
    is_loopback_address,
    may_have_token,
    peer_of,
    strip,
)
from proxy.edge.admission import Admission
from proxy.edge.aiohttp_internals import BY_ANSWER, has_waiting_request
from proxy.edge.connection_manager import REFUSAL_TIMEOUT, ConnectionManager
from proxy.edge.limited_connection import REVOKE_TIMEOUT, ConnectionState, Leave, LimitedConnection
from proxy.edge.raw_answers import TOO_MANY_CONNECTIONS

log = structlog.get_logger(__name__)

#: The target of a request whose own one is not looked at.
NOWHERE = URL("/")
#: The reason in the close frame of a client whose access has ended.
ACCESS_ENDED = "Your access to this server has ended."


class Connection(LimitedConnection):
    """aiohttp's protocol of one connection, with its current request and its place."""

    __slots__ = (
        "_accepted_at",
        "_lost",
        "admission",
        "allocations",
        "cancelled",
        "on_loopback",
        "task",
        "way",
    )

    def __init__(self, manager: ConnectionManager, server: web.Server, **options: Any) -> None:
        super().__init__(manager, server, **options)
        #: The way of the current request, and its admission.
        self.way = STRAIGHT
        self.admission: Admission | None = None
        #: The handler of the current request, and whether it was cancelled by `cancel`.
        self.task: asyncio.Task[object] | None = None
        self.cancelled = False
        #: What the current request holds until it has its answer.
        self.allocations: list[Allocation] = []
        #: Whether the connection is to a loopback address of this machine, and not from a proxy.
        self.on_loopback = False
        self._lost: asyncio.Future[None] | None = None
        self._accepted_at = self._since

    # --- requests --------------------------------------------------------------------------

    def admit(self, admission: Admission) -> None:
        """Count the connection for the member of an authenticated request.

        Raises `LocalError` (503) if the member has too many.
        """
        self.admission = admission
        if self.owner.member != admission.member:
            self.manager.join(self, admission)
            self._held.release()  # taken from the member's budget with the next input

    def release(self) -> None:
        """Release what the current request holds until it has its answer."""
        for allocation in self.allocations:
            allocation.release()
        self.allocations.clear()

    def answered(self) -> None:
        """Note that an answer has been sent, or cannot be."""
        if self._state is not ConnectionState.ANSWER:
            return
        self.task = None
        self._enter(
            ConnectionState.IDLE
            if self._body is None or self._body.is_eof()
            else ConnectionState.REST
        )
        if self.transport is None:
            return  # it is lost, and the manager has forgotten it
        if not self.owner.member or self.manager.draining:
            self.manager.answered(self)
        holds = self._input or self.paused_by & BY_ANSWER or self._held.allocation is not None
        if holds and not has_waiting_request(self):
            self._resume_input()

    def upgraded(self, leave: Leave) -> None:
        """Treat the connection as a websocket from now on; `leave` closes it."""
        self._leave = leave
        self._enter(ConnectionState.SOCKET)
        if self.admission is not None and not self.admission.holds(self.context.members):
            self.revoke()  # its access ended during the handshake
        self._resume_input()

    def idle_for(self, now: float) -> float:
        """Return the seconds since the last request; 0 while there is one."""
        idle = self._state in (
            ConnectionState.IDLE,
            ConnectionState.REST,
        ) and not has_waiting_request(self)
        return now - self._since if idle else 0.0

    def age(self, now: float) -> float:
        """Return the seconds since it was accepted."""
        return now - self._accepted_at

    # --- the end ---------------------------------------------------------------------------

    def cancel(self) -> None:
        """Cancel the handler of the current request; the middleware answers in its place."""
        if self.task is not None and not self.cancelled:
            self.cancelled = True
            self.task.cancel()

    def revoke(self) -> None:
        """End the connection, because the access of its member has ended."""
        log.info("connection_closed", member=self.owner.member)
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
        if self._state not in (ConnectionState.ANSWER, ConnectionState.SOCKET):
            self.end()

    # --- the transport ---------------------------------------------------------------------

    def accept(self, peer: str, end_handshake: Callable[[], object]) -> bool:
        """Accept a connection at the beginning of its TLS handshake; `end_handshake` closes it.

        Return whether there is a place for it. `connection_made` or `handshake_failed` follows.
        """
        self.peer = peer_of(peer, self.context.trusted_proxies)
        self._handshake, self._state = end_handshake, ConnectionState.HANDSHAKE
        if self.manager.accept(self) is None:
            return True
        self.handshake_failed()
        return False

    def refuse(self) -> None:
        """Answer whatever the client sends with a refusal."""
        self._enter(ConnectionState.REFUSED)
        asyncio.get_running_loop().call_later(REFUSAL_TIMEOUT, self.end)

    def handshake_failed(self) -> None:
        """Forget a connection whose handshake has failed."""
        self.manager.forget(self, refused=self._state is ConnectionState.REFUSED)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept or refuse the connection."""
        accepted = self._handshake is not None
        if not accepted:
            name = transport.get_extra_info("peername")
            peer = str(name[0]) if isinstance(name, tuple) else ""
            self.peer = peer_of(peer, self.context.trusted_proxies)
        here = transport.get_extra_info("sockname")
        self.on_loopback = is_loopback_address(here) and not self.peer.proxies
        if accepted:
            self._handshake = None
            self._enter(ConnectionState.IDLE)
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
        """Parse input, or answer a refused client."""
        if self._state is ConnectionState.REFUSED:
            self._answer_raw(TOO_MANY_CONNECTIONS)
        else:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        refused = self._state is ConnectionState.REFUSED
        self.manager.forget(self, refused=refused)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)
        self._held.release()
        if self._body_timer is not None:
            self._body_timer.cancel()
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


def driven(
    handle: Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]],
    request: web.BaseRequest,
) -> Awaitable[web.StreamResponse]:
    """Handle a request in steps that are charged to the owner of its connection.

    Few requests are not charged at all: with the check of each step they would take 3 % longer.
    """
    driver = cast("Connection", request.protocol).driver
    work = handle(cast("web.Request", request))
    return work if driver.turns.is_calm else driver.drive(work)


def begun(
    make: Callable[..., web.BaseRequest],
    message: RawRequestMessage,
    body: StreamReader,
    connection: Connection,
    *others: object,
) -> web.BaseRequest:
    """Begin a request at its connection after its headers, and make it without the prefixes of its
    path."""
    connection.begin_body(message, body)
    connection.admission, connection.way = None, STRAIGHT
    if is_excessive(message.path):
        connection.way = EXCESSIVE
        message = message._replace(url=NOWHERE, path=NOWHERE.path)
        return make(message, body, connection, *others)
    base, gated = connection.context.base_path, connection.context.members.has_members
    if base or (gated and may_have_token(message.path)):
        url, connection.way = strip(message.url, base, members=gated)
        if url is not message.url:
            message = message._replace(url=url, path=str(url))
    return make(message, body, connection, *others)
