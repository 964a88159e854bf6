"""Limits of connections by address and member, and which connections are closed for new ones.

A connection is one of a stranger until a request on it has been authenticated. If there is no room
for a stranger's, another stranger's connection is closed for the new one. So strangers cannot keep
others out.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

import structlog

from proxy.edge.limited_connection import LimitedConnection
from proxy.edge.raw_answers import RefusedConnection
from proxy.sharing.owners import Owner, member_owner
from proxy.sharing.pool import Pool
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: Connections that an owner may have of the part that is kept for those who have few.
MIN_SHARE = 16
#: Seconds after which an idle connection of a member may be closed for a new one.
EVICTION_IDLE = 5.0
#: Seconds after which a stranger's connection may be closed for any new one.
EVICTION_AGE = 1.0
#: Maximum number of connections that are checked for one that can be closed.
MAX_CANDIDATES = 256
#: Maximum number of concurrent connections beyond the limit that get an answer.
MAX_ANSWERED_REFUSALS = 256
#: Attempts to make room for a new connection.
_ATTEMPTS = 3

C = TypeVar("C", bound=LimitedConnection)


class CountedConnections(Generic[C]):
    """The connections that the `pool` counts, those of strangers and those of members."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        # With the time when each one was counted; the oldest is first.
        self._strangers: dict[C, float] = {}
        self._members: dict[C, float] = {}
        self._by_owner: defaultdict[Owner, dict[C, float]] = defaultdict(dict)
        #: Set while there are none.
        self.empty = asyncio.Event()
        self.empty.set()
        #: Handlers that run beside the requests of these connections: those of websockets, and of
        #: connections that were lost.
        self.handlers: set[asyncio.Task[Any]] = set()
        self._refused: set[RefusedConnection] = set()

    def all(self) -> list[C]:
        """Return all connections."""
        return [*self._strangers, *self._members]

    def keep(self, handler: asyncio.Task[Any]) -> None:
        """Remember a handler until it ends."""
        self.handlers.add(handler)
        handler.add_done_callback(self.handlers.discard)

    def enter(self, connection: C, now: float) -> bool:
        """Add a new connection of a stranger; others may be closed for it.

        Return whether there is room.
        """
        for _ in range(_ATTEMPTS):
            if self._pool.take(connection.owner, 1):
                self._add(connection, now)
                return True
            other = self._replaceable(connection.owner, now)
            if other is None:
                return False
            self.leave(other)
            other.cut()
        return False

    def refuse(self, transport: asyncio.Transport) -> None:
        """Answer what comes on a new connection with 503; if many wait for that, abort it."""
        if not self._refused:
            log.warning("connection_limit_reached", limit=self._pool.capacity)
        if len(self._refused) < MAX_ANSWERED_REFUSALS:
            RefusedConnection(transport, self._refused)
        else:
            transport.abort()

    def cut_refused(self) -> None:
        """Abort the refused connections that are still open."""
        for connection in list(self._refused):
            connection.cut()

    def join(self, connection: C, member: str, now: float) -> None:
        """Count a connection for a member; an idle one of the member may be closed for it.

        Raises `LocalError` (503) if there is no room. Does nothing for one that is not counted.
        """
        if connection not in self._by_owner.get(connection.owner, ()):
            return
        owner = member_owner(member)
        if not self._pool.move(connection.owner, owner, 1):
            others = self._by_owner.get(owner, {})
            idle = _idle(others, now)
            if idle is None:
                raise LocalError(
                    "too_many_connections",
                    f"You have {len(others)} connections, and the rest is reserved for others; "
                    "close some and try again.",
                    kind="unavailable",
                    retry_after=5,
                )
            self._remove(idle)  # the new one is counted instead
            idle.cut()
            self._pool.give_back(connection.owner, 1)
        self._remove(connection)
        connection.owner = owner
        self._add(connection, now)

    def leave(self, connection: C) -> None:
        """Remove a connection; does nothing for one that is not counted."""
        if connection in self._by_owner.get(connection.owner, ()):
            self._remove(connection)
            self._pool.give_back(connection.owner, 1)

    def _add(self, connection: C, now: float) -> None:
        self.empty.clear()
        self._by_owner[connection.owner][connection] = now
        self._group_of(connection)[connection] = now

    def _remove(self, connection: C) -> None:
        of_owner = self._by_owner[connection.owner]
        del of_owner[connection], self._group_of(connection)[connection]
        if not of_owner:
            del self._by_owner[connection.owner]
        if not self._by_owner:
            self.empty.set()

    def _group_of(self, connection: C) -> dict[C, float]:
        return self._members if connection.owner.member else self._strangers

    def _replaceable(self, owner: Owner, now: float) -> C | None:
        """Return the connection that is closed for a new one of a stranger.

        That is the oldest one that is old enough, or one from an address with more than the
        owner. An owner with many loses one of its own. While there are few strangers, it may be
        one of a member that is idle.
        """
        few, own = self._pool.minimum, self._by_owner.get(owner, {}) if owner.address else {}
        for other, since in _candidates(own if len(own) > few else self._strangers):
            count = len(self._by_owner[other.owner]) if other.owner.address else 0
            if now - since >= EVICTION_AGE or count > len(own) + 1:
                return other
        return _idle(self._members, now) if len(self._strangers) <= few else None


def _candidates(group: dict[C, float]) -> Iterator[tuple[C, float]]:
    return islice(group.items(), MAX_CANDIDATES)


def _idle(group: dict[C, float], now: float) -> C | None:
    """Return the first connection that is idle for long enough to make room."""
    return next(
        (other for other, _ in _candidates(group) if other.idle_for(now) >= EVICTION_IDLE), None
    )
