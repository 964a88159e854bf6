"""Limits of connections by address and member, and which connections are closed for new ones.

A connection is one of a stranger until a request on it has been authenticated. If a stranger has no
place, another stranger's connection is closed for the new one: one of the address with the most,
or else the oldest. So strangers cannot keep others out.
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


class Occupant(Protocol):
    """What `Places` uses of a connection."""

    #: Whom it is counted for; set by `Places`.
    owner: Owner

    def idle_for(self, now: float) -> float:
        """Return the seconds since the last request; 0 while there is one."""

    def age(self, now: float) -> float:
        """Return the seconds since it was accepted."""

    def cut(self) -> None:
        """Abort the connection."""


class _Groups:
    """Connections by their owner, oldest first. Finding the largest group takes O(1)."""

    def __init__(self) -> None:
        # Dictionaries instead of sets, for their order.
        self.all: dict[Owner, dict[Occupant, None]] = {}
        self._by_size: dict[int, dict[Owner, None]] = {}
        self._largest = 0

    def of(self, owner: Owner) -> dict[Occupant, None]:
        return self.all.get(owner, {})

    def largest(self) -> dict[Occupant, None]:
        return self.all[next(iter(self._by_size[self._largest]))] if self._largest else {}

    def add(self, place: Occupant) -> None:
        group = self.all.setdefault(place.owner, {})
        size = len(group)
        group[place] = None
        self._move(place.owner, size, len(group))

    def discard(self, place: Occupant) -> bool:
        group = self.all.get(place.owner)
        if group is None or place not in group:
            return False
        size = len(group)
        del group[place]
        self._move(place.owner, size, size - 1)
        if not group:
            del self.all[place.owner]
        return True

    def _move(self, owner: Owner, previous: int, size: int) -> None:
        if previous == size:
            return
        if previous:
            owners = self._by_size[previous]
            del owners[owner]
            if not owners:
                del self._by_size[previous]
        if size:
            self._by_size.setdefault(size, {})[owner] = None
        if size > self._largest or (previous == self._largest and previous not in self._by_size):
            self._largest = size


class Places:
    """The connections that have a place in the `pool`, those of strangers and those of members."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        #: Those of strangers, the oldest first.
        self.strangers: dict[Occupant, None] = {}
        self._by_address = _Groups()
        self._by_member = _Groups()

    def enter(self, place: Occupant, now: float) -> bool:
        """Add a new connection of a stranger; others may be closed for it.

        Return whether there is a place.
        """
        for _ in range(_MAX_EVICTED):
            if self._pool.take(place.owner, 1):
                self._add(place)
                return True
            if not self._make_room(place.owner, now):
                return False
        return False

    def renew(self, place: Occupant) -> None:
        """Count a connection as the youngest of the strangers', if it is one of them."""
        if place in self.strangers:
            self._remove(place)
            self._add(place)

    def join_member(self, place: Occupant, member: str, now: float) -> int | None:
        """Count a connection for a member.

        Return `None`, or the number of the member's connections if there is no place.
        """
        owner = Owner(member)
        if not self._pool.move(place.owner, owner, 1):
            others = self._by_member.of(owner)
            idle = _idle(others, now)
            if idle is None:
                return len(others)
            self._remove(idle)  # its place becomes that of the new one
            idle.cut()
            self._pool.give_back(place.owner, 1)
        self._remove(place)
        place.owner = owner
        self._add(place)
        return None

    def leave(self, place: Occupant) -> None:
        """Remove a connection; does nothing for one that is not counted."""
        if self._remove(place):
            self._pool.give_back(place.owner, 1)

    def of_members(self) -> Iterable[dict[Occupant, None]]:
        """Return the connections of each member."""
        return self._by_member.all.values()

    def _add(self, place: Occupant) -> None:
        if place.owner.member:
            self._by_member.add(place)
        else:
            self.strangers[place] = None
            if place.owner.address:
                self._by_address.add(place)

    def _remove(self, place: Occupant) -> bool:
        if place.owner.member:
            return self._by_member.discard(place)
        if place not in self.strangers:
            return False
        del self.strangers[place]
        if place.owner.address:
            self._by_address.discard(place)
        return True

    def _make_room(self, owner: Owner, now: float) -> bool:
        """Close a connection for a new one of a stranger; return whether one was closed."""
        neighbours, largest = self._by_address.of(owner), self._by_address.largest()
        if len(largest) > len(neighbours) + 1:
            return self._evict(next(iter(largest)))
        has_most = len(neighbours) == len(largest) and len(neighbours) > self._pool.minimum
        return self._evict(_old(neighbours if has_most else self.strangers, now)) or (
            not has_most and self._evict(_idle(self._by_member.largest(), now))
        )

    def _evict(self, place: Occupant | None) -> bool:
        if place is None:
            return False
        self.leave(place)
        place.cut()
        return True


def _old(places: dict[Occupant, None], now: float) -> Occupant | None:
    """Return the first connection of a stranger that is old enough to make room."""
    candidates = islice(places, MAX_CANDIDATES)
    return next((place for place in candidates if place.age(now) >= EVICTION_AGE), None)


def _idle(places: dict[Occupant, None], now: float) -> Occupant | None:
    """Return the first connection that is idle for long enough to make room."""
    candidates = islice(places, MAX_CANDIDATES)
    return next((place for place in candidates if place.idle_for(now) >= EVICTION_IDLE), None)
