"""Members whose jobs wait for memory that others of them hold."""

from __future__ import annotations

from collections.abc import Callable

from proxy.runtime.backoff import Backoff

#: Seconds until a job asks again although none of the others has ended.
_RETRY = Backoff(2.0, 60.0)


class MemoryWaits:
    """Until when the jobs of each member wait, by the monotonic `clock` in seconds, and how often
    one has asked in vain. One asks at a time, so that they do not leave the queue together."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waits: dict[str, tuple[float, int]] = {}

    def refused(self, member: str) -> None:
        """Note that there was no room for a job of a member."""
        _, failures = self._waits.get(member, (0.0, 0))
        self._waits[member] = (self._clock() + _RETRY.whole(failures + 1), failures + 1)

    def waits(self, member: str) -> bool:
        """Return whether no job of a member goes."""
        return member in self._waits and self._clock() < self._waits[member][0]

    def asks(self, member: str) -> None:
        """Note that a job of a member leaves the queue: the others stay until it has room."""
        if member in self._waits:
            _, failures = self._waits[member]
            self._waits[member] = (self._clock() + _RETRY.whole(failures + 1), failures)

    def has_room(self, member: str) -> bool:
        """Note that there was room for a job of a member; return whether others may ask now."""
        return self._waits.pop(member, None) is not None

    def freed(self, member: str) -> bool:
        """Note that a job of a member holds nothing; return whether another one may ask now."""
        if member not in self._waits:
            return False
        self._waits[member] = (self._clock(), 0)
        return True

    def ends(self) -> list[float]:
        """Return when jobs may ask again."""
        return [until for until, _ in self._waits.values()]
