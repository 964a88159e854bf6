"""Short notices that a member's client leaves for the member's web pages, which poll for them.

They are kept for half a minute, in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from msgspec import Struct

from proxy.runtime import clock
from proxy.sharing.budget import Allocation, MemoryBudget, MemoryLimitError
from proxy.translate import codec
from proxy.translate.errors import LocalError

#: Seconds for which a notice is kept.
MAX_AGE = 30.0
#: Bytes of a notice, and notices of a member that are kept.
MAX_NOTICE_BYTES, MAX_NOTICES = 16 * 1024, 1000
#: Bytes that a notice takes beside its text.
_OVERHEAD = 512


class NoticeLeft(Struct, frozen=True):
    """A notice for the member's web pages; `at` is in seconds since 1970, `argument` JSON."""

    member: str
    at: float
    command: str
    argument: str


class Notices:
    """The notices of all members. Close it to stop its timers."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._kept: dict[str, _MemberNotices] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        budget.add_cache(self._evict)

    def leave(self, member: str, command: str, argument: Any = None) -> None:
        """Leave a notice. Raises `LocalError` (413) for one that is too large."""
        text = codec.dumps(argument)
        if len(text) > MAX_NOTICE_BYTES:
            raise LocalError(
                "note_too_large",
                f"The message has more than {MAX_NOTICE_BYTES:,} bytes, which is the maximum.",
                kind="too_large",
            )
        if member not in self._kept:
            self._kept[member] = _MemberNotices(self._budget.spare(member, "workflow"))
            self._wake_later(member)
        self._kept[member].append(NoticeLeft(member, clock.time(), command, text))

    def since(self, member: str, since: float) -> list[NoticeLeft]:
        """Return the notices that were left after a time (seconds since 1970)."""
        kept = self._kept.get(member)
        oldest = max(since, clock.time() - MAX_AGE)
        return [] if kept is None else [notice for notice in kept.notices if notice.at > oldest]

    def _evict(self) -> bool:
        """Forget the oldest notice of a member; return whether there was one."""
        for kept in self._kept.values():
            if kept.notices:
                kept.drop()
                return True
        return False

    def close(self) -> None:
        """Stop the timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _wake_later(self, member: str) -> None:
        loop = asyncio.get_running_loop()
        self._timers[member] = loop.call_later(MAX_AGE, self._expire, member)

    def _expire(self, member: str) -> None:
        """Forget the member's old notices, and look again when others may be old."""
        kept = self._kept[member]
        kept.expire(clock.time() - MAX_AGE)
        if kept.notices:
            self._wake_later(member)
        else:
            del self._kept[member], self._timers[member]


class _MemberNotices:
    """A member's notices, the newest ones, with their bytes."""

    def __init__(self, allocation: Allocation) -> None:
        self.notices: deque[NoticeLeft] = deque()
        self._allocation = allocation

    def append(self, notice: NoticeLeft) -> None:
        """Add a notice; the oldest give way to it."""
        size = _size(notice)
        if len(self.notices) >= MAX_NOTICES:
            self.drop()
        while True:
            try:
                self._allocation.grow(size)
            except MemoryLimitError:
                if not self.notices:
                    return
                self.drop()
            else:
                self.notices.append(notice)
                return

    def expire(self, oldest: float) -> None:
        """Forget the notices that are older than `oldest`."""
        while self.notices and self.notices[0].at <= oldest:
            self.drop()

    def drop(self) -> None:
        """Forget the oldest notice."""
        notice = self.notices.popleft()
        self._allocation.resize(self._allocation.size - _size(notice))


def _size(notice: NoticeLeft) -> int:
    return len(notice.command) + len(notice.argument) + _OVERHEAD
