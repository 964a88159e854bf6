"""The clock: no other module of the server reads one.

Code on the event loop also waits by `loop.time()`, which follows the loop. A simulation puts its
own clock in the place of `source`.
"""

from __future__ import annotations

import time as system_time


class SystemClock:
    """The clocks of this machine."""

    time_ns = staticmethod(system_time.time_ns)
    monotonic = staticmethod(system_time.monotonic)


source: SystemClock = SystemClock()


def time() -> float:
    """Return the seconds since 1970."""
    return source.time_ns() / 1_000_000_000


def time_ns() -> int:
    """Return the nanoseconds since 1970."""
    return source.time_ns()


def now() -> int:
    """Return the time in ms since 1970, as rows, messages and logs have it."""
    return source.time_ns() // 1_000_000


def microseconds() -> int:
    """Return the time in µs since 1970, as records of assets have it."""
    return source.time_ns() // 1_000


def monotonic() -> float:
    """Return seconds of a clock that is never set, for durations and deadlines."""
    return source.monotonic()
