"""The time in which a leader may act."""

from __future__ import annotations

import asyncio
import math

from proxy.runtime import clock
from proxy.storage.database import FencedError
from proxy.storage.leases import Lease


class Term:
    """The time in which a leader may act: until `until` (`clock.monotonic()`), which is the past
    once it is `over`. Its writes carry the `fence`. `successor` names the process that is to lead
    instead, once there is one."""

    def __init__(self, lease: Lease, until: float = math.inf) -> None:
        self.lease = lease
        self.fence = lease.fence
        self.until = until
        self.successor: str | None = None
        self.over = asyncio.Event()

    def end(self) -> None:
        """End the term: this process may act as the leader no more."""
        self.until = -math.inf
        self.over.set()

    @property
    def lasts(self) -> bool:
        """Whether this process may act as the leader; without other processes it may for ever."""
        return self.until == math.inf or clock.monotonic() < self.until

    def check(self) -> None:
        """Check that the term lasts, directly before what only one process may do. Raises
        `FencedError`."""
        if not self.lasts:
            raise FencedError("the lease of this process has run out")
