"""The time of day, as rows, messages and logs have it."""

from __future__ import annotations

import time


def now() -> int:
    """Return the time in ms since 1970."""
    return time.time_ns() // 1_000_000
