"""Uploads: received in a file, and sent to the accounts that need them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import structlog
from blake3 import blake3
from msgspec import Struct
from msgspec.structs import replace

from proxy.cloud.errors import CloudError, CloudRefused, unanswered
from proxy.cloud.upstream import Upstream
from proxy.files.blobs import BlobError
from proxy.files.cache import hash_file, write_all
from proxy.files.input_directory import ON_DISK
from proxy.files.library import Library
from proxy.files.namespace import Namespace
from proxy.files.opened_pictures import MAX_PIXELS
from proxy.files.pictures import PictureHeader, PictureWorkers
from proxy.storage.file_tables import FileRecord
from proxy.translate.errors import LocalError, from_cloud
from proxy.translate.media_types import essence, kind, media_type

_log = structlog.get_logger(__name__)

#: The cloud's limits of pictures: bytes, and pixels along an edge, in addition to `MAX_PIXELS`.
MAX_PICTURE_BYTES = 50 * 1024 * 1024
MAX_EDGE = 16384
#: Maximum bytes of any upload: a body of the cloud has 200 MB, the fields of the form among them.
MAX_BYTES = 200_000_000 - 10_000

#: Maximum number of concurrent uploads for one graph.
MAX_CONCURRENT = 4

#: Statuses with which the cloud refuses the bytes of an upload.
_REFUSALS = frozenset({400, 413, 415, 422})


class Received(Struct):
    """Bytes of a client in a file of the cache, with their BLAKE3, their size, and if they are a
    picture their header, and the metadata of their record."""

    path: Path
    hash: str
    size: int
    header: PictureHeader | None
    metadata: bytes | None = None


class SentContent(NamedTuple):
    """The account that has some bytes, and its name of them."""

    account: str
    cloud_name: str


@dataclass(eq=False)
class Uploads:
    """Receives bytes, and sends each content once to the accounts that need it.

    A file belongs to the account that created it or that it was sent to first; others get its
    content on demand. `_preferred` returns the accounts that a member may use, the best first. If
    there is a store of blobs, it has the bytes before the client gets its answer.
    """

    _library: Library
    _namespace: Namespace
    _preferred: Callable[[str], Sequence[str]]
    _workers: PictureWorkers

    def __post_init__(self) -> None:
        self._contents = self._library.contents
        self._sending: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def partial(self) -> AsyncIterator[Path]:
        """Yield an empty file, which is deleted at the end unless it was moved into the cache."""
        try:
            path = await asyncio.to_thread(self._library.cache.new_partial)
        except OSError as error:
            raise _unwritable(error) from error
        try:
            yield path
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)

    @asynccontextmanager
    async def received(
        self, member: str, body: AsyncIterator[bytes], filename: str
    ) -> AsyncIterator[Received]:
        """Yield a member's body in a file.

        Raises `LocalError` (413) as soon as it exceeds the cloud's limit of a body.
        """
        async with self.partial() as path:
            hasher, size = blake3(), 0
            file = await asyncio.to_thread(path.open, "wb", buffering=0)
            try:
                async for chunk in body:
                    size += len(chunk)
                    if size > MAX_BYTES:
                        raise _too_long(filename, MAX_BYTES)
                    await asyncio.to_thread(_write, file, hasher.update, chunk)
            finally:
                await asyncio.to_thread(file.close)
            header = await self._workers.header(member, path)
            metadata = None
            if header is not None and kind(filename) == "image":
                metadata = header.metadata
            yield Received(path, hasher.hexdigest(), size, header, metadata)

    async def made(self, member: str, path: Path) -> Received:
        """Return a file that was created here like a received one."""
        hash_ = await asyncio.to_thread(hash_file, path)
        size = (await asyncio.to_thread(path.stat)).st_size
        header = await self._workers.header(member, path)
        return Received(path, hash_, size, header, None if header is None else header.metadata)

    async def find_sent(self, member: str, hash_: str) -> SentContent | None:
        """Return which of the member's accounts has the bytes already, or `None`."""
        for account in self._preferred(member):
            if (cloud_name := await self._contents.sent_as(account, hash_)) is not None:
                return SentContent(account, cloud_name)
        return None

    async def send(self, member: str, received: Received, filename: str) -> SentContent:
        """Send the bytes to one of the member's accounts unless one has them, and cache them.

        An account that cannot be reached, or refuses the key, is skipped. Raises `LocalError` if
        the cloud refuses the bytes, no account can be used, or the store of blobs fails;
        `StorageError`.
        """
        sent = await self.find_sent(member, received.hash) or await self._send_to_any(
            self._preferred(member), received, filename
        )
        try:
            if self._library.blobs is not None:
                await self._library.blobs.put(received.hash, received.path)
        except BlobError as error:
            _log.error("blob_store_failed", reason=str(error))
            raise LocalError(
                "blobs_unavailable",
                f"{filename} cannot be stored, because the store of uploads is not writable; try "
                "again later.",
                kind="unavailable",
                retry_after=5.0,
            ) from error
        try:
            self._library.cache.keep(received.path, received.hash, owner=member)
        except OSError as error:
            _log.warning("upload_cache_failed", reason=str(error))
        return sent

    async def _send_to_any(
        self, accounts: Sequence[str], received: Received, filename: str
    ) -> SentContent:
        problem: CloudError | None = None
        for account in accounts:
            try:
                return SentContent(account, await self._deliver(account, received, filename))
            except CloudError as error:
                problem = problem or error
                if isinstance(error, CloudRefused) and error.status in _REFUSALS:
                    break
        if problem is None:
            raise LocalError(
                "no_account",
                f"{filename} cannot be uploaded, because you cannot use any account; ask an admin.",
                kind="forbidden",
            )
        raise _not_sent(filename, problem) from problem

    async def _deliver(self, account: str, received: Received, filename: str) -> str:
        """Send the bytes to an account unless it has them. Return its name of them.

        Raises `CloudError`, `StorageError`, `LocalError` beyond the cloud's limits.
        """
        lock = self._sending.setdefault((account, received.hash), asyncio.Lock())
        async with lock:
            cloud = self._library.clouds[account]
            cloud_name = await self._contents.sent_as(account, received.hash)
            if cloud_name is None or not await cloud.holds(cloud_name):
                _check_limits(cloud, received, filename)
                cloud_name = await cloud.upload(
                    received.path,
                    hash_=received.hash,
                    filename=filename,
                    content_type=essence(media_type(filename)),
                    picture=received.header is not None,
                )
                await self._contents.was_sent(account, received.hash, received.size, cloud_name)
        return cloud_name

    def any_input(self, account: str) -> bool:
        """Return whether names of files are looked for in all inputs of the account's graphs."""
        return self._library.clouds[account].capabilities.any_input

    # --- files of graphs -------------------------------------------------------------------------

    async def name_at(self, record: FileRecord, account: str) -> object:
        """Return what a graph for the account has in the place of the file's name."""
        cloud = self._library.clouds[account]
        reads = record.account == account and not self._must_upload(record, account)
        sent = None if reads else await self._sent_as(record, account)
        if sent is None:
            return cloud.reference(record.cloud_name, record.cloud_type)
        return cloud.reference(sent, "input")

    def _must_upload(self, record: FileRecord, account: str) -> bool:
        """Return whether a job cannot name an output of its own account."""
        capabilities = self._library.clouds[account].capabilities
        return not capabilities.reads_outputs and record.cloud_type != "input"

    async def _is_missing(self, record: FileRecord, account: str) -> bool:
        """Return whether a file must be sent before a job of the account can name it. Raises
        `LocalError` if the account does not answer."""
        if (
            record.account == account
            and record.cloud_type != "input"
            and not self._must_upload(record, account)
        ):
            return False
        sent = await self._sent_as(record, account)
        if sent is None:
            return True
        try:
            return not await self._library.clouds[account].holds(sent)
        except CloudError as error:
            raise _not_sent(record.filename, error) from error

    async def _sent_as(self, record: FileRecord, account: str) -> str | None:
        """Return the account's name of a file that was sent to it, or `None`."""
        hash_ = await self._contents.hash_of(record)
        return None if hash_ is None else await self._contents.sent_as(account, hash_)

    async def ensure_sent(self, records: Iterable[FileRecord], account: str) -> None:
        """Send the files that the account does not have.

        Raises `LocalError` (424 if a file is not available from its account, otherwise the refusal
        of this account), `StorageError`.
        """
        missing = [record for record in records if await self._is_missing(record, account)]
        turn = asyncio.Semaphore(MAX_CONCURRENT)

        async def send(record: FileRecord) -> None:
            async with turn:
                await self._send(record, account)

        results = await asyncio.gather(*map(send, missing), return_exceptions=True)
        for result in results:
            if result is not None:
                raise result

    async def _send(self, record: FileRecord, account: str) -> None:
        """Send a file of another account, or send again an upload of an account that is now at
        another cloud, if the cache or the store of blobs has it.

        If the other account refuses it, the error is not one of this account.
        """
        again = record.account == account and record.cloud_type == "input"
        try:
            lease = await self._library.whole(record, kept=again)
        except LocalError as error:
            if again:
                return
            raise LocalError(
                "input_unavailable",
                f"The job needs a file that is not available: {error.message}",
                kind="dependency_failed",
            ) from error
        hash_, size = lease.path.name, lease.size
        try:
            header = await self._workers.header(record.member, lease.path)
            received = Received(lease.path, hash_, size, header)
            cloud_name = await self._deliver(account, received, record.filename)
        except CloudError as error:
            raise _not_sent(record.filename, error) from error
        finally:
            del lease  # the traceback of an error that is kept would keep it, too
        changed = record
        if again:
            changed = replace(record, cloud_name=cloud_name)
        elif record.hash is None and record.account != ON_DISK:
            # so that the other account's name leads to the file
            changed = replace(record, hash=hash_, size=size)
        if changed != record:
            async with self._namespace.lock(record.member):
                if await self._namespace.get(record.member, record.place) == record:
                    await self._namespace.put([changed])


def _write(file: RawIOBase, update: Callable[[bytes], object], chunk: bytes) -> None:
    update(chunk)
    try:
        write_all(file.fileno(), chunk)
    except OSError as error:
        raise _unwritable(error) from error


def _check_limits(cloud: Upstream, received: Received, filename: str) -> None:
    """Check a picture by the limits of an account. Raises `LocalError`."""
    header, facts = received.header, cloud.observations.facts
    if header is None:
        return
    max_bytes = cloud.observations.number("max_upload_size") or MAX_PICTURE_BYTES
    if received.size > max_bytes:
        raise _too_long(filename, max_bytes, "a picture")
    any_edge, any_size = (facts.get(fact) == "taken" for fact in ("upload_edge", "upload_pixels"))
    if header.width is None or header.height is None:
        if not any_size:
            raise _too_large(filename, f"more than {MAX_PIXELS} pixels")
        return
    too_long = max(header.width, header.height) > MAX_EDGE and not any_edge
    if too_long or (header.width * header.height > MAX_PIXELS and not any_size):
        raise _too_large(filename, f"{header.width} x {header.height} pixels")


def _not_sent(filename: str, error: CloudError) -> LocalError:
    if not isinstance(error, CloudRefused):
        return unanswered(error, f"{filename} could not be sent", "upload it again")
    refusal = from_cloud(error.status, error.body, error.retry_after)
    if error.status not in _REFUSALS:
        return refusal
    media = {"audio": "audio", "video": "videos"}.get(kind(filename))
    advice = f" It may not accept {media} as uploads." if media else ""
    return LocalError(
        "upload_refused",
        f"{error.title} does not take {filename}: {refusal.message.rstrip('. ')}.{advice}",
        kind=refusal.kind,
        extra_info=refusal.extra_info,
    )


def _too_long(filename: str, max_bytes: int, what: str = "a file") -> LocalError:
    """Return the error of a file with more than `max_bytes`."""
    return LocalError(
        "upload_too_large",
        f"{filename} has more than {max_bytes / (1 << 20):.3g} MiB, which is Comfy Cloud's maximum "
        f"of {what}; upload a smaller one.",
        kind="too_large",
        extra_info={"max_bytes": max_bytes},
    )


def _unwritable(error: OSError) -> LocalError:
    _log.error("cache_write_failed", reason=str(error))
    return LocalError(
        "cache_unwritable",
        "The proxy cannot write to its cache; free disk space or repair the disk, then upload "
        "again.",
        kind="unavailable",
    )


def _too_large(filename: str, size: str) -> LocalError:
    return LocalError(
        "image_too_large",
        f"{filename} has {size}; Comfy Cloud accepts at most {MAX_EDGE} pixels along an edge and "
        f"{MAX_PIXELS} pixels in total. Upload a smaller picture.",
        extra_info={"max_edge": MAX_EDGE, "max_pixels": MAX_PIXELS},
    )
