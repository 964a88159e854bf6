"""Write-behind: what is gathered in memory for a moment is stored together, in the background.

Nothing is lost while the process lives, and nothing counts twice: what the storage refuses is put
back before what came later, what it may have written is written again as the same batch, and a
write that was begun is awaited to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import structlog

from proxy.logging import FailureLines
from proxy.runtime import randomness
from proxy.runtime.waits import finish
from proxy.storage.database import OutcomeUnknownError, StorageError, ValueRefusedError
from proxy.storage.leases import Batch

log = structlog.get_logger(__name__)

K = TypeVar("K")
V = TypeVar("V")


def _newest(_: V, newer: V) -> V:
    return newer


class WriteBehind(Generic[K, V]):
    """Gathers entries by key, and has `write` store them in the order in which they came.

    `write` stores all entries or raises, and changes nothing for a batch that is stored already. Of
    two entries with one key `merge` makes one (default: the newer one). `run` waits `gather`
    seconds after the first entry, and `again` seconds after a failure. `what` names the entries in
    the log. No more than `limit` entries wait. An entry whose value the storage refuses is given up
    alone, and `refused` is called with it.
    """

    def __init__(
        self,
        what: str,
        write: Callable[[Mapping[K, V], Batch], Awaitable[object]],
        *,
        gather: float,
        again: float,
        merge: Callable[[V, V], V] = _newest,
        limit: int | None = None,
        refused: Callable[[V], None] = lambda _: None,
    ) -> None:
        self._what = what
        self._write = write
        self._gather = gather
        self._again = again
        self._merge = merge
        self._limit = limit
        self._refused = refused
        self._entries: dict[K, V] = {}
        self._writer = f"{what} {randomness.uuid4()}"
        self._batches = 0
        #: The entries of the write under way, or of one whose outcome is unknown.
        self._written: Mapping[K, V] = {}
        #: Those of them that nobody wants any more.
        self._dropped: set[K] = set()
        self._news = asyncio.Event()
        self._writing = asyncio.Lock()

    def __len__(self) -> int:
        """How many entries wait, those of a write under way or of an unknown outcome included."""
        return len(self._entries) + len(self._written)

    def __contains__(self, key: K) -> bool:
        return key in self._entries or key in self._written

    def add(self, key: K, value: V) -> bool:
        """Take an entry, to be stored soon; return whether there was room for it."""
        if key in self._entries:
            self._entries[key] = self._merge(self._entries[key], value)
        elif self._limit is not None and len(self) >= self._limit:
            return False
        else:
            self._entries[key] = value
        self._news.set()
        return True

    def drop(self, key: K) -> None:
        """Forget the entry of a key; one that is being written is not written again."""
        self._entries.pop(key, None)
        if key in self._written:
            self._dropped.add(key)

    async def flush(self) -> None:
        """Store all that was added before; a cancellation of the caller does not interrupt it.

        Raises what `write` raises, but for `ValueRefusedError`: then the entries wait still.
        """
        if self:
            await finish(self._flush())

    async def _flush(self) -> None:
        async with self._writing:
            self._news.clear()
            self._written, self._dropped = self._without_dropped(), set()
            if self._written:
                with suppress(ValueRefusedError):  # then they are among the others again
                    await self._write_batch(is_repeated=True)
            await self._write_entries(list(self._entries))

    async def _write_entries(self, keys: Sequence[K]) -> None:
        """Write these entries, in smaller batches if the storage refuses a value in them."""
        self._written = {key: self._entries.pop(key) for key in keys if key in self._entries}
        if not self._written:
            return
        self._batches += 1
        try:
            await self._write_batch()
        except ValueRefusedError as error:
            if len(keys) > 1:
                middle = len(keys) // 2
                await self._write_entries(keys[:middle])
                await self._write_entries(keys[middle:])
            elif keys[0] in self._entries:
                log.error("entry_refused", what=self._what, error=str(error))
                self._refused(self._entries.pop(keys[0]))

    async def _write_batch(self, *, is_repeated: bool = False) -> None:
        try:
            await self._write(self._written, Batch(self._writer, self._batches))
        except BaseException as error:
            is_unknown = is_repeated or isinstance(error, OutcomeUnknownError)
            if is_unknown and not isinstance(error, ValueRefusedError):
                self._news.set()
                raise
            self._put_back()
            self._written, self._dropped = {}, set()
            raise
        self._written, self._dropped = {}, set()

    def _without_dropped(self) -> dict[K, V]:
        return {key: value for key, value in self._written.items() if key not in self._dropped}

    def _put_back(self) -> None:
        """Let the entries of a write that has failed wait, before those that came meanwhile."""
        newer = self._entries
        self._entries = self._without_dropped()
        for key, value in newer.items():
            known = key in self._entries
            self._entries[key] = self._merge(self._entries[key], value) if known else value
        if self._entries:
            self._news.set()

    async def run(self) -> None:
        """Store entries as they come, until cancelled."""
        lines = FailureLines()
        while True:
            await self._news.wait()
            await asyncio.sleep(self._gather)
            try:
                await self.flush()
                lines.ended("write_failed")
            except StorageError as error:
                if (more := lines.due("write_failed")) is not None:
                    log.error("write_failed", what=self._what, error=str(error), **more)
                await asyncio.sleep(self._again)

    async def close(self) -> None:
        """Store what is left; a failure is logged."""
        try:
            await self.flush()
        except StorageError as error:
            log.error("entries_lost", what=self._what, entries=len(self), error=str(error))
