"""What clients read of ended jobs: answers about the history, cached until it changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from cachetools import LRUCache

from proxy.runtime import randomness
from proxy.storage.history import HistoryRepository
from proxy.storage.job_tables import HistoryEntry, JobKey
from proxy.translate import codec

if TYPE_CHECKING:
    from proxy.files.service import Files

#: Upper bound for numbers of entries: databases take no larger integers.
_MAX_ITEMS = 2**53

#: Maximum bytes of cached history bodies, all together and each, and of what is around each.
_CACHE_BYTES, _LARGEST, _OVERHEAD = 16 * 1024 * 1024, 1024 * 1024, 500

#: The member, and the id of a job, or the version and the numbers of a list.
_Key: TypeAlias = tuple[Any, ...]


#: The body of `GET /history/{id}` for a job that has not ended.
NO_ENTRY = b"{}"


class HistoryCache:
    """The most recently used bodies of history answers, bounded in bytes.

    The key of an entry has its id, that of a list the `version` at which it was read. `changes`
    counts the changes of each member's history.
    """

    def __init__(self) -> None:
        self._bodies = LRUCache[_Key, bytes](
            _CACHE_BYTES, getsizeof=lambda body: len(body) + _OVERHEAD
        )
        self._newest: dict[str, int] = {}
        self.changes: Counter[str] = Counter()

    def version(self, member: str) -> int:
        """Return what differs whenever the member's history has changed."""
        return self.changes[member]

    def get(self, key: _Key) -> bytes | None:
        """Return a body from the cache."""
        return self._bodies.get(key)

    def put(self, key: _Key, body: bytes, version: int) -> None:
        """Keep a body that was read at a `version` of the member, unless it is a large one."""
        if len(body) <= _LARGEST and self.version(key[0]) == version:
            self._bodies[key] = body

    def forget(self, member: str, prompt_ids: Iterable[str] | None) -> None:
        """Note a change of a member's history, and drop these entries or all."""
        self.changes[member] += 1
        if prompt_ids is None:
            gone = [key for key in self._bodies if key[0] == member]
        else:  # without a look at all that is cached: each job changes it
            gone = [(member, id_) for id_ in prompt_ids]
        for key in gone:
            self._bodies.pop(key, None)

    def seen(self, member: str, sequence: int) -> None:
        """Note that an entry was read: lists without it are not used, if the engine has not told of
        it yet."""
        if sequence > self._newest.get(member, 0):
            self._newest[member] = sequence
            self.forget(member, ())  # lists alone


class History:
    """The ended jobs of all members; entries that are deleted take their `files` along."""

    def __init__(self, repository: HistoryRepository, files: Files | None) -> None:
        self._repository = repository
        self._files = files
        self._cache = HistoryCache()
        self._process = randomness.token_hex(4)
        #: Futures of requests that wait for a change of an entry, by the member and the job's id.
        self._waiting: dict[tuple[str, str], list[asyncio.Future[None]]] = {}
        self._callbacks: list[Callable[[], None]] = []

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call `callback` after entries were deleted."""
        self._callbacks.append(callback)

    @contextmanager
    def changes(self, member: str, prompt_id: str) -> Iterator[asyncio.Future[None]]:
        """Yield a future that is done when an entry has changed."""
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault((member, prompt_id), [])
        waiting.append(changed)
        try:
            yield changed
        finally:
            waiting.remove(changed)
            if not waiting:
                del self._waiting[member, prompt_id]

    def recorded(self, key: JobKey, forgotten: tuple[str, ...]) -> None:
        """Note that a job is in the history, and that its member's oldest entries are
        `forgotten`."""
        member = key.member
        self._changed(member, (key.prompt_id, *forgotten))
        if forgotten and self._files is not None:
            self._files.namespace.forgotten(member, forgotten)

    def _changed(self, member: str, prompt_ids: tuple[str, ...] | None) -> None:
        self._cache.forget(member, prompt_ids)
        for prompt_id in prompt_ids or ():
            for changed in self._waiting.get((member, prompt_id), ()):
                if not changed.done():
                    changed.set_result(None)

    def change_token(self, member: str | None) -> str:
        """Return a token that differs whenever the ended jobs of the member, or of all (`None`),
        have changed."""
        changes = self._cache.changes
        count = changes.total() if member is None else changes[member]
        return f"{self._process}.{count}"

    async def json(
        self,
        member: str,
        *,
        max_items: int | None,
        offset: int | None,
        reserve: Callable[[int], object] = int,
    ) -> bytes | AsyncIterator[bytes]:
        """Return the body of `GET /history`, oldest first; a large one in pieces. Raises
        `StorageError`.

        `reserve` is called with the bytes of each piece before it is read.

        `max_items` without `offset` means the last ones, with it those from the oldest on; a
        negative `offset` counts as none. ComfyUI's own arithmetic for odd values: without offset,
        0 and less give nothing; with one, at least one item comes.
        """
        if offset is not None:
            offset = None if offset < 0 else min(offset, _MAX_ITEMS)
        if max_items is not None:
            max_items = min(max_items, _MAX_ITEMS)
        version = self._cache.version(member)
        key = member, version, max_items, offset
        if (kept := self._cache.get(key)) is not None:
            return kept
        if offset is None:
            last = None if max_items is None else max(max_items, 0)
            pages = self._repository.entries(member, last=last, reserve=reserve)
        else:
            limit = None if max_items is None else max(max_items, 1)
            pages = self._repository.entries(member, offset=offset, limit=limit, reserve=reserve)
        pieces = _pieces(pages)
        begun: list[bytes] = []
        size = 0
        async for piece in pieces:
            begun.append(piece)
            size += len(piece)
            if size > _LARGEST:
                return chained(begun, pieces)
        body = b"".join(begun)
        self._cache.put(key, body, version)
        return body

    async def entry_json(self, member: str, prompt_id: str) -> bytes:
        """Return the body of `GET /history/{id}`: `{}` until the job has ended. Raises
        `StorageError`."""
        body = self.cached_entry_json(member, prompt_id)
        if body is None:
            version = self._cache.version(member)
            entry = await self._repository.entry(member, prompt_id)
            if entry is None:
                return NO_ENTRY
            body = b"{" + _entry_json(entry) + b"}"
            self._cache.put((member, prompt_id), body, version)
            self._cache.seen(member, entry.sequence)
        return body

    def cached_entry_json(self, member: str, prompt_id: str) -> bytes | None:
        """Return the body of `GET /history/{id}` if it is in the cache."""
        return self._cache.get((member, prompt_id))

    async def entry(self, member: str, prompt_id: str) -> HistoryEntry | None:
        """Return an entry as it is stored, or `None`. Raises `StorageError`."""
        entry = await self._repository.entry(member, prompt_id)
        if entry is not None:
            self._cache.seen(member, entry.sequence)
        return entry

    async def forget(self, member: str, prompt_ids: list[str] | None) -> None:
        """Forget ended jobs, all without `prompt_ids`; nothing is deleted on the cloud. Raises
        `StorageError`."""
        try:
            await self._repository.forget(member, prompt_ids)
        finally:
            self._changed(member, None if prompt_ids is None else tuple(prompt_ids))
            for callback in self._callbacks:
                callback()


def _entry_json(entry: HistoryEntry) -> bytes:
    """Return `"id": {"prompt": […], "outputs": …, …}`, put together from its parts."""
    parts = (
        codec.dump_bytes(entry.number),
        codec.dump_bytes(entry.prompt_id),
        entry.graph,
        entry.extra_data,
        codec.dump_bytes(entry.outputs_to_execute),
    )
    head = codec.dump_bytes(entry.prompt_id) + b': {"prompt": [' + b", ".join(parts) + b"], "
    return head + entry.result[1:]


async def _pieces(pages: AsyncIterator[list[HistoryEntry]]) -> AsyncIterator[bytes]:
    """Yield a JSON object of entries, a page at a time."""
    lead = b"{"
    async for page in pages:
        yield lead + b", ".join(map(_entry_json, page))
        lead = b", "
    yield b"{}" if lead == b"{" else b"}"


async def chained(begun: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for piece in begun:
        yield piece
    async for piece in rest:
        yield piece
