"""Token buckets, which limit how often something may happen."""

from __future__ import annotations

from dataclasses import dataclass, field

from cachetools import LRUCache


@dataclass(slots=True)
class Bucket:
    """A token bucket that gains `rate` tokens a second, up to `size`. `now` is any clock (s)."""

    rate: float
    size: float
    filled: float = field(init=False)
    at: float | None = None

    def __post_init__(self) -> None:
        self.filled = self.size

    def spend(self, now: float) -> float:
        """Take a token. Return 0, or the seconds until there will be one."""
        self._fill(now)
        if self.filled >= 1:
            self.filled -= 1
            return 0.0
        return (1 - self.filled) / self.rate

    def charge(self, now: float, amount: float) -> float:
        """Take tokens that are used already. Return the seconds until none is owed."""
        self._fill(now)
        self.filled -= amount
        return max(0.0, -self.filled / self.rate)

    def _fill(self, now: float) -> None:
        if self.at is not None:
            self.filled = min(self.size, self.filled + max(0.0, now - self.at) * self.rate)
        self.at = now


class Buckets:
    """A token bucket for each owner; the least recently used are forgotten."""

    def __init__(self, rate: float, size: float, max_owners: int = 4096) -> None:
        self._rate = rate
        self._size = size
        self._buckets: LRUCache[str, Bucket] = LRUCache(max_owners)

    def __len__(self) -> int:
        return len(self._buckets)

    def spend(self, owner: str, now: float) -> float:
        """Take a token of the owner. Return 0, or the seconds until there will be one."""
        return self._of(owner).spend(now)

    def charge(self, owner: str, now: float, amount: float) -> float:
        """Take tokens of the owner that are used already. Return the seconds until it owes none."""
        return self._of(owner).charge(now, amount)

    def _of(self, owner: str) -> Bucket:
        bucket = self._buckets.get(owner)
        if bucket is None:
            bucket = self._buckets[owner] = Bucket(self._rate, self._size)
        return bucket
