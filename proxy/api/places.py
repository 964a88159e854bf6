"""Limits of connections by address and member, and which connections are closed for new ones.

A connection is *anonymous* until a request on it has been authenticated. Anonymous connections
never get all places, and no address gets all of theirs. If no place is left, an anonymous
connection is closed for a new one: one of an address that has more of them than the new one's, or
else the oldest. So strangers cannot keep others out.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Protocol

#: Maximum shares of all places: of anonymous connections, of one address, and of one member.
ANONYMOUS_SHARE, ADDRESS_SHARE, MEMBER_SHARE = 3 / 4, 1 / 64, 1 / 2
#: Places that an address or a member may always have.
MIN_SHARE = 64
#: Seconds after which an idle connection of a member may be closed for a new one.
EVICTION_IDLE = 5.0
#: Seconds after which an anonymous connection may be closed for one of its own address.
EVICTION_AGE = 1.0
#: Maximum number of connections that are checked for one that can be closed.
MAX_CANDIDATES = 1024

#: An address, or the network of one; empty where connections are not counted by address.
AddressKey = str | bytes


class Occupant(Protocol):
    """What `Places` uses of a connection."""

    address: AddressKey
    member: str | None

    def idle_for(self, now: float) -> float:
        """Return the seconds since the last request; 0 while there is one."""

    def age(self, now: float) -> float:
        """Return the seconds since it was accepted."""

    def cut(self) -> None:
        """Abort the connection."""


class _Groups:
    """Groups of connections by a key, oldest first. Finding the largest group takes O(1)."""

    def __init__(self) -> None:
        # Dictionaries instead of sets, for their order.
        self.all: dict[AddressKey, dict[Occupant, None]] = {}
        self._by_size: dict[int, dict[AddressKey, None]] = {}
        self._largest = 0

    def of(self, key: AddressKey) -> dict[Occupant, None]:
        return self.all.get(key, {})

    def largest(self) -> dict[Occupant, None]:
        return self.all[next(iter(self._by_size[self._largest]))] if self._largest else {}

    def add(self, key: AddressKey, place: Occupant) -> None:
        group = self.all.setdefault(key, {})
        size = len(group)
        group[place] = None
        self._move(key, size, len(group))

    def discard(self, key: AddressKey, place: Occupant) -> bool:
        group = self.all.get(key)
        if group is None or place not in group:
            return False
        size = len(group)
        del group[place]
        self._move(key, size, size - 1)
        if not group:
            del self.all[key]
        return True

    def _move(self, key: AddressKey, previous: int, size: int) -> None:
        if previous == size:
            return
        if previous:
            keys = self._by_size[previous]
            del keys[key]
            if not keys:
                del self._by_size[previous]
        if size:
            self._by_size.setdefault(size, {})[key] = None
        if size > self._largest or (previous == self._largest and previous not in self._by_size):
            self._largest = size


class Places:
    """Up to `max_connections` connections, by address while they are anonymous, then by member."""

    def __init__(self, max_connections: int) -> None:
        self._max = max_connections
        self._max_anonymous = max(1, max_connections - int(max_connections * (1 - ANONYMOUS_SHARE)))
        self._max_of_address = max(MIN_SHARE, int(max_connections * ADDRESS_SHARE))
        self._max_of_member = max(MIN_SHARE, int(max_connections * MEMBER_SHARE))
        self._count = 0
        self.anonymous: dict[Occupant, None] = {}
        self._by_address = _Groups()
        self._by_member = _Groups()

    def enter(self, place: Occupant, now: float) -> bool:
        """Add a new connection; if no place is left, another one may be closed for it.

        Return whether there is a place.
        """
        neighbours = self._by_address.of(place.address) if place.address else {}
        if len(neighbours) >= self._max_of_address:
            free = self._evict(_old(neighbours, now))
        elif len(self.anonymous) >= self._max_anonymous:
            free = self._evict_anonymous(neighbours, now)
        elif self._count >= self._max:
            free = self._evict_anonymous(neighbours, now) or self._evict(
                _idle(self._by_member.largest(), now)
            )
        else:
            free = True
        if free:
            self.join_anonymous(place)
        return free

    def join_anonymous(self, place: Occupant) -> None:
        """Count a connection as the youngest of the anonymous ones."""
        self.leave(place)
        self._count += 1
        self.anonymous[place] = None
        if place.address:
            self._by_address.add(place.address, place)

    def join_member(self, place: Occupant, member: str, now: float, *, limited: bool) -> int | None:
        """Count a connection for a member, who has a share of all places if `limited`.

        Return `None`, or the number of the member's connections if there is no place.
        """
        others = self._by_member.of(member)
        if limited and len(others) >= self._max_of_member and not self._evict(_idle(others, now)):
            return len(others)
        self.leave(place)
        self._count += 1
        place.member = member
        self._by_member.add(member, place)
        return None

    def leave(self, place: Occupant) -> None:
        """Remove a connection; does nothing for one that is not counted."""
        if place.member is not None:
            self._count -= self._by_member.discard(place.member, place)
        elif place in self.anonymous:
            del self.anonymous[place]
            self._count -= 1
            if place.address:
                self._by_address.discard(place.address, place)

    def of_members(self) -> Iterable[dict[Occupant, None]]:
        """Return the connections of each member."""
        return self._by_member.all.values()

    def _evict_anonymous(self, neighbours: dict[Occupant, None], now: float) -> bool:
        largest = self._by_address.largest()
        if len(largest) > len(neighbours) + 1:
            return self._evict(next(iter(largest)))
        return self._evict(_old(self.anonymous, now))

    def _evict(self, place: Occupant | None) -> bool:
        if place is None:
            return False
        self.leave(place)
        place.cut()
        return True


def _old(places: dict[Occupant, None], now: float) -> Occupant | None:
    """Return the first anonymous connection that is old enough to make room."""
    candidates = islice(places, MAX_CANDIDATES)
    return next((place for place in candidates if place.age(now) >= EVICTION_AGE), None)


def _idle(places: dict[Occupant, None], now: float) -> Occupant | None:
    """Return the first connection that is idle for long enough to make room."""
    candidates = islice(places, MAX_CANDIDATES)
    return next((place for place in candidates if place.idle_for(now) >= EVICTION_IDLE), None)
