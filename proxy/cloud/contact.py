"""What the calls and the event socket of an account show of the way to the cloud."""

from __future__ import annotations

import math

from proxy.metrics import CloudCalls


class Contact:
    """Since when the cloud owes an account an answer.

    Pure: `now` is any clock in seconds that does not run backwards. Any answer counts, a refusal
    included: it came from the cloud. `answered_at` is the time of the last one, `unanswered_since`
    that from which something has been without an answer; `None` if nothing is.
    """

    def __init__(self) -> None:
        self.answered_at = -math.inf
        self._calls = 0
        self.unanswered_since: float | None = None

    def call(self, now: float) -> None:
        """Note that a call begins."""
        self._calls += 1
        if self.unanswered_since is None:
            self.unanswered_since = now

    def ended(self, now: float, *, answered: bool) -> None:
        """Note that a call has ended, with an answer of the cloud or without."""
        self._calls -= 1
        if answered:
            self.answered(now)

    def answered(self, now: float) -> None:
        """Note that the cloud has answered."""
        self.answered_at = now
        self.unanswered_since = now if self._calls else None

    def lost(self, now: float) -> None:
        """Record a connection that was lost or could not be opened."""
        if self.unanswered_since is None:
            self.unanswered_since = now


class CallMonitor:
    """Notes the calls of an account: `calls` counts them, `contact` shows whether they are
    answered. Pure, as `Contact`."""

    def __init__(self, calls: CloudCalls) -> None:
        self.calls = calls
        self.contact = Contact()

    def began(self, now: float) -> None:
        """Note that a call begins."""
        self.contact.call(now)

    def ended(self, method: str, route: str, status: int | None, began: float, now: float) -> None:
        """Note that a call that began at `began` has ended; `status` is `None` without an
        answer."""
        self.contact.ended(now, answered=status is not None)
        self.calls.observe(method, route, status, now - began)
