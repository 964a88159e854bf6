"""A pool of one resource, of which owners have shares that shrink as it fills.

An owner holds at most `a` times what is still free afterwards (dynamic thresholds, Choudhury and
Hahne 1998). `a` is 1 for a member and 1/4 for all strangers together, so that one member never
holds more than a half, and strangers never more than a fifth. Strangers share what they may hold by
address, with the same rule. What is held does not drain by itself: greedy owners, one after
another, get 50, 25 and 12 %. The last eighth is therefore kept for owners that hold little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from proxy.sharing.owners import Owner

#: How many times what is free a member may hold, and all strangers together.
MEMBER_FACTOR, STRANGERS_FACTOR = 1.0, 1 / 4
#: The part of a pool that is kept for owners that hold at most the minimum.
KEPT = 1 / 8


class Pool:
    """`capacity` units of one resource; `minimum` is what counts as little for an owner.

    A part of them may be *spare*: held for what can be made again, such as a cache. Spare units
    count as free for everything else, and are given up when they are needed.
    """

    def __init__(self, capacity: int, minimum: int) -> None:
        self.capacity = capacity
        self.minimum = max(1, min(minimum, int(capacity * KEPT)))
        self._held: Counter[Owner] = Counter()
        self._spare: Counter[Owner] = Counter()
        self._used = self._strangers = self._spare_used = 0
        self._caches: list[Callable[[], bool]] = []

    @property
    def used(self) -> int:
        """The units that are held, the spare ones included."""
        return self._used + self._spare_used

    def held(self, owner: Owner) -> int:
        """Return the units that an owner holds, without spare ones."""
        return self._held[owner]

    def most(self, owner: Owner) -> int:
        """Return how many units an owner may hold if the pool is empty otherwise."""
        whole = self.capacity
        if owner.member:
            share = whole * MEMBER_FACTOR / (1 + MEMBER_FACTOR)
        else:
            # Of one address: x = (whole - x) / 4 - x; of strangers without one: x = (whole - x) / 4
            share = whole * STRANGERS_FACTOR / ((1 if not owner.address else 2) + STRANGERS_FACTOR)
        return max(self.minimum, int(share))

    def fits(self, owner: Owner, amount: int) -> bool:
        """Return whether an owner may hold `amount` units more."""
        return self._fits(owner, self._held[owner] + amount, self._used + amount, amount)

    def take(self, owner: Owner, amount: int) -> bool:
        """Hold `amount` units more for an owner, if they fit. Return whether they did.

        Caches give up spare units for them.
        """
        if not self.fits(owner, amount):
            return False
        while self.used + amount > self.capacity:
            if not any(evict() for evict in self._caches):
                return False
        self._add(owner, amount)
        return True

    def give_back(self, owner: Owner, amount: int) -> None:
        """Release units of an owner."""
        self._add(owner, -amount)

    def move(self, owner: Owner, to: Owner, amount: int) -> bool:
        """Hold units of an owner for another one instead, if they fit. Return whether they did."""
        self._add(owner, -amount)
        if self.take(to, amount):
            return True
        self._add(owner, amount)
        return False

    def _add(self, owner: Owner, amount: int) -> None:
        self._used += amount
        if not owner.member:
            self._strangers += amount
        self._held[owner] += amount
        if self._held[owner] <= 0:
            del self._held[owner]

    # --- what can be made again ----------------------------------------------------------------

    def add_cache(self, evict: Callable[[], bool]) -> None:
        """Ask `evict` when spare units are needed: it gives some up, and returns whether it did."""
        self._caches.append(evict)

    def take_spare(self, owner: Owner, amount: int) -> bool:
        """Hold `amount` units of an owner as spare, if they fit beside all that is held."""
        held = self._held[owner] + self._spare[owner] + amount
        if not self._fits(owner, held, self.used + amount, amount):
            return False
        self._spare[owner] += amount
        self._spare_used += amount
        return True

    def give_back_spare(self, owner: Owner, amount: int) -> None:
        """Release spare units of an owner."""
        self._spare_used -= amount
        self._spare[owner] -= amount
        if self._spare[owner] <= 0:
            del self._spare[owner]

    def allows(self, held: int, used: int) -> bool:
        """Return whether a member may hold so many of the units that are `used`, both counted
        elsewhere, after a growth."""
        free = self.capacity - used
        return self._is_share(held, MEMBER_FACTOR * free, free, self.capacity)

    # --- the rule ------------------------------------------------------------------------------

    def _fits(self, owner: Owner, held: int, used: int, amount: int) -> bool:
        """Return whether `held` units of an owner fit if `used` are held by all; both are those
        after the growth by `amount`."""
        free = self.capacity - used
        if owner.member:
            return self._is_share(held, MEMBER_FACTOR * free, free, self.capacity)
        strangers = self._strangers + amount
        limit = max(STRANGERS_FACTOR * free, self.minimum)
        if not self._is_share(strangers, limit, free, self.capacity):
            return False
        rest = limit - strangers
        return not owner.address or self._is_share(held, rest, rest, limit)

    def _is_share(self, held: int, limit: float, free: float, capacity: float) -> bool:
        if held <= self.minimum:
            return free >= 0
        return held <= limit and free >= KEPT * capacity
