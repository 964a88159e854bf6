"""The contents behind records: opened from the cache or the cloud, some fetched ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import structlog

from proxy.cloud.client import CloudClient
from proxy.cloud.errors import PASSING_STATUSES, CloudError, CloudRefused, unanswered
from proxy.files.blobs import BlobStore
from proxy.files.cache import Cache, CacheLease
from proxy.files.namespace import ContentIndex
from proxy.files.transfer import (
    HELD_BACK,
    ActiveDownloads,
    Content,
    ContentBrokenError,
    ContentWrongError,
    DownloadSource,
    Fetch,
)
from proxy.storage.database import StorageError
from proxy.storage.files import FileRecord
from proxy.supervisor import Supervisor
from proxy.translate.errors import LocalError, from_cloud
from proxy.translate.names import kind

_log = structlog.get_logger(__name__)

#: Which outputs are fetched before anyone asks for them.
Prefetch = Literal["off", "images", "all"]

#: Downloads that run at once for nobody.
PREFETCHES = 4

#: The store of blobs among the accounts; no account has this name.
_KEPT = ""


class Library:
    """Opens contents of accounts, uploads from the `blobs` where there is such a store.

    `prefetch` says which outputs `fetch_ahead` fetches; `on_fetched` hears of each its hash and its
    size.
    """

    def __init__(
        self,
        sources: Mapping[str, CloudClient],
        cache: Cache,
        contents: ContentIndex,
        *,
        prefetch: Prefetch,
        on_fetched: Callable[[FileRecord, str, int], Awaitable[None]],
        blobs: BlobStore | None = None,
    ) -> None:
        self._sources = sources
        self._cache = cache
        self._contents = contents
        self._prefetch = prefetch
        self._on_fetched = on_fetched
        self._blobs = blobs
        everywhere: dict[str, DownloadSource] = {**sources}
        if blobs is not None:
            everywhere[_KEPT] = blobs
        self._downloads = ActiveDownloads(everywhere, cache, on_fetched=self._learn)
        self._turn = asyncio.Semaphore(PREFETCHES)
        self._ahead, self._learning = Supervisor(), Supervisor()

    async def close(self) -> None:
        """Stop all downloads; what was learned from finished ones is written."""
        await self._ahead.close()
        await self._downloads.close()
        await self._learning.finish()

    async def open(self, record: FileRecord) -> Content:
        """The file's bytes, from the cache or as they arrive.

        Returns when the size is known; small contents are complete by then. Raises `LocalError`
        if the content is not available.
        """
        return Content(await self._origin(record))

    async def _origin(self, record: FileRecord, *, kept: bool = False) -> CacheLease | Fetch:
        """The content in the cache, or the download that has brought its beginning."""
        lease = await self.cached(record)
        if lease is not None:
            self._cache.hits += 1
            return lease
        hash_ = await self._hash(record)
        self._cache.misses += 1
        problem: Exception | None = None
        async for account, cloud_name, cloud_type in self._origins(record, hash_):
            if kept and account != _KEPT:
                break
            fetch = self._downloads.fetch(account, cloud_name, cloud_type, hash_)
            await fetch.began(HELD_BACK)
            if fetch.error is None:
                return fetch
            if account == _KEPT:
                continue
            problem = problem or fetch.error
            if not isinstance(fetch.error, CloudError):
                break
        raise unavailable(record.filename, problem)

    async def cached(self, record: FileRecord) -> CacheLease | None:
        """The content if it is in the cache; the caller releases it."""
        hash_ = await self._hash(record)
        if hash_ is None:
            return None
        if self._cache.is_trusted(hash_):
            return self._cache.lease(hash_)
        return (
            await asyncio.to_thread(self._cache.lease, hash_) if self._cache.holds(hash_) else None
        )

    async def _origins(
        self, record: FileRecord, hash_: str | None
    ) -> AsyncIterator[tuple[str, str, str]]:
        """Which accounts may have the content, under which name and in which folder.

        The store of blobs has what was uploaded since it was set. Then comes the one that made it
        or got it first, at once, so that no download that others share ends meanwhile; then those
        that were sent it. Where that one is no longer among the accounts, it may be under another
        name, so each is asked.
        """
        if self._blobs is not None and hash_ is not None and record.cloud_type == "input":
            yield _KEPT, hash_, "input"
        asked = {record.account}
        if record.account in self._sources:
            yield record.account, record.cloud_name, record.cloud_type
        for account, cloud_name in await self._contents.names(hash_) if hash_ is not None else ():
            if account not in asked:
                asked.add(account)
                yield account, cloud_name, "input"
        if record.account not in self._sources:
            for account in self._sources:
                if account not in asked:
                    yield account, record.cloud_name, record.cloud_type

    @asynccontextmanager
    async def whole(self, record: FileRecord, *, kept: bool = False) -> AsyncIterator[Path]:
        """The complete file on disk, which stays there for as long; no account is asked if it is to
        be `kept` here.

        Raises `LocalError`.
        """
        content = Content(await self._origin(record, kept=kept))
        try:
            try:
                path = await content.whole()
            except ContentBrokenError as error:
                raise unavailable(record.filename, error) from error
            yield path
        finally:
            content.close()

    async def holds(self, record: FileRecord, hash_: str) -> bool:
        """Whether the file's content has the hash; fetches it if nothing else can tell.

        A content that is not available is another one.
        """
        known = await self._hash(record)
        if known is None:
            try:
                async with self.whole(record) as path:
                    known = path.name
            except LocalError:
                return False
        return known == hash_

    def fetch_ahead(self, record: FileRecord) -> None:
        """Fetch a new output into the cache, if the setting says so; returns at once."""
        if self._prefetch == "all" or (self._prefetch == "images" and _is_image(record)):
            self._ahead.spawn(self._fetch_quietly(record), f"fetch {record.cloud_name} ahead")

    async def _fetch_quietly(self, record: FileRecord) -> None:
        try:
            async with self._turn, self.whole(record) as path:
                hash_, size = path.name, path.stat().st_size
            await self._on_fetched(record, hash_, size)
        except (LocalError, StorageError) as error:
            _log.info("output_prefetch_failed", reason=str(error))

    async def _hash(self, record: FileRecord) -> str | None:
        return record.hash or await self._contents.hash_of(record.account, record.cloud_name)

    def _learn(self, fetch: Fetch) -> None:
        """Keep the hash of a content whose name does not tell it, so that it is found again."""
        if fetch.expected is None and fetch.hash is not None and fetch.size is not None:
            learning = self._learn_hash(fetch.account, fetch.cloud_name, fetch.hash, fetch.size)
            self._learning.spawn(learning, f"learn the hash of {fetch.cloud_name}")

    async def _learn_hash(self, account: str, cloud_name: str, hash_: str, size: int) -> None:
        try:
            await self._contents.was_fetched(account, cloud_name, hash_, size)
        except StorageError as error:
            _log.warning("content_hash_store_failed", reason=str(error))


def unavailable(filename: str, error: Exception | None) -> LocalError:
    """The answer to a request for a content that is not available."""
    if isinstance(error, CloudRefused):
        return _refused(filename, error)
    if isinstance(error, CloudError):
        return unanswered(error, f"{filename} is not available yet", "ask again")
    if isinstance(error, ContentWrongError | ContentBrokenError):
        return LocalError(
            "content_damaged",
            f"Comfy Cloud did not deliver {filename} completely; try again later.",
            kind="bad_answer",
        )
    return LocalError(
        "cache_unwritable",
        f"{filename} cannot be downloaded because the proxy cannot write to its cache; free disk "
        "space or repair the disk.",
        kind="unavailable",
    )


def _refused(filename: str, error: CloudRefused) -> LocalError:
    """The cloud or its storage does not hand a content out; 400 would blame the client."""
    if error.status == 404:
        return LocalError(
            "file_not_found",
            f"Comfy Cloud no longer has {filename}.",
            kind="not_found",
        )
    said = from_cloud(error.status, error.body, error.retry_after)
    passing = error.status in PASSING_STATUSES
    return LocalError(
        said.type,
        f"Comfy Cloud refuses {filename}: {said.message}",
        kind="bad_answer" if said.kind == "invalid" else said.kind,
        retry_after=10.0 if said.retry_after is None and passing else said.retry_after,
    )


def _is_image(record: FileRecord) -> bool:
    return kind(record.filename) == "image"
