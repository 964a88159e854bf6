"""The contents of files: their bytes from the cache or the cloud.

All readers of a content share one download, whose file they read while it grows; they never slow it
down or stop it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal
from weakref import WeakValueDictionary

import structlog

from proxy.cloud.errors import PASSING_STATUSES, CloudError, CloudRefused, unanswered
from proxy.cloud.upstream import Upstream
from proxy.files.blobs import BlobStore
from proxy.files.cache import Cache, CacheFullError, CacheLease
from proxy.files.content_index import ContentIndex
from proxy.files.contents import HELD_BACK, Content, ContentBrokenError, broken
from proxy.files.fetch import ContentWrongError, Fetch
from proxy.files.input_directory import ON_DISK, InputDirectory, InputGoneError
from proxy.runtime.supervisor import Supervisor
from proxy.storage.database import StorageError
from proxy.storage.file_tables import FileRecord
from proxy.storage.files import FileRepository
from proxy.storage.leases import Batch
from proxy.storage.write_behind import WriteBehind
from proxy.translate.errors import LocalError, from_cloud
from proxy.translate.media_types import kind
from proxy.translate.names import Place

_log = structlog.get_logger(__name__)

#: Which outputs are downloaded before a client requests them.
Prefetch = Literal["off", "images", "all"]

#: Maximum number of concurrent downloads that nobody waits for.
MAX_PREFETCHES = 4
#: Maximum seconds of such a download.
PREFETCH_TIMEOUT = 600.0

#: Seconds for which hashes and sizes of outputs are collected before they are written, and before
#: they are written again if that fails. Those of more outputs are learned at the next download.
_WRITE_DELAY, _WRITE_AGAIN = 0.5, 5.0
_MAX_LEARNED = 10_000

#: The store of blobs in a list of accounts; no account has this name.
_BLOBS = ""


@dataclass(eq=False)
class Library:
    """Opens contents of the accounts of `clouds`, uploads from `blobs` if that is set, and files of
    `inputs` if there is an input directory.

    `contents` has what is known of them; `prefetch` is which outputs `fetch_ahead` downloads.
    """

    clouds: Mapping[str, Upstream]
    cache: Cache
    files: FileRepository
    blobs: BlobStore | None = None
    prefetch: Prefetch = "images"
    inputs: InputDirectory | None = None

    def __post_init__(self) -> None:
        self.contents = ContentIndex(self.files, self.clouds, self.inputs)
        self._sources: dict[str, Upstream | BlobStore | InputDirectory] = {**self.clouds}
        if self.blobs is not None:
            self._sources[_BLOBS] = self.blobs
        if self.inputs is not None:
            self._sources[ON_DISK] = self.inputs
        self._running = WeakValueDictionary[tuple[str, str, FileRecord | None], Fetch]()
        #: Hash and size of outputs, by their members and places.
        self._learned = WriteBehind[tuple[str, Place], tuple[str, int]](
            "hashes of outputs",
            self._write_learned,
            gather=_WRITE_DELAY,
            again=_WRITE_AGAIN,
            limit=_MAX_LEARNED,
        )
        self._turn = asyncio.Semaphore(MAX_PREFETCHES)
        self._downloads, self._learning = Supervisor(), Supervisor()

    def start(self) -> None:
        """Start what writes the hashes of outputs."""
        self._learning.keep(self._learned.run, "write hashes of outputs")

    async def close(self) -> None:
        """Stop all downloads, and write the hashes of finished ones."""
        await self._downloads.close()
        await self._learning.close()
        await self._learned.close()

    async def open(self, record: FileRecord) -> Content:
        """Open a file's content, from the cache or during its download.

        Returns when the size is known; small contents are complete then. Raises `LocalError` if the
        content is not available.
        """
        return Content(await self._origin(record))

    async def _origin(
        self, record: FileRecord, *, kept: bool = False, ahead: bool = False
    ) -> CacheLease | Fetch:
        """Return the content in the cache, or a download that has begun. Raises `LocalError`."""
        hash_ = await self.contents.hash_of(record)
        if hash_ is not None and hash_ in self.cache:
            lease = await self._lease(hash_, record.member)
            if lease is not None:
                self.cache.hits += 1
                return lease
        self.cache.misses += 1
        if hash_ is None and await self.contents.is_reused(record):
            raise _reused(record.filename)
        problem: Exception | None = None
        async for account, cloud_name, cloud_type in self._origins(record, hash_):
            if kept and account != _BLOBS:
                break
            # Files without a known hash do not share downloads.
            key = account, cloud_name, record if hash_ is None else None
            fetch = self._running.get(key)
            if fetch is None or fetch.ended:
                opener = partial(self._sources[account].download, cloud_name, cloud_type)
                fetch = Fetch(opener, self.cache, hash_, ahead, record.member)
                self._running[key] = fetch
                self._downloads.spawn(self._download(fetch, record), f"fetch {cloud_name}")
            fetch.ahead = fetch.ahead and ahead
            await fetch.wait(HELD_BACK)
            if fetch.error is None:
                return fetch
            if account == _BLOBS:
                continue
            problem = problem or fetch.error
            if not isinstance(fetch.error, CloudError):
                break
        raise unavailable(record.filename, problem)

    async def _download(self, fetch: Fetch, record: FileRecord) -> None:
        """Download a content, and note its hash if that was not known."""
        await fetch.run()
        if fetch.lease is not None and fetch.expected is None and record.job is not None:
            self.contents.saw(record, fetch.lease.path.name)
            self._learn(record, fetch.lease)

    async def cached(self, record: FileRecord) -> CacheLease | None:
        """Return the content if it is in the cache, else `None`."""
        hash_ = await self.contents.hash_of(record)
        return None if hash_ is None else await self._lease(hash_, record.member)

    async def _lease(self, hash_: str, member: str) -> CacheLease | None:
        if self.cache.is_trusted(hash_):
            return self.cache.lease(hash_, member)
        return await asyncio.to_thread(self.cache.lease, hash_, member)

    async def _origins(
        self, record: FileRecord, hash_: str | None
    ) -> AsyncIterator[tuple[str, str, str]]:
        """Yield the sources that may have the content, with its name and folder there.

        First comes the store of blobs, which has uploads. Then what created the file, without a
        look-up before it, so that no shared download ends meanwhile; then the other accounts.
        """
        is_upload = record.cloud_type == "input" and record.account != ON_DISK
        if self.blobs is not None and hash_ is not None and is_upload:
            yield _BLOBS, hash_, "input"
        if record.account in self._sources:
            yield record.account, record.cloud_name, record.cloud_type
        for origin in await self._copies(record, hash_):
            yield origin

    async def _copies(
        self, record: FileRecord, hash_: str | None
    ) -> Iterable[tuple[str, str, str]]:
        """Return the accounts that a content was sent to, with its name and folder there.

        If its own account is not configured any more, another one may be the same, so that then
        all are among them.
        """
        sent = {} if hash_ is None else await self.contents.names(hash_)
        found = {account: (account, name, "input") for account, name in sent.items()}
        if record.account not in self._sources:
            for account in self.clouds:
                found.setdefault(account, (account, record.cloud_name, record.cloud_type))
        found.pop(record.account, None)
        return found.values()

    async def whole(
        self, record: FileRecord, *, kept: bool = False, ahead: bool = False
    ) -> CacheLease:
        """Return the complete content. Raises `LocalError`.

        With `kept` it is not downloaded from an account. `ahead` says that nobody waits for it.
        """
        origin = await self._origin(record, kept=kept, ahead=ahead)
        if isinstance(origin, CacheLease):
            return origin
        await origin.wait()
        if origin.lease is None:
            raise unavailable(record.filename, broken(origin)) from origin.error
        return origin.lease

    def fetch_ahead(self, record: FileRecord) -> None:
        """Start to download a new output without waiting, if it is one of those that `prefetch`
        names or the account does not keep it."""
        wanted = self.prefetch == "images" and kind(record.path) == "image"
        cloud = self.clouds.get(record.account)
        expires = cloud is not None and not cloud.capabilities.keeps_outputs
        if self.prefetch == "all" or wanted or expires:
            self._downloads.spawn(self._fetch_quietly(record), f"fetch {record.cloud_name} ahead")

    async def _fetch_quietly(self, record: FileRecord) -> None:
        try:
            async with self._turn, asyncio.timeout(PREFETCH_TIMEOUT):
                self._learn(record, await self.whole(record, ahead=True))
        except (LocalError, StorageError, TimeoutError) as error:
            _log.info("output_prefetch_failed", reason=str(error))

    def _learn(self, record: FileRecord, lease: CacheLease) -> None:
        """Store hash and size of an output soon, together with those of others."""
        self._learned.add((record.member, record.place), (lease.path.name, lease.size))

    async def _write_learned(
        self, learned: Mapping[tuple[str, Place], tuple[str, int]], _: Batch
    ) -> None:
        await self.files.learn([(*of, *known) for of, known in learned.items()])


def unavailable(filename: str, error: Exception | None) -> LocalError:
    """Return the error of a content that is not available."""
    if isinstance(error, CloudRefused):
        return _refusal_of(filename, error)
    if isinstance(error, InputGoneError):
        return LocalError(
            "file_not_found",
            f"{filename} in the input directory was deleted or changed a moment ago; try again.",
            kind="not_found",
        )
    if isinstance(error, CloudError):
        return unanswered(error, f"{filename} is not available yet", "ask again")
    if isinstance(error, ContentWrongError | ContentBrokenError):
        return LocalError(
            "content_damaged",
            f"{filename} was not delivered completely; try again later.",
            kind="bad_answer",
        )
    if isinstance(error, CacheFullError):
        return LocalError(
            "file_too_large",
            f"{filename} is larger than the cache of the proxy can take at the moment; increase "
            "the setting `cache_mb`, or try again when other downloads have ended.",
            kind="unavailable",
            retry_after=10.0,
        )
    return LocalError(
        "cache_unwritable",
        f"{filename} cannot be downloaded because the proxy cannot write to its cache; free disk "
        "space or repair the disk.",
        kind="unavailable",
    )


def _reused(filename: str) -> LocalError:
    return LocalError(
        "file_replaced",
        f"The name of {filename} was used for a later output, so this file is no longer available; "
        "run the workflow again.",
        kind="not_found",
    )


def _refusal_of(filename: str, error: CloudRefused) -> LocalError:
    """Return the error of a content that the cloud refuses; it is not the client's fault (400)."""
    if error.status == 404:
        return LocalError(
            "file_not_found", f"{error.title} no longer has {filename}.", kind="not_found"
        )
    refusal = from_cloud(error.status, error.body, error.retry_after)
    passing = error.status in PASSING_STATUSES
    return LocalError(
        refusal.type,
        f"{error.title} refuses {filename}: {refusal.message}",
        kind="bad_answer" if refusal.kind == "invalid" else refusal.kind,
        retry_after=10.0 if refusal.retry_after is None and passing else refusal.retry_after,
    )
