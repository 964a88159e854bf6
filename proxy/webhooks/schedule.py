"""When a delivery is attempted again. Pure but for the jitter."""

from __future__ import annotations

from msgspec import Struct

from proxy.cloud.resilience import MAX_RETRY_AFTER
from proxy.runtime.backoff import Backoff

#: Seconds for writing the outcome of an attempt.
_MARGIN = 5.0


class RetrySchedule(Struct, frozen=True):
    """The times of attempts, in seconds: each takes at most `timeout`, the waits between them grow
    with the `backoff`, and none begins more than `max_age` after the message."""

    timeout: float = 15.0
    backoff: Backoff = Backoff(10.0, 4 * 3600.0, factor=3.0)
    max_age: float = 86_400.0

    @property
    def hold(self) -> float:
        """How long a delivery is held for an attempt and for writing its outcome."""
        return self.timeout + _MARGIN

    @property
    def longest(self) -> float:
        """The longest time for which a delivery is put off."""
        return max(self.hold, self.backoff.longest, MAX_RETRY_AFTER)

    def wait(self, attempts: int, age: float, asked: float | None = None) -> float | None:
        """Return the wait after this many failed attempts, `None` if there is no further one.

        `age` is that of the message, `asked` the `Retry-After` of the last answer.
        """
        wait = max(self.backoff.after(attempts), asked or 0.0)
        return None if age + wait > self.max_age else wait
