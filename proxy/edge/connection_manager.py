"""All connections of a listener: their number, and their end.

`counted_connections` decides which connections are accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Protocol

import structlog
from msgspec import Struct

from proxy import clock
from proxy.budget import MemoryBudget
from proxy.edge.addressing import Network
from proxy.edge.admission import Admission
from proxy.edge.counted_connections import MIN_SHARE, CountedConnections, Evictable
from proxy.edge.loop_turns import LoopTurns
from proxy.members.directory import Directory
from proxy.pool import Pool
from proxy.supervisor import Supervisor
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: Seconds in which a refused client must send something to get an answer.
REFUSAL_TIMEOUT = 2.0
#: Maximum number of concurrent connections beyond the limit that get an answer.
MAX_ANSWERED_REFUSALS = 256


class ConnectionLimits(Struct, frozen=True):
    """Limits of connections. Times are in seconds, 0 is no limit.

    Within `body_timeout` a part of a body must arrive, and within `write_timeout` the client must
    read a part of the answer, where the system can tell (Linux). `idle_timeout` is from an answer
    to the end of the headers of the next request. `header_bytes` is the maximum size of each
    header.
    """

    max_connections: int = 20_000
    body_timeout: float = 60.0
    write_timeout: float = 60.0
    idle_timeout: float = 660.0
    header_bytes: int = 16 * 1024


class EdgeContext(Struct, frozen=True):
    """What connections use: the memory for clients, who has access, the reverse proxies that are
    trusted, and the prefix of all paths (`""` or like `/comfy`); and the services of the
    application, which only its handlers know."""

    budget: MemoryBudget
    members: Directory
    supervisor: Supervisor
    trusted_proxies: Sequence[Network] = ()
    base_path: str = ""
    services: Any = None


class ManagedConnection(Evictable, Protocol):
    """What the manager uses of a connection."""

    admission: Admission | None
    #: Whether all its requests are refused; set by the manager.
    is_refused: bool
    #: Whether a request is being answered.
    busy: bool

    def cancel(self) -> None:
        """Cancel the handler of the current request."""

    def revoke(self) -> None:
        """End the connection, because the access of its member has ended."""

    def end_unless_busy(self) -> None:
        """Close the connection unless a request is being answered or it is a websocket."""

    def end(self) -> None:
        """Close the connection after sending what was written."""


class ConnectionManager:
    """The connections of a listener. Those of trusted proxies are not counted by address."""

    def __init__(self, limits: ConnectionLimits, context: EdgeContext) -> None:
        self.now = clock.monotonic
        self.context = context
        self.turns = LoopTurns()
        self.limits = limits
        self.pool = Pool(limits.max_connections, MIN_SHARE)
        self._counted = CountedConnections(self.pool)
        self.connections: set[ManagedConnection] = set()
        self._refused = 0
        self.draining = False
        self._changed = asyncio.Event()

    # --- called by connections -------------------------------------------------------------

    def accept(self, connection: ManagedConnection) -> bool:
        """Count a new connection, or refuse it. Return whether there is room for it.

        If there is none, another connection may be closed for it.
        """
        self.connections.add(connection)
        if self._counted.enter(connection, self.now()):
            return True
        if self._refused == 0:
            log.warning("connection_limit_reached", limit=self.limits.max_connections)
        self._refused += 1
        connection.is_refused = True
        return False

    @property
    def may_answer_refusal(self) -> bool:
        """Whether few enough connections wait for their refusal."""
        return self._refused <= MAX_ANSWERED_REFUSALS

    def join(self, connection: ManagedConnection, member: str) -> None:
        """Count a connection for a member, unless it is lost. Raises `LocalError` (503) beyond
        the limit."""
        if connection not in self.connections:
            return
        count = self._counted.join_member(connection, member, self.now())
        if count is not None:
            raise LocalError(
                "too_many_connections",
                f"You have {count} connections, and others need the rest; close some and try "
                "again.",
                kind="unavailable",
                retry_after=5,
            )

    def answered(self, connection: ManagedConnection) -> None:
        """Note that an answer has been sent."""
        self._counted.renew(connection)
        if self.draining:
            self._changed.set()

    def forget(self, connection: ManagedConnection) -> None:
        """Remove a closed connection."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._refused -= connection.is_refused
        self._counted.leave(connection)
        self._changed.set()

    # --- called by the server --------------------------------------------------------------

    def review(self) -> None:
        """End the connections of members whose access has ended."""
        holds: dict[Admission, bool] = {}
        for connection in list(self.connections):
            admission = connection.admission if connection.owner.member else None
            if admission is not None:
                if admission not in holds:
                    holds[admission] = admission.holds(self.context.members)
                if not holds[admission]:
                    connection.revoke()

    async def drain(self, seconds: float) -> bool:
        """Close idle connections, and wait up to `seconds` for the answers under way.

        Return whether all of them were sent.
        """
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    self._changed.clear()
                    for connection in list(self.connections):
                        connection.end_unless_busy()
                    if not any(connection.busy for connection in self.connections):
                        return True
                    await self._changed.wait()
        return False

    def cancel(self) -> int:
        """Cancel the running handlers, and return their number."""
        busy = [connection for connection in self.connections if connection.busy]
        for connection in busy:
            connection.cancel()
        return len(busy)

    async def close(self, seconds: float) -> None:
        """Close all connections, and abort those that are not closed after `seconds`."""
        for connection in list(self.connections):
            connection.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.connections:
                    self._changed.clear()
                    await self._changed.wait()
        for connection in list(self.connections):
            connection.cut()
