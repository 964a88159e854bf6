"""The contents behind records: what is known of them, and their bytes, opened from the cache or the
cloud, some fetched ahead.

However many want a content, it is one download, whose file readers follow as it grows; they never
slow it down or stop it.

No byte is passed on that fails the hash: of a content that is still arriving the last part that
a reader asked for is held back until the whole has been verified, so that a reader of wrong bytes
gets an error instead of the end and can tell its client so.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
import weakref
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import structlog
from cachetools import LRUCache

from proxy.cloud.client import CloudClient
from proxy.cloud.resilience import PASSING_STATUSES, CloudError, CloudRefused, unanswered
from proxy.files.blobs import BlobStore
from proxy.files.cache import (
    Cache,
    CacheFullError,
    CacheLease,
    ContentWrongError,
    Fetch,
    open_to_read,
    read_at,
)
from proxy.files.workflow_names import Edits, MetadataText, Slice, texts
from proxy.observations import identity_of
from proxy.storage.database import StorageError
from proxy.storage.files import AccountBlob, FileRecord, FileRepository, FileUnit
from proxy.supervisor import Supervisor
from proxy.translate.errors import LocalError, from_cloud
from proxy.translate.names import Place, kind

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_log = structlog.get_logger(__name__)

#: Which outputs are fetched before anyone asks for them.
Prefetch = Literal["off", "images", "all"]

#: Downloads that run at once for nobody.
PREFETCHES = 4
#: Seconds after which one makes room for another.
PREFETCH_TIMEOUT = 600.0

#: Bytes read at once.
CHUNK = 256 * 1024
#: Bytes held back until the content is verified. Contents no longer than that are opened only
#: when they are complete.
HELD_BACK = 64 * 1024

#: Contents whose hashes and names are remembered.
REMEMBERED = 20_000

#: Seconds for which hashes and sizes of outputs are gathered before they are written.
_GATHER = 0.5

#: The store of blobs among the accounts; no account has this name.
_KEPT = ""

_HASH_NAME = re.compile(r"(?:blake3:)?(?P<hash>[0-9a-f]{64})(?:\.\w+)?", re.IGNORECASE)


class ContentBrokenError(Exception):
    """The rest of a content is not available, or what was read of it was wrong: end the answer
    without its proper end, so that the client sees that it has not got the whole."""


class Content:
    """A content that is open for reading. Close it, or forget it.

    With `edits` its size and the bytes that are read are those of the edited file; `path` and the
    descriptor `file`, which may still grow, are those of the cloud's.
    """

    def __init__(self, origin: CacheLease | Fetch) -> None:
        self._fetch = origin if isinstance(origin, Fetch) else None
        self._lease = origin if isinstance(origin, CacheLease) else None
        path = origin.path
        assert path is not None  # noqa: S101
        self.file = open_to_read(path)
        self._close_file = weakref.finalize(self, os.close, self.file)
        self._told_size = origin.size
        self._looked_at: int | None = None  # the generation that the texts are of
        self.edits = Edits()

    @property
    def size(self) -> int | None:
        """Length in bytes; `None` while it is arriving and the storage has not reported."""
        size = self._size
        return size if size is None or not self.edits.edits else size + self.edits.added

    @property
    def _size(self) -> int | None:
        if self._told_size is None and self._fetch is not None:
            self._told_size = self._fetch.size
        return self._told_size

    @property
    def path(self) -> Path | None:
        """The complete file on disk, which stays there until this is closed; `None` before."""
        lease = self._lease if self._fetch is None else self._fetch.lease
        return None if lease is None else lease.path

    async def whole(self) -> Path:
        """Wait for the complete file. Raises `ContentBrokenError`."""
        while self._fetch is not None and not self._fetch.ended:
            await self._fetch.changed()
        path = self.path
        if path is None:
            raise self._broken()
        return path

    async def texts(self) -> list[MetadataText]:
        """The texts of a picture that name files as the cloud does, as soon as they are there."""
        while True:
            fetch = self._fetch
            if fetch is None or fetch.ended:
                return await asyncio.to_thread(texts, self._look, self._size or 0, whole=True) or []
            found = texts(self._look, fetch.received, whole=False)
            if found is not None:
                self._looked_at = fetch.generation
                return found
            await fetch.changed()

    def _look(self, offset: int, count: int) -> bytes:
        return read_at(self.file, count, offset)

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` to `stop` (excluded; the end if `None`).

        Raises `ContentBrokenError` instead of bytes that are not available.
        """
        async for piece in self.pieces(start, stop):
            if isinstance(piece, bytes):
                yield piece
                continue
            position, end = piece
            while position < end:
                data = await self._read(min(CHUNK, end - position), position)
                if not data:
                    raise ContentBrokenError("the file on disk is shorter than it was")
                position += len(data)
                yield data

    async def pieces(
        self, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes | tuple[int, int]]:
        """What the bytes from `start` to `stop` are made of, as they arrive: parts of `file`
        (from, to), and bytes of what has just arrived and instead of what is edited.

        Raises `ContentBrokenError` instead of bytes that are not available.
        """
        if not self.edits.edits:
            async for part in self._parts(start, stop, last=stop):
                yield part
            return
        pieces = list(self.edits.pieces(start, stop))
        last = pieces[-1].stop if pieces and isinstance(pieces[-1], Slice) else None
        fetch, generation = self._fetch, self._looked_at
        if generation is None and fetch is not None:
            generation = fetch.generation
        for piece in pieces:
            if piece is pieces[-1] and not isinstance(piece, Slice):
                await self.whole()
            if fetch is not None and fetch.generation != generation:
                raise ContentBrokenError("the texts that were looked at turned out to be wrong")
            if isinstance(piece, Slice):
                async for part in self._parts(piece.start, piece.stop, last=last):
                    yield part
            else:
                yield piece

    async def _parts(
        self, start: int, stop: int | None, *, last: int | None
    ) -> AsyncIterator[bytes | tuple[int, int]]:
        """Parts of the file that may be read, or the bytes of one that has just arrived; what a
        reader wants in all ends at `last` (the end if `None`)."""
        position, fetch = start, self._fetch
        generation = 0 if fetch is None else fetch.generation
        while True:
            if fetch is not None and fetch.generation != generation:
                if position > start:
                    raise ContentBrokenError("the bytes that were read turned out to be wrong")
                generation = fetch.generation
            if fetch is not None and fetch.size not in (None, self._size):
                raise ContentBrokenError("the content is not as long as the storage had said")
            end, limit = self._extent(start, stop, last)
            if position < limit:
                part = b"" if fetch is None else fetch.arrived(position, limit)
                yield part or (position, limit)
                position = limit
            elif end is not None and position >= end:
                return
            elif fetch is None or fetch.ended:
                raise self._broken()
            else:
                await fetch.changed()

    def close(self) -> None:
        """Let go of the file; reading is over."""
        self._close_file()
        self._fetch = None
        if self._lease is not None:
            self._lease.release()

    async def _read(self, length: int, position: int) -> bytes:
        """What has just arrived is in memory; what has lain there for long may not be."""
        if self._fetch is not None and (not self._fetch.ended or length <= HELD_BACK):
            return read_at(self.file, length, position)
        return await asyncio.to_thread(read_at, self.file, length, position)

    def _extent(self, start: int, stop: int | None, last: int | None) -> tuple[int | None, int]:
        """Where the reading ends, if that is known, and how far it may go now."""
        size = self._size
        end = stop if size is None else min(size, size if stop is None else stop)
        fetch = self._fetch
        if fetch is None or fetch.lease is not None:
            assert end is not None  # noqa: S101
            return end, end
        allowed = fetch.received
        if fetch.expected is not None:
            wanted = fetch.received if size is None else min(size, size if last is None else last)
            allowed = min(allowed, wanted - HELD_BACK)
        if end is not None:
            allowed = min(allowed, end)
        return end, max(start, allowed)

    def _broken(self) -> ContentBrokenError:
        reason = self._fetch.error if self._fetch is not None else None
        return ContentBrokenError(f"the content is not available: {reason}")


class Remembered(LRUCache[K, V]):
    """Answers that were had last, at most this many.

    What was read before something was written is not remembered: note the `epoch` before a read.
    """

    epoch = 0

    def put(self, key: K, value: V, epoch: int | None = None) -> None:
        """Remember what was written, or with `epoch` what was read since then."""
        if epoch is None:
            self.epoch += 1
        elif epoch != self.epoch:
            return
        self[key] = value

    def forget(self, key: K) -> None:
        """What was remembered is no longer true."""
        self.epoch += 1
        self.pop(key, None)


class ContentIndex:
    """Hashes and sizes by cloud name, and cloud names by hash, for each account by its name.

    The cloud's names seem to be the BLAKE3 of the content with an extension. Where an upload
    shows that they are not, names are taken for what they are, opaque. Everything raises
    `StorageError`.
    """

    def __init__(self, files: FileRepository, clouds: Mapping[str, CloudClient]) -> None:
        self._files = files
        self._clouds = clouds
        self._identities = {name: identity_of(name, one.base_url) for name, one in clouds.items()}
        self._accounts = {identity: name for name, identity in self._identities.items()}
        self._hashes = Remembered[tuple[str, str], str | None](REMEMBERED)
        self._sent = Remembered[tuple[str, str], str | None](REMEMBERED)
        self._seen = LRUCache[FileRecord, str](REMEMBERED)
        #: Whether the cloud's names are what they seem to be.
        self.names_are_hashes = True

    async def load(self) -> None:
        """Read from earlier uploads and from the probe whether the cloud's names are hashes."""
        opaque = await self._files.read(FileUnit.names_are_opaque)
        told = [one.observations.facts.get("upload_hash") for one in self._clouds.values()]
        self.names_are_hashes = not opaque and "another" not in told

    def hash_told(self, cloud_name: str) -> str | None:
        """The content's hash, if the name tells it."""
        return hash_in(cloud_name) if self.names_are_hashes else None

    async def hash_of(self, record: FileRecord) -> str | None:
        """Return the hash of a file's content, if it can be told without the content.

        A name that tells no hash proves nothing for an output: the cloud may have used it for
        another job. What counts is what was seen for this job itself.
        """
        told = record.hash or self.hash_told(record.cloud_name)
        if told is not None:
            return told
        if record.cloud_type == "input":
            identity, name = self._identities.get(record.account, ""), record.cloud_name
            key = identity, name
            return await self._recall(self._hashes, key, lambda files: files.hash_of(*key))
        if record.job is None:
            return None
        if (seen := self._seen.get(record)) is not None:
            return seen
        job = record.job
        return await self._files.read(
            lambda files: files.assets.hash_made_by(record.member, record.place, job)
        )

    async def is_reused(self, record: FileRecord) -> bool:
        """Whether the cloud has used an output's name again for a later output of somebody else.

        What the cloud has under this name is that output then.
        """
        if record.cloud_type == "input" or hash_in(record.cloud_name) is not None:
            return False
        return await self._files.read(lambda files: files.is_reused(record))

    def saw(self, record: FileRecord, hash_: str) -> None:
        """Note the content that an output turned out to have."""
        self._seen[record] = hash_

    async def sent_as(self, account: str, hash_: str) -> str | None:
        """The account's name for bytes that it was sent before."""
        identity = self._identities.get(account)
        if identity is None:
            return None
        return await self._recall(
            self._sent, (identity, hash_), lambda files: files.sent_as(identity, hash_)
        )

    async def _recall(
        self,
        known: Remembered[tuple[str, str], str | None],
        key: tuple[str, str],
        read: Callable[[FileUnit], str | None],
    ) -> str | None:
        """What is remembered, or read now; that there is nothing holds only where nobody else
        writes."""
        if key in known:
            return known[key]
        epoch = known.epoch
        found = await self._files.read(read)
        if found is not None or not self._files.shared:
            known.put(key, found, epoch)
        return found

    async def names(self, hash_: str) -> list[tuple[str, str]]:
        """The accounts that were sent these bytes, and what they call them."""
        found = await self._files.read(lambda files: files.sent_names(hash_))
        known = {self._accounts[one]: name for one, name in found if one in self._accounts}
        return [(account, known[account]) for account in self._identities if account in known]

    async def was_sent(self, account: str, hash_: str, size: int, cloud_name: str) -> None:
        """An account has taken bytes and named them."""
        identity = self._identities[account]
        opaque = hash_in(cloud_name) not in (None, hash_)
        blob = AccountBlob(identity, cloud_name, True, hash_, size, _now())
        await self._files.write(lambda files: files.put_blobs([blob], names_are_opaque=opaque))
        self._hashes.put((identity, cloud_name), hash_)
        self._sent.put((identity, hash_), cloud_name)
        if opaque and self.names_are_hashes:
            _log.warning("content_hash_mismatched")
            self.names_are_hashes = False


def hash_in(cloud_name: str) -> str | None:
    """The hash that a name seems to be made of: 64 hexadecimal digits, perhaps an extension."""
    match = _HASH_NAME.fullmatch(cloud_name)
    return match["hash"].lower() if match else None


def _now() -> int:
    return time.time_ns() // 1_000_000


@dataclass(eq=False)
class Library:
    """Opens contents of the accounts of `clouds`, uploads from `blobs` where there is such a store.

    `contents` is what is known of them, `prefetch` says which outputs `fetch_ahead` fetches.
    """

    clouds: Mapping[str, CloudClient]
    cache: Cache
    contents: ContentIndex
    files: FileRepository
    blobs: BlobStore | None
    prefetch: Prefetch

    def __post_init__(self) -> None:
        self._running: dict[tuple[str, str, FileRecord | None], Fetch] = {}
        self._fetched: list[tuple[str, Place, str, int]] = []
        self._turn = asyncio.Semaphore(PREFETCHES)
        self._ahead, self._downloads, self._learning = Supervisor(), Supervisor(), Supervisor()

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

    async def _origin(
        self, record: FileRecord, *, kept: bool = False, ahead: bool = False
    ) -> CacheLease | Fetch:
        """The content in the cache, or the download that has brought its beginning."""
        lease = await self.cached(record)
        if lease is not None:
            self.cache.hits += 1
            return lease
        hash_ = await self.contents.hash_of(record)
        self.cache.misses += 1
        problem: Exception | None = None
        async for account, cloud_name, cloud_type in self._origins(record, hash_):
            if kept and account != _KEPT:
                break
            if hash_ is None and await self.contents.is_reused(record):
                raise _reused(record.filename)
            fetch = self._fetch(account, cloud_name, cloud_type, hash_, record, ahead=ahead)
            await fetch.began(HELD_BACK)
            if fetch.error is None:
                return fetch
            if account == _KEPT:
                continue
            problem = problem or fetch.error
            if not isinstance(fetch.error, CloudError):
                break
        raise unavailable(record.filename, problem)

    def _fetch(
        self,
        account: str,
        cloud_name: str,
        type_: str,
        expected: str | None,
        record: FileRecord,
        *,
        ahead: bool,
    ) -> Fetch:
        """Return the download of a content, joined if it is under way.

        Files whose names do not tell their contents share no download.
        """
        key = account, cloud_name, None if expected is not None else record
        fetch = self._running.get(key)
        if fetch is None or fetch.ended:
            kept = self.blobs if account == _KEPT else None
            source = kept or self.clouds[account]
            fetch = Fetch(source, self.cache, cloud_name, type_, expected, ahead)
            self._running[key] = fetch
            self._downloads.spawn(self._download(fetch, key), f"fetch {cloud_name}")
        fetch.ahead = fetch.ahead and ahead
        return fetch

    async def _download(self, fetch: Fetch, key: tuple[str, str, FileRecord | None]) -> None:
        """Fetch, and note the hash of a content whose name does not tell it, so that the file is
        found again."""
        record = key[2]
        try:
            await fetch.run()
            if fetch.lease is not None and record is not None and record.job is not None:
                hash_, size = fetch.lease.path.name, fetch.lease.size
                self.contents.saw(record, hash_)
                learning = self._note((record.member, record.place, hash_, size))
                self._learning.spawn(learning, f"note the hash of {fetch.cloud_name}")
        finally:
            if self._running.get(key) is fetch:
                del self._running[key]

    async def cached(self, record: FileRecord) -> CacheLease | None:
        """The content if it is in the cache; the caller releases it."""
        hash_ = await self.contents.hash_of(record)
        if hash_ is None:
            return None
        if self.cache.is_trusted(hash_):
            return self.cache.lease(hash_)
        return await asyncio.to_thread(self.cache.lease, hash_)

    async def _origins(
        self, record: FileRecord, hash_: str | None
    ) -> AsyncIterator[tuple[str, str, str]]:
        """Which accounts may have the content, under which name and in which folder.

        The store of blobs has what was uploaded since it was set. Then comes the one that made it
        or got it first, at once, so that no download that others share ends meanwhile; then those
        that were sent it. Where that one is no longer among the accounts, it may be under another
        name, so each is asked.
        """
        if self.blobs is not None and hash_ is not None and record.cloud_type == "input":
            yield _KEPT, hash_, "input"
        asked = {record.account}
        if record.account in self.clouds:
            yield record.account, record.cloud_name, record.cloud_type
        for account, cloud_name in await self.contents.names(hash_) if hash_ is not None else ():
            if account not in asked:
                asked.add(account)
                yield account, cloud_name, "input"
        if record.account not in self.clouds:
            for account in self.clouds:
                if account not in asked:
                    yield account, record.cloud_name, record.cloud_type

    @asynccontextmanager
    async def whole(
        self, record: FileRecord, *, kept: bool = False, ahead: bool = False
    ) -> AsyncIterator[Path]:
        """The complete file on disk, which stays there for as long; no account is asked if it is to
        be `kept` here. `ahead` says that nobody waits for it.

        Raises `LocalError`.
        """
        with closing(Content(await self._origin(record, kept=kept, ahead=ahead))) as content:
            try:
                path = await content.whole()
            except ContentBrokenError as error:
                raise unavailable(record.filename, error) from error
            yield path

    def fetch_ahead(self, record: FileRecord) -> None:
        """Fetch a new output into the cache, if the setting says so; returns at once."""
        is_image = kind(record.filename) == "image"
        if self.prefetch == "all" or (self.prefetch == "images" and is_image):
            self._ahead.spawn(self._fetch_quietly(record), f"fetch {record.cloud_name} ahead")

    async def _fetch_quietly(self, record: FileRecord) -> None:
        try:
            async with (
                self._turn,
                asyncio.timeout(PREFETCH_TIMEOUT),
                self.whole(record, ahead=True) as path,
            ):
                hash_, size = path.name, path.stat().st_size
            await self._note((record.member, record.place, hash_, size))
        except (LocalError, StorageError, TimeoutError) as error:
            _log.info("output_prefetch_failed", reason=str(error))

    async def _note(self, fetched: tuple[str, Place, str, int]) -> None:
        """Note hash and size of an output, in one transaction with those that come meanwhile."""
        self._fetched.append(fetched)
        if len(self._fetched) > 1:
            return
        await asyncio.sleep(_GATHER)
        gathered, self._fetched = self._fetched, []
        try:
            await self.files.write(lambda files: [files.assets.learn(*one) for one in gathered])
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
        f"Comfy Cloud has used the name of {filename} for a later output, so this file is no "
        "longer available; run the workflow again.",
        kind="not_found",
    )


def _refused(filename: str, error: CloudRefused) -> LocalError:
    """The cloud or its storage does not hand a content out; 400 would blame the client."""
    if error.status == 404:
        return LocalError(
            "file_not_found", f"Comfy Cloud no longer has {filename}.", kind="not_found"
        )
    said = from_cloud(error.status, error.body, error.retry_after)
    passing = error.status in PASSING_STATUSES
    return LocalError(
        said.type,
        f"Comfy Cloud refuses {filename}: {said.message}",
        kind="bad_answer" if said.kind == "invalid" else said.kind,
        retry_after=10.0 if said.retry_after is None and passing else said.retry_after,
    )
