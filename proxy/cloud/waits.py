"""How long to wait before asking again: growing, jittered, inside a budget."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import stamina
import structlog
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from proxy.cloud.errors import (
    PASSING_STATUSES,
    CloudDown,
    CloudError,
    CloudGarbage,
    CloudRefused,
    CloudUnreachable,
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Waits:
    """Waits in seconds: the first, twice as long each time, none beyond the longest."""

    first: float
    longest: float

    def after(self, failures: int) -> float:
        """The wait after so many failures in a row, drawn from its upper half."""
        return jittered(min(self.longest, self.first * 2 ** min(failures - 1, 30)))


@dataclass(frozen=True, slots=True)
class Patience:
    """How reads are repeated: no wait ends later than `budget` seconds after the first attempt."""

    budget: float = 30.0
    waits: Waits = Waits(first=0.25, longest=8.0)

    def attempts(self) -> AsyncIterator[stamina.Attempt]:
        """`async for attempt in …: with attempt: …`; the last error goes to the caller."""
        deadline = time.monotonic() + self.budget
        failures = 0

        def backoff(error: Exception) -> float | bool:
            nonlocal failures
            failures += 1
            if not may_pass(error):
                return False
            wait = self.waits.after(failures)
            asked = error.retry_after if isinstance(error, CloudError) else None
            if asked is not None:
                wait = max(wait, asked + jittered(self.waits.first))
            return wait if time.monotonic() + wait <= deadline else False

        return aiter(stamina.retry_context(backoff, attempts=None, timeout=None))


def _tell(details: RetryDetails) -> None:
    """One line for each repetition; what caused it is a `CloudError`, which names no secret."""
    log.info(
        "cloud_asked_again",
        error=str(details.caused_by),
        attempt=details.retry_num + 1,
        seconds=round(details.wait_for, 2),
    )


set_on_retry_hooks([_tell])


def may_pass(error: Exception) -> bool:
    """Whether the same read may succeed a moment later."""
    if isinstance(error, CloudRefused):
        return error.status in PASSING_STATUSES
    return isinstance(error, CloudUnreachable | CloudGarbage) and not isinstance(error, CloudDown)


def jittered(wait: float) -> float:
    """Between half of `wait` and all of it."""
    return wait * random.uniform(0.5, 1.0)  # noqa: S311 (spreads load, hides nothing)
