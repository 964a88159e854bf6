"""Temporary files of requests, with a limit of bytes on disk for each member.

A body of a few kilobytes can decompress to the largest upload, so that the written bytes count.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

from proxy.budget import Allocation, OwnerTotals
from proxy.translate.errors import LocalError

#: Maximum bytes of a member on disk, as a multiple of the largest upload.
MAX_UPLOADS = 4


class SpoolFullError(LocalError):
    """Raised if a member's requests under way would need too much disk space."""

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
        self._totals = OwnerTotals()
        self.files = SharedFiles()

    def share(self, member: str, max_upload_bytes: int) -> Allocation:
        """Return an allocation of a member, of 0 bytes, by the size of the largest upload.

        Beyond the member's limit it raises `SpoolFullError`.
        """
        limit = MAX_UPLOADS * max_upload_bytes
        return Allocation(partial(self._charge, member, limit))

    def _charge(self, member: str, limit: int, growth: int, size: int) -> None:
        if not self._totals.charge(member, limit, growth):
            raise SpoolFullError(limit)


class SharedFiles:
    """Temporary copies of contents, each shared by all requests that read it."""

    def __init__(self) -> None:
        self._open: dict[Hashable, _SharedFile] = {}

    @asynccontextmanager
    async def opened(
        self, key: Hashable, make: Callable[[ExitStack], Awaitable[Any]]
    ) -> AsyncIterator[Any]:
        """Yield what `make` returns to all concurrent users of a key, and close it after the last.

        `make` pushes what must be closed on the stack. Raises what `make` raises.
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
