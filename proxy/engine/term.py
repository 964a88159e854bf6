"""The time in which an engine may act."""

from __future__ import annotations

import asyncio
import math

from proxy.runtime import clock
from proxy.storage.database import FencedError
from proxy.storage.leases import Lease


class Term:
    """The time in which an engine may act: until `until` (`clock.monotonic()`), which is the past
    once it is `over`. Its writes carry the `fence`. `successor` names the replica that is to run
    the engine instead, once there is one."""

    def __init__(self, lease: Lease, until: float = math.inf) -> None:
        self.lease = lease
        self.fence = lease.fence
        self.until = until
        self.successor: str | None = None
        self.over = asyncio.Event()

    def end(self) -> None:
        """End the term: the engine may act no more."""
        self.until = -math.inf
        self.over.set()

    @property
    def lasts(self) -> bool:
        """Whether the engine may act now; without other replicas it may for ever."""
        return self.until == math.inf or clock.monotonic() < self.until

    def check(self) -> None:
        """Check that the term lasts, directly before what only one replica may do. Raises
        `FencedError`."""
        if not self.lasts:
            raise FencedError("the lease of this engine has run out")
