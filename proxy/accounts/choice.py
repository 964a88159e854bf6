"""Which account takes the next job: weighted turns among those that can."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Choice:
    """Weighted turns of accounts, pure. One that could not serve for a while gets no credit."""

    def __init__(self) -> None:
        self._now = 0.0
        self._next: dict[str, float] = {}

    def of(self, weights: Mapping[str, float]) -> str | None:
        """The one of these accounts (name to weight) whose turn it is; `None` of none."""
        return min(weights, key=self._start, default=None)

    def took(self, name: str, weight: float) -> None:
        """The account got a job."""
        self._now = self._start(name)
        self._next[name] = self._now + 1.0 / weight

    def _start(self, name: str) -> float:
        return max(self._now, self._next.get(name, 0.0))


def may_use(allowed: Iterable[str], member: str) -> bool:
    """Whether a member's jobs may run where `allowed` are named; none named is everybody."""
    names = frozenset(allowed)
    return not names or member in names
