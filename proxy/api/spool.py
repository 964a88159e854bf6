"""Temporary files of requests, with a pool of bytes on disk.

A body of a few kilobytes can decompress to the largest upload, so that the written bytes count.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

from proxy.runtime.waits import stop
from proxy.sharing.budget import Allocation
from proxy.sharing.owners import Owner
from proxy.sharing.pool import Pool
from proxy.translate.errors import LocalError

#: Bytes on disk for all members, as a multiple of the largest upload; a member has at most half.
MAX_UPLOADS = 16
#: Bytes that a member may hold of the part that is kept for those who hold little.
MIN_SHARE = 4 * 1024 * 1024


class SpoolFullError(LocalError):
    """Raised if a member's requests under way would need too much disk space."""

    def __init__(self, held: int) -> None:
        super().__init__(
            "uploads_under_way",
            f"Your unfinished uploads and downloads hold {held:,} bytes on the proxy's disk, which "
            "is your share; try again when some of them have ended.",
            kind="rate_limited",
            retry_after=2.0,
        )


class Spool:
    """The temporary bytes of all members; `max_upload_bytes` are those of the largest upload."""

    def __init__(self, max_upload_bytes: int) -> None:
        self.pool = Pool(MAX_UPLOADS * max_upload_bytes, MIN_SHARE)
        self.files = SharedFiles()

    def share(self, member: str) -> Allocation:
        """Return an allocation of a member, of 0 bytes.

        Beyond the member's share it raises `SpoolFullError`.
        """
        return Allocation(partial(self._charge, Owner(member)))

    def _charge(self, owner: Owner, growth: int, _: int) -> None:
        if growth <= 0:
            self.pool.give_back(owner, -growth)
        elif not self.pool.take(owner, growth):
            raise SpoolFullError(self.pool.held(owner))


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
        await stop(self.making)
        self._stack.close()
