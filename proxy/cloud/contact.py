"""What the calls and the event socket of an account show of the way to the cloud."""

from __future__ import annotations

import math


class Contact:
    """Since when the cloud owes an account an answer.

    Pure: `now` is any clock in seconds that does not run backwards. Any answer counts, a refusal
    included: it came from the cloud. `answered_at` is the time of the last one.
    """

    def __init__(self) -> None:
        self.answered_at = -math.inf
        self._failed_at: float | None = None
        self._calls: dict[int, float] = {}
        self._number = 0

    def call(self, now: float) -> int:
        """Note that a call begins; returns its number."""
        self._number += 1
        self._calls[self._number] = now
        return self._number

    def ended(self, number: int, now: float, *, answered: bool) -> None:
        """Note that a call has ended, with an answer of the cloud or without."""
        began = self._calls.pop(number)
        if answered:
            self.answered(now)
        else:
            self.lost(began)

    def answered(self, now: float) -> None:
        """Note that the cloud has answered."""
        self.answered_at = now
        self._failed_at = None

    def lost(self, now: float) -> None:
        """Note that a connection was lost or did not come about."""
        if self._failed_at is None:
            self._failed_at = max(now, self.answered_at)

    def unanswered_since(self) -> float | None:
        """Return since when something has been without an answer; `None` if nothing is."""
        since = self._failed_at
        if self._calls:
            oldest = max(next(iter(self._calls.values())), self.answered_at)
            since = oldest if since is None else min(since, oldest)
        return since
