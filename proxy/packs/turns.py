"""Turns by member, so that what one member has asked for waits behind its own alone."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class Turns:
    """At most `count` turns at once for each member."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._members: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, member: str) -> asyncio.Semaphore:
        """Return the member's turns, to be taken with `async with`."""
        return self._members.setdefault(member, asyncio.Semaphore(self._count))
