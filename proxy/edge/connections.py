"""A connection of a listener: its current request and its end.

A `Connection` extends aiohttp's protocol of one connection. The `ConnectionManager` checks all of
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
from aiohttp import StreamReader, WSCloseCode, web
from aiohttp.http_parser import RawRequestMessage
from yarl import URL

from proxy.budget import Allocation
from proxy.edge.addressing import (
    EXCESSIVE,
    MAX_SEGMENTS,
    ON_TOO_MANY_CONNECTIONS,
    STRAIGHT,
    client_of,
    is_excessive,
    is_loopback_address,
    may_have_token,
    peer_of,
    strip,
)
from proxy.edge.admission import Admission
from proxy.edge.aiohttp_internals import BY_ANSWER, has_waiting_request
from proxy.edge.connection_manager import REFUSAL_TIMEOUT, ConnectionManager
from proxy.edge.limited_connection import REVOKE_TIMEOUT, Leave, LimitedConnection
from proxy.edge.loop_turns import LoopAccount
from proxy.owners import Owner, stranger

log = structlog.get_logger(__name__)

#: The target of a request whose own one is not looked at.
NOWHERE = URL("/")
#: The reason in the close frame of a client whose access has ended.
ACCESS_ENDED = "Your access to this server has ended."


class Connection(LimitedConnection):
    """aiohttp's protocol of one connection, with its current request."""

    __slots__ = (
        "_accepted_at",
        "_idle_since",
        "_lost",
        "address",
        "admission",
        "allocations",
        "cancelled",
        "is_refused",
        "on_loopback",
        "task",
        "way",
    )

    def __init__(self, manager: ConnectionManager, server: web.Server, **options: Any) -> None:
        super().__init__(manager, server, **options)
        #: The address of who sends.
        self.address = ""
        #: The way of the current request, and its admission.
        self.way = STRAIGHT
        self.admission: Admission | None = None
        #: The handler of the current request, and whether it was cancelled by `cancel`.
        self.task: asyncio.Task[object] | None = None
        self.cancelled = False
        #: Whether all requests of the connection are refused.
        self.is_refused = False
        #: What the current request holds until it has its answer.
        self.allocations: list[Allocation] = []
        #: Whether the connection is to a loopback address of this machine, and not from a proxy.
        self.on_loopback = False
        self._lost: asyncio.Future[None] | None = None
        self._accepted_at = self._idle_since = manager.now()

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
            self.manager.join(self, member)
        self._sent_by(Owner(member), self.manager.turns.of_member(member, self.driver.address))
        return True

    def sent_from(self, address: str) -> None:
        """Note that somebody who is not signed in sends from an address."""
        self.address, sender = address, stranger(address)
        self.driver.address = sender.address
        self._sent_by(sender, self.manager.turns.of_stranger(sender.address))

    def _sent_by(self, sender: Owner, account: LoopAccount) -> None:
        self.sender, self.driver.account = sender, account
        self._held.release()  # the next input or output is held for the sender

    def release(self) -> None:
        """Release what the current request holds until it has its answer."""
        for allocation in self.allocations:
            allocation.release()
        self.allocations.clear()

    def answered(self) -> None:
        """Note that an answer has been sent, or cannot be."""
        if not self.busy:
            return
        self.task, self.busy = None, False
        self._idle_since = self.driver.turns.now
        if self._body_timer is not None:
            self._stop_body_timer()
        if self.transport is None:
            return  # it is lost, and the manager has forgotten it
        if not self.owner.member or self.manager.draining:
            self.manager.answered(self)
        holds = self.paused_by & BY_ANSWER or self._held.allocation is not None
        if holds and not has_waiting_request(self):
            self._resume_input()

    def upgraded(self, leave: Leave) -> None:
        """Treat the connection as a websocket from now on; `leave` closes it."""
        self._leave, self.busy = leave, False
        self._stop_body_timer()
        if self.admission is not None and not self.admission.holds(self.context.members):
            self.revoke()  # its access ended during the handshake
        self._resume_input()

    def idle_for(self, now: float) -> float:
        """Return the seconds since the last request; 0 while there is one."""
        return 0.0 if self.busy or self._leave is not None else now - self._idle_since

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
        if not self.busy and self._leave is None:
            self.end()

    # --- the transport ---------------------------------------------------------------------

    def accept(self, peer: str) -> bool:
        """Count a new connection; return whether there is room for it.

        If it has a TLS handshake this comes before that, and `connection_made` or
        `handshake_failed` after it.
        """
        self.peer = peer_of(peer, self.context.trusted_proxies)
        self.sent_from(self.peer.address)
        if not self.peer.proxies:
            self.owner = self.sender
        return self.manager.accept(self)

    def handshake_failed(self) -> None:
        """Forget a connection whose handshake has failed."""
        self.manager.forget(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, or answer its first request with a refusal."""
        is_accepted, self.handshake = self.handshake is not None, None
        if not is_accepted:
            name = transport.get_extra_info("peername")
            is_accepted = self.accept(str(name[0]) if isinstance(name, tuple) else "")
        here = transport.get_extra_info("sockname")
        self.on_loopback = is_loopback_address(here) and not self.peer.proxies
        super().connection_made(transport)
        if not is_accepted:
            if self.manager.may_answer_refusal:
                asyncio.get_running_loop().call_later(REFUSAL_TIMEOUT, self.end)
            else:
                self.cut()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self.manager.forget(self)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)
        self._held.release()
        self._stop_body_timer()
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
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a handler whose steps are charged to the senders of its requests."""

    def drive(request: web.Request) -> Awaitable[web.StreamResponse]:
        connection: Any = request.protocol
        answer: Awaitable[web.StreamResponse] = connection.driver.drive(handle(request))
        return answer

    return drive


def begun(
    make: Callable[..., web.BaseRequest],
    message: RawRequestMessage,
    body: StreamReader,
    connection: Connection,
    *others: object,
) -> web.BaseRequest:
    """Begin a request at its connection after its headers, and make it without the prefixes of its
    path."""
    connection.begin_body(body)
    connection.admission, connection.way = None, STRAIGHT
    if connection.peer.proxies:
        connection.sent_from(client_of(connection.peer, message.headers))
    target = message.path
    if connection.is_refused:
        connection.way = ON_TOO_MANY_CONNECTIONS
        message = message._replace(should_close=True)
    elif len(target) > MAX_SEGMENTS and is_excessive(target):
        connection.way = EXCESSIVE
        message = message._replace(url=NOWHERE, path=NOWHERE.path)
    else:
        base, gated = connection.context.base_path, connection.context.members.has_members
        if base or (gated and may_have_token(target)):
            url, connection.way = strip(message.url, base, members=gated)
            if url is not message.url:
                message = message._replace(url=url, path=str(url))
    return make(message, body, connection, *others)
