"""Growing delays between attempts. Pure but for the jitter."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.runtime import randomness


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds: `first`, growing by `factor` after each failure, up to `longest`."""

    first: float
    longest: float
    factor: float = 2.0

    def whole(self, failures: int) -> float:
        """Return the delay after this many failures in a row, from 1."""
        return min(self.longest, self.first * self.factor ** min(max(failures, 1) - 1, 30))

    def after(self, failures: int) -> float:
        """Return a random delay between half of `whole` and all of it, so that callers that fail
        together do not retry together."""
        return jittered(self.whole(failures))


def jittered(wait: float) -> float:
    """Return a random time between half of `wait` and all of it."""
    return wait * randomness.uniform(0.5, 1.0)
