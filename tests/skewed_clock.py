"""A clock of the proxy whose time of day is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.runtime.clock import SystemClock


@dataclass
class SkewedClock(SystemClock):
    """The machine's clock, whose time of day is `ahead` by so many seconds."""

    ahead: float = 0.0

    def time_ns(self) -> int:
        return super().time_ns() + int(self.ahead * 1e9)
