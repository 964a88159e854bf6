"""Temporary files of requests: how many bytes of them each member has on the disk.

A body of a few kilobytes can unpack to the largest upload, so what counts is what is written.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import ExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self

from proxy.translate.errors import LocalError

#: Uploads of the largest size that a member may have under way.
MAX_UPLOADS = 4


class SpoolFullError(LocalError):
    """A member's requests under way would have too much on the disk."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            "uploads_under_way",
            f"Your uploads and downloads under way need more than {limit:,} bytes on the proxy's "
            "disk; let some of them end, and try again.",
            kind="rate_limited",
            retry_after=2.0,
        )


class Spool:
    """Counts temporary bytes by member."""

    def __init__(self) -> None:
        self._by_member: Counter[str] = Counter()
        self.files = SharedFiles()

    def share(self, member: str, max_upload_bytes: int) -> SpoolShare:
        """Return a share of a member, of 0 bytes, by the size of the largest upload."""
        return SpoolShare(self._by_member, member, MAX_UPLOADS * max_upload_bytes)

    def held(self) -> int:
        """Return the bytes of all members."""
        return self._by_member.total()


class SpoolShare:
    """The temporary bytes of one request. A context manager that gives them back at its end."""

    def __init__(self, by_member: Counter[str], member: str, limit: int) -> None:
        self._by_member = by_member
        self._member = member
        self._limit = limit
        self._size = 0

    def grow(self, size: int) -> None:
        """Count more bytes, before they are written. Raises `SpoolFullError`."""
        if self._by_member[self._member] + size > self._limit:
            raise SpoolFullError(self._limit)
        self._by_member[self._member] += size
        self._size += size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._by_member[self._member] -= self._size
        self._size = 0
        if self._by_member[self._member] <= 0:
            del self._by_member[self._member]


class SharedFiles:
    """Temporary copies of content that many requests may read at once: one of each content."""

    def __init__(self) -> None:
        self._open: dict[Hashable, _SharedFile] = {}

    @asynccontextmanager
    async def opened(
        self, key: Hashable, make: Callable[[ExitStack], Awaitable[Any]]
    ) -> AsyncIterator[Any]:
        """Give what `make` returns to all who have it open at once, and close it behind the last.

        `make` puts what is to be closed on the stack. Raises what it raises.
        """
        shared = self._open.get(key)
        if shared is None:
            shared = self._open[key] = _SharedFile(make)
        shared.users += 1
        try:
            yield await asyncio.shield(shared.making)
        finally:
            shared.users -= 1
            if shared.users == 0:
                del self._open[key]
                await shared.close()


class _SharedFile:
    def __init__(self, make: Callable[[ExitStack], Awaitable[Any]]) -> None:
        self.users = 0
        self._stack = ExitStack()
        self.making = asyncio.ensure_future(make(self._stack))

    async def close(self) -> None:
        self.making.cancel()
        await asyncio.wait([self.making])
        self._stack.close()
