"""Bytes of clients on their way to the cloud: through a file, hashed as they pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

import structlog
from blake3 import blake3

from proxy.cloud.errors import CloudError, CloudRefused, unanswered
from proxy.files.cache import Cache
from proxy.files.contents import Contents
from proxy.files.pictures import MAX_PIXELS, NotAPictureError, TooManyPixelsError, size_of
from proxy.translate.errors import LocalError, from_cloud
from proxy.translate.names import kind, media_type

_log = structlog.get_logger(__name__)

#: The cloud's limits for uploads: bytes, and pixels along an edge beside `MAX_PIXELS`.
MAX_BYTES = 50 * 1024 * 1024
MAX_EDGE = 16384

#: Statuses with which the cloud says that it does not take these bytes.
_REFUSALS = frozenset({400, 413, 415, 422})


class UploadTarget(Protocol):
    """What the files need of the cloud to give it contents."""

    async def upload(self, path: Path, *, filename: str, content_type: str) -> str:
        """Send a file and return the cloud's name for it. Raises `CloudError`."""


@dataclass(slots=True)
class Received:
    """Bytes of a client in a file of the cache's, with their BLAKE3 and their length."""

    path: Path
    hash: str
    size: int


class Sent(NamedTuple):
    """Bytes that an account has, and how it calls them."""

    account: str
    cloud_name: str


class Uploads:
    """Receives bytes and sends them to accounts, to each a content once.

    `preferred` names the accounts that a member may use, the best first.
    """

    def __init__(
        self,
        clouds: Mapping[str, UploadTarget],
        preferred: Callable[[str], Sequence[str]],
        cache: Cache,
        contents: Contents,
    ) -> None:
        self._clouds = clouds
        self._preferred = preferred
        self._cache = cache
        self._contents = contents
        self._sending: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def partial(self) -> AsyncIterator[Path]:
        """An empty file that is gone at the end unless it was taken into the cache."""
        try:
            path = await asyncio.to_thread(self._cache.new_partial)
        except OSError as error:
            raise _unwritable(error) from error
        try:
            yield path
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)

    @asynccontextmanager
    async def received(self, body: AsyncIterator[bytes], filename: str) -> AsyncIterator[Received]:
        """The body in a file. Raises `LocalError` (413) as soon as the cloud's limit is passed."""
        async with self.partial() as path:
            hasher, size = blake3(), 0
            file = await asyncio.to_thread(path.open, "wb", buffering=0)
            try:
                async for chunk in body:
                    size += len(chunk)
                    if size > MAX_BYTES:
                        raise _too_long(filename)
                    await asyncio.to_thread(_write, file, hasher, chunk)
            finally:
                await asyncio.to_thread(file.close)
            yield Received(path, hasher.hexdigest(), size)

    async def had(self, member: str, hash_: str) -> Sent | None:
        """Where the bytes are already, of the accounts that the member may use."""
        for account in self._preferred(member):
            cloud_name = await self._contents.sent_as(account, hash_)
            if cloud_name is not None:
                return Sent(account, cloud_name)
        return None

    async def send(self, member: str, received: Received, filename: str) -> Sent:
        """Send the bytes to one of the member's accounts unless one has them; the cache keeps them.

        An account that cannot be reached or does not let us in is passed over. Raises
        `LocalError` if the cloud does not take them or no account can be used, `StorageError`.
        """
        sent = await self.had(member, received.hash) or await self._send_to_any(
            self._preferred(member), received, filename
        )
        try:
            self._cache.keep(received.path, received.hash)
        except OSError as error:
            _log.warning("upload_cache_failed", reason=str(error))
        return sent

    async def ensure_sent(self, account: str, received: Received, filename: str) -> str:
        """The account's name for the bytes, sent now unless it has them; the file stays.

        Raises as `send`.
        """
        try:
            return await self._deliver(account, received, filename)
        except CloudError as error:
            raise _not_sent(filename, error) from error

    async def _send_to_any(
        self, accounts: Sequence[str], received: Received, filename: str
    ) -> Sent:
        problem: CloudError | None = None
        for account in accounts:
            try:
                return Sent(account, await self._deliver(account, received, filename))
            except CloudError as error:
                problem = problem or error
                if isinstance(error, CloudRefused) and error.status in _REFUSALS:
                    break
        if problem is None:
            raise _no_account(filename)
        raise _not_sent(filename, problem) from problem

    async def _deliver(self, account: str, received: Received, filename: str) -> str:
        """As `ensure_sent`. Raises `CloudError`, `LocalError` beyond the cloud's limits."""
        lock = self._sending.setdefault((account, received.hash), asyncio.Lock())
        async with lock:
            cloud_name = await self._contents.sent_as(account, received.hash)
            if cloud_name is None:
                await self._check_limits(received, filename)
                type_ = media_type(filename).partition(";")[0]
                cloud_name = await self._clouds[account].upload(
                    received.path, filename=filename, content_type=type_
                )
                await self._contents.was_sent(account, received.hash, received.size, cloud_name)
        return cloud_name

    async def _check_limits(self, received: Received, filename: str) -> None:
        if received.size > MAX_BYTES:
            raise _too_long(filename)
        try:
            width, height = await asyncio.to_thread(size_of, received.path)
        except TooManyPixelsError:
            raise _too_large(filename, "more pixels than that") from None
        except NotAPictureError:
            return
        if max(width, height) > MAX_EDGE or width * height > MAX_PIXELS:
            raise _too_large(filename, f"{width} x {height}")


def _write(file: RawIOBase, hasher: blake3, chunk: bytes) -> None:
    hasher.update(chunk)
    view = memoryview(chunk)
    try:
        while view:
            view = view[file.write(view) or 0 :]
    except OSError as error:
        raise _unwritable(error) from error


def received_file(path: Path) -> Received:
    """A file that was made here, as if it had been received; blocks."""
    hasher, size = blake3(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
            size += len(block)
    return Received(path, hasher.hexdigest(), size)


def _not_sent(filename: str, error: CloudError) -> LocalError:
    if isinstance(error, CloudRefused):
        return _refused(filename, error)
    return unanswered(error, f"{filename} could not be sent", "upload it again")


def _no_account(filename: str) -> LocalError:
    return LocalError(
        403,
        "no_account",
        f"{filename} cannot be sent: you may use none of the proxy's Comfy Cloud accounts; ask "
        "whoever runs the proxy.",
    )


def _too_long(filename: str) -> LocalError:
    """The refusal of a file beyond the cloud's limit in bytes."""
    return LocalError(
        413,
        "upload_too_large",
        f"{filename} has more than 50 MB, which is the most that Comfy Cloud takes; upload a "
        "smaller file.",
        extra_info={"max_bytes": MAX_BYTES},
    )


def _unwritable(error: OSError) -> LocalError:
    _log.error("cache_write_failed", reason=str(error))
    return LocalError(
        503,
        "cache_unwritable",
        "The proxy cannot write to its cache, so it takes no upload; free or repair its disk, "
        "then upload again.",
    )


def _too_large(filename: str, size: str) -> LocalError:
    return LocalError(
        400,
        "image_too_large",
        f"{filename} has {size}; Comfy Cloud takes pictures of at most {MAX_EDGE} pixels along an "
        f"edge and {MAX_PIXELS} pixels in all. Make it smaller and upload it again.",
        extra_info={"max_edge": MAX_EDGE, "max_pixels": MAX_PIXELS},
    )


def _refused(filename: str, error: CloudRefused) -> LocalError:
    said = from_cloud(error.status, error.body, error.retry_after)
    if error.status not in _REFUSALS:
        return said
    status = 413 if error.status == 413 else 400
    media = {"audio": "audio", "video": "videos"}.get(kind(filename))
    advice = f" It may not take {media} as uploads." if media else ""
    return LocalError(
        status,
        "upload_refused",
        f"Comfy Cloud does not take {filename}: {said.message.rstrip('. ')}.{advice}",
        extra_info=said.extra_info,
    )
