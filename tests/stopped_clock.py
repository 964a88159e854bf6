"""A clock of the proxy that a test sets."""

from __future__ import annotations

import pytest

from proxy.runtime import clock
from proxy.runtime.clock import SystemClock


class StoppedClock(SystemClock):
    """A clock whose time of day, and monotonic time, are `at` so many seconds."""

    def __init__(self, at: float) -> None:
        self.at = at

    def time_ns(self) -> int:
        return round(self.at * 1e9)

    def monotonic(self) -> float:
        return self.at


def stopped(monkeypatch: pytest.MonkeyPatch, at: float) -> StoppedClock:
    """Let the clock of the proxy stand still."""
    stopped_clock = StoppedClock(at)
    monkeypatch.setattr(clock, "source", stopped_clock)
    return stopped_clock
