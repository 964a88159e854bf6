"""The store of uploads of several processes: a folder, or a bucket of an S3-compatible store.

A content is stored once, under its BLAKE3, and never changed.
"""

from __future__ import annotations

import asyncio
import configparser
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from proxy.cloud.downloads import Download
from proxy.logging import register_secret
from proxy.runtime import randomness, threads

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult
    from obstore.store import ObjectStore, S3Config, S3Credential

T = TypeVar("T")

#: Maximum number of concurrent calls. One needs at most a few `_PART_SIZE` bytes of memory.
_MAX_CONCURRENT = 8
#: Bytes of a part of an upload, and of one read.
_PART_SIZE, _CHUNK = 5 * 1024 * 1024, 256 * 1024
#: Seconds to connect to a store, for one request, and for its retries.
_CONNECT_TIMEOUT, _REQUEST_TIMEOUT, _RETRY_TIMEOUT = 2, 60, 5
#: The region of a bucket where no variable names one, as AWS's own programs have it.
_REGION = "us-east-1"


class BlobError(Exception):
    """Raised when the store fails. The text is one sentence without secrets."""


class BlobMissingError(BlobError):
    """Raised for a content that the store does not have."""


class BlobStore:
    """Contents by their BLAKE3. `open_blobs` creates it; `place` names it in messages.

    obstore's blocking calls run in threads: its own coroutines abort an interpreter that exits soon
    after them (pyo3-async-runtimes).
    """

    def __init__(self, store: ObjectStore, place: str) -> None:
        self.place = place
        self._store = store
        self._threads = threads.pool(_MAX_CONCURRENT, "blob store")

    async def put(self, hash_: str, path: Path) -> None:
        """Store the content of a file, unless it is stored already. Raises `BlobError`."""
        await self._run(self._put, hash_, path)

    @asynccontextmanager
    async def download(self, hash_: str, _: str, offset: int = 0) -> AsyncIterator[Download]:
        """Open a content from `offset` on, as `Upstream.download`.

        Raises `BlobMissingError`, `BlobError`.
        """
        found = await self._run(self._get, hash_, offset)
        parts = iter(found.stream(min_chunk_size=_CHUNK))

        async def chunks() -> AsyncIterator[bytes]:
            while (part := await self._run(next, parts, None)) is not None:
                yield bytes(part)

        yield Download(found.meta["size"], chunks)

    async def check(self) -> None:
        """Check that the store can be written and read. Raises `BlobError`."""
        await self._run(self._check)

    async def close(self) -> None:
        """Wait for the calls under way."""
        await asyncio.to_thread(self._threads.shutdown)

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        with _translated_store_errors(self.place):
            return await loop.run_in_executor(self._threads, partial(call, *arguments))

    # --- in threads -------------------------------------------------------------------------

    def _put(self, hash_: str, path: Path) -> None:
        import obstore

        key = _key(hash_)
        try:
            if obstore.head(self._store, key)["size"] == path.stat().st_size:
                return  # an incomplete one, after a power cut, is written again
        except FileNotFoundError:
            pass
        obstore.put(self._store, key, path, chunk_size=_PART_SIZE, max_concurrency=2)

    def _get(self, hash_: str, offset: int) -> GetResult:
        import obstore

        options: GetOptions = {"range": {"offset": offset}} if offset else {}
        return obstore.get(self._store, _key(hash_), options=options)

    def _check(self) -> None:
        import obstore

        key, data = f"check-{randomness.token_hex(8)}", b"comfy-cloud-proxy"
        obstore.put(self._store, key, data)
        try:
            if bytes(obstore.get(self._store, key).bytes()) != data:
                raise BlobError(f"{self.place} does not return what was written")
        finally:
            obstore.delete(self._store, key)


def open_blobs(place: str) -> BlobStore:
    """Return the store at the path of a folder, or at `s3://BUCKET/PREFIX`.

    The variables of AWS say where buckets are, and have the keys. Makes no request. Raises
    `BlobError`.
    """
    try:
        from obstore.store import LocalStore, S3Store
    except ModuleNotFoundError as error:
        raise BlobError(
            "the setting blobs needs the extra `cluster`: install the package with it"
        ) from error
    with _translated_store_errors(place):
        if not place.startswith("s3://"):
            folder = Path(place)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return BlobStore(LocalStore(folder), place)
        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        register_secret(os.environ.get("AWS_SECRET_ACCESS_KEY", ""))
        endpoint = _first_of("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        config: S3Config = {"region": _first_of("AWS_REGION", "AWS_DEFAULT_REGION") or _REGION}
        if endpoint:
            config["endpoint"] = endpoint.rstrip("/")
        keys = os.environ.get("AWS_SHARED_CREDENTIALS_FILE")
        store = S3Store(
            bucket,
            prefix=prefix or None,
            config=config,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=_CONNECT_TIMEOUT),
                "timeout": timedelta(seconds=_REQUEST_TIMEOUT),
            },
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=_RETRY_TIMEOUT)},
            credential_provider=partial(_credentials, Path(keys)) if keys else None,
        )
        return BlobStore(store, place)


def _first_of(*names: str) -> str:
    """Return the value of the first of these variables that is set and not empty, or `""`."""
    return next(filter(None, map(os.environ.get, names)), "")


def _credentials(path: Path) -> S3Credential:
    """Return the keys of the profile `default`, or of AWS_PROFILE, in an AWS credentials file."""
    parser = configparser.ConfigParser(interpolation=None)
    with path.open(encoding="utf-8") as file:
        parser.read_file(file)
    profile = parser[os.environ.get("AWS_PROFILE") or "default"]
    register_secret(profile["aws_secret_access_key"])
    return {
        "access_key_id": profile["aws_access_key_id"],
        "secret_access_key": profile["aws_secret_access_key"],
        "token": profile.get("aws_session_token"),
        "expires_at": None,
    }


def _key(hash_: str) -> str:
    return f"{hash_[:2]}/{hash_}"


@contextmanager
def _translated_store_errors(place: str) -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        raise BlobMissingError(f"{place} has no such content") from error
    except (BaseError, OSError, ValueError, LookupError, configparser.Error) as error:
        # The first line says what happened; the others are the store's own structures.
        reason = " ".join(str(error).split("\n\n", 1)[0].split())
        raise BlobError(f"{place} cannot be used: {reason or type(error).__name__}") from error
