"""What a connection of the cloud sends that is no event. Pure."""

from __future__ import annotations

from msgspec import Struct

#: Seconds between two lines of the log about rejected messages, and in which they are counted.
INTERVAL = 10.0
#: Rejected messages of an interval after which a connection is given up.
MAX_REJECTED = 1_000


class Rejections(Struct, eq=False):
    """The rejected messages of a connection. `now` is a monotonic clock in seconds."""

    _since: float = float("-inf")
    _count: int = 0
    _unlogged: int = 0

    def count(self, now: float) -> int:
        """Count a message. Return how many are to be logged now, at most once in an interval."""
        is_first = now - self._since >= INTERVAL
        if is_first:
            self._since, self._count = now, 0
        self._count += 1
        self._unlogged += 1
        if not is_first:
            return 0
        logged, self._unlogged = self._unlogged, 0
        return logged

    @property
    def too_many(self) -> bool:
        """Whether the connection is not worth to be read any longer."""
        return self._count >= MAX_REJECTED
