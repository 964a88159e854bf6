"""Members whose jobs are held back by a hard budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class BudgetHold(NamedTuple):
    """Jobs of a member that are not sent until a time of the clock: those that are expected to cost
    more than is `left`, or all without it, until one of the member's jobs has ended."""

    until: float
    left: int | None


class BudgetHolds:
    """The hold of each member that has one, by the monotonic `clock` in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._holds: dict[str, BudgetHold] = {}

    def hold(self, member: str, seconds: float, left: int | None) -> None:
        """Hold the jobs of a member that cost more than is `left`, or all without it."""
        self._holds[member] = BudgetHold(self._clock() + seconds, left)

    def holds_all(self, member: str) -> bool:
        """Return whether no job of the member goes."""
        hold = self._current(member)
        return hold is not None and hold.left is None

    def exceeds(self, member: str, estimate: int) -> bool:
        """Return whether a job would cost more than the member has left."""
        hold = self._current(member)
        return hold is not None and hold.left is not None and max(1, estimate) > hold.left

    def cost_known(self, member: str) -> bool:
        """Note that the cost of a job of the member is known; return whether others waited for
        that."""
        hold = self._holds.get(member)
        if hold is None or hold.left is not None:
            return False
        del self._holds[member]
        return True

    def clear(self) -> None:
        """End all holds."""
        self._holds.clear()

    def ends(self) -> Iterable[float]:
        """Return when the holds end."""
        return [hold.until for hold in self._holds.values()]

    def _current(self, member: str) -> BudgetHold | None:
        hold = self._holds.get(member)
        if hold is not None and hold.until <= self._clock():
            del self._holds[member]
            return None
        return hold
