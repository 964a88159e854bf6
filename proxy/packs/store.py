"""Pictures that clients have put and results of nodes, by id, as bytes.

Everything belongs to one member. What is in memory on the way counts in the budget.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from proxy.files.service import Files
from proxy.packs import pictures
from proxy.packs.nodes import PackNodeError
from proxy.runtime.clock import now
from proxy.sharing.budget import Allocation, MemoryBudget, MemoryLimitError
from proxy.sharing.turns import Turns
from proxy.storage.temporary import PackPicture, PackPictureRepository
from proxy.translate.errors import LocalError

#: Bytes of all pictures of a member that are kept.
MAX_MEMBER_BYTES = 512 * 1024 * 1024

#: Seconds that a result waits for memory that others hold, and between two attempts.
_MEMORY_TIMEOUT, _MEMORY_INTERVAL = 30.0, 0.25


@dataclass(eq=False)
class PictureStore:
    """The pictures and results of all members."""

    repository: PackPictureRepository
    files: Files
    budget: MemoryBudget

    def __post_init__(self) -> None:
        #: For what is wholly in memory on its way from or to the database, one at a time.
        self.memory_turns = Turns(1)

    async def knows(self, member: str, id_: str) -> bool:
        """Return whether there is a picture under the id. Raises `StorageError`."""
        return await self.repository.size(member, id_) is not None

    async def put(self, member: str, id_: str, data: bytes, content_type: str) -> bool:
        """Keep a picture; return false if the id is known, whose picture stays.

        Raises `LocalError` (too large) when the member keeps too much, `StorageError`.
        """
        picture = PackPicture(member, id_, content_type, now(), len(data), data)
        async with self.memory_turns.hold(member):
            put = await self.repository.put(picture, max_bytes=MAX_MEMBER_BYTES)
        if put is None:
            raise LocalError(
                "too_many_pictures",
                f"Your stored pictures have more than {MAX_MEMBER_BYTES} bytes; "
                "try again in a few minutes, when old ones have expired.",
                kind="too_large",
            )
        return put

    @asynccontextmanager
    async def opened(
        self, member: str, id_: str, *, use: bool = False
    ) -> AsyncIterator[tuple[bytes, str] | None]:
        """Give a picture or result and its media type, `None` for an unknown id.

        It counts in the budget until the end of the block; `use` keeps it young. Raises
        `LocalError` for a result that the cloud does not hand out and beyond the budget,
        `PackNodeError`, `StorageError`.
        """
        with self.budget.member(member, "picture") as held:
            async with self.memory_turns.hold(member):
                size = await self.repository.size(member, id_)
                found = None
                if size is not None:
                    held.grow(size)
                    found = await self.repository.get(member, id_, now=now(), use=use)
            if found is None:
                yield None
            elif found.data is not None:
                yield found.data, found.content_type
            else:
                item = {"filename": found.cloud_name, "type": found.cloud_type}
                yield (
                    await self.result_bytes(
                        member, item, found.encoding, held, account=found.account or ""
                    ),
                    found.content_type,
                )

    async def result_bytes(
        self,
        member: str,
        item: Mapping[str, Any],
        format_: str | None,
        held: Allocation,
        *,
        account: str,
        waits: bool = False,
    ) -> bytes:
        """Return a file of an account as its client wants it, counted in `held`.

        With `waits` it waits a while for memory that others hold.
        """
        async with (
            self.files.output(member, item, account=account) as source,
            self.files.uploads.partial() as target,
        ):
            path = source
            if format_ is not None:
                path = target
                await pictures.encode(self.files, member, source, format_, target)
            size = (await asyncio.to_thread(path.stat)).st_size
            await _grow(held, size, waits=waits)
            return await asyncio.to_thread(path.read_bytes)


async def _grow(held: Allocation, size: int, *, waits: bool) -> None:
    """Hold more bytes, with `waits` when others have given back theirs.

    Raises `PackNodeError` if they can never be held, `MemoryLimitError` if not in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (_MEMORY_TIMEOUT if waits else 0.0)
    while True:
        try:
            held.grow(size)
        except MemoryLimitError as error:
            if not error.is_passing:
                raise PackNodeError("MemoryError", error.message) from error
            if loop.time() >= deadline:
                raise
            await asyncio.sleep(_MEMORY_INTERVAL)
        else:
            return
