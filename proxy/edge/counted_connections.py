"""Limits of connections by address and member, and which connections are closed for new ones.

A connection is one of a stranger until a request on it has been authenticated. If there is no room
for a stranger's, another stranger's connection is closed for the new one: one of the address with
the most, or else the oldest. So strangers cannot keep others out.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Protocol

from proxy.owners import Owner
from proxy.pool import Pool

#: Connections that an owner may have of the part that is kept for those who have few.
MIN_SHARE = 16
#: Seconds after which an idle connection of a member may be closed for a new one.
EVICTION_IDLE = 5.0
#: Seconds after which a stranger's connection may be closed for one of its own address.
EVICTION_AGE = 1.0
#: Maximum number of connections that are checked for one that can be closed.
MAX_CANDIDATES = 1024
#: Maximum number of connections that are closed for a new one.
_MAX_EVICTED = 3


class Evictable(Protocol):
    """What `CountedConnections` uses of a connection."""

    #: Whom it is counted for; set by `CountedConnections`.
    owner: Owner

    def idle_for(self, now: float) -> float:
        """Return the seconds since the last request; 0 while there is one."""

    def age(self, now: float) -> float:
        """Return the seconds since it was accepted."""

    def cut(self) -> None:
        """Abort the connection."""


class CountedConnections:
    """The connections that the `pool` counts, those of strangers and those of members."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        # Dictionaries instead of sets, for their order: the oldest is first.
        self._strangers: dict[Evictable, None] = {}
        self._by_owner: dict[Owner, dict[Evictable, None]] = {}

    def enter(self, connection: Evictable, now: float) -> bool:
        """Add a new connection of a stranger; others may be closed for it.

        Return whether there is room.
        """
        for _ in range(_MAX_EVICTED):
            if self._pool.take(connection.owner, 1):
                self._add(connection)
                return True
            if not self._make_room(connection.owner, now):
                return False
        return False

    def renew(self, connection: Evictable) -> None:
        """Count a connection as the youngest of the strangers', if it is one of them."""
        if connection in self._strangers:
            self._remove(connection)
            self._add(connection)

    def join_member(self, connection: Evictable, member: str, now: float) -> int | None:
        """Count a connection for a member.

        Return `None`, or the number of the member's connections if there is no room.
        """
        owner = Owner(member)
        if not self._pool.move(connection.owner, owner, 1):
            others = self._by_owner.get(owner, {})
            idle = _idle(others, now)
            if idle is None:
                return len(others)
            self._remove(idle)  # the new one is counted instead
            idle.cut()
            self._pool.give_back(connection.owner, 1)
        self._remove(connection)
        connection.owner = owner
        self._add(connection)
        return None

    def leave(self, connection: Evictable) -> None:
        """Remove a connection; does nothing for one that is not counted."""
        if self._remove(connection):
            self._pool.give_back(connection.owner, 1)

    def _add(self, connection: Evictable) -> None:
        self._by_owner.setdefault(connection.owner, {})[connection] = None
        if not connection.owner.member:
            self._strangers[connection] = None

    def _remove(self, connection: Evictable) -> bool:
        group = self._by_owner.get(connection.owner, {})
        if connection not in group:
            return False
        del group[connection]
        if not group:
            del self._by_owner[connection.owner]
        self._strangers.pop(connection, None)
        return True

    def _make_room(self, owner: Owner, now: float) -> bool:
        """Close a connection for a new one of a stranger; return whether one was closed."""
        neighbours = self._by_owner.get(owner, {}) if owner.address else {}
        groups = self._by_owner.items()
        largest = _largest(group for other, group in groups if other.address)
        if len(largest) > len(neighbours) + 1:
            return self._evict(next(iter(largest)))
        has_most = len(neighbours) == len(largest) and len(neighbours) > self._pool.minimum
        if self._evict(_old(neighbours if has_most else self._strangers, now)):
            return True
        members = _largest(group for other, group in groups if other.member)
        return not has_most and self._evict(_idle(members, now))

    def _evict(self, connection: Evictable | None) -> bool:
        if connection is None:
            return False
        self.leave(connection)
        connection.cut()
        return True


def _largest(groups: Iterable[dict[Evictable, None]]) -> dict[Evictable, None]:
    return max(groups, key=len, default={})


def _old(connections: dict[Evictable, None], now: float) -> Evictable | None:
    """Return the first connection of a stranger that is old enough to make room."""
    candidates = islice(connections, MAX_CANDIDATES)
    return next(
        (connection for connection in candidates if connection.age(now) >= EVICTION_AGE), None
    )


def _idle(connections: dict[Evictable, None], now: float) -> Evictable | None:
    """Return the first connection that is idle for long enough to make room."""
    candidates = islice(connections, MAX_CANDIDATES)
    return next(
        (connection for connection in candidates if connection.idle_for(now) >= EVICTION_IDLE), None
    )
