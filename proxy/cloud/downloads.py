"""Downloads of files, from the cloud or by way of a signed URL from its storage."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
import structlog
from msgspec import Struct
from yarl import URL

from proxy.cloud.calls import CloudCall
from proxy.cloud.connections import (
    CONNECT_TIMEOUT,
    CONNECTION_ERRORS,
    Connections,
    refused_address,
)
from proxy.cloud.errors import CloudError, CloudGarbage, CloudRefused, refusal
from proxy.cloud.http import REDIRECTS, Http, unreachable
from proxy.translate.reading import url_of

log = structlog.get_logger(__name__)

#: The name of a signed URL in errors. The URL is a secret, and its host must not see the key:
#: neither is logged, named in an error, or sent to the other host.
_DOWNLOAD = "the signed download"

_MAX_REDIRECTS = 4

#: Statuses with which storages refuse an expired signature.
_EXPIRED = frozenset({400, 401, 403})


class Download(Struct, frozen=True):
    """A content during its download.

    `size` is that of the whole content in bytes, `None` if the storage does not report it.
    `chunks()` yields the bytes from the requested offset on as they come; it raises
    `CloudUnreachable`, or the `BlobError` of a store, if they end too early or stall.
    """

    size: int | None
    chunks: Callable[[], AsyncIterator[bytes]]


class Downloads:
    """Downloads with the key of `http`, and without it from the storage. `call_of` returns the call
    for a file by its name and its folder."""

    def __init__(self, http: Http, call_of: Callable[[str, str], CloudCall]) -> None:
        self._http = http
        self._call_of = call_of
        self._limits = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT, sock_read=http.retries.attempt_timeout
        )
        self._connections = Connections(http.addresses.check_storage)

    async def start(self) -> None:
        """Open the sessions with the storage."""
        await self._connections.start()

    async def close(self) -> None:
        """Close the connections to the storage."""
        await self._connections.close()

    @asynccontextmanager
    async def open(self, cloud_name: str, type_: str, offset: int = 0) -> AsyncIterator[Download]:
        """Open the bytes of a file from `offset` on, wherever they are stored.

        `async with downloads.open(…) as download: async for chunk in download.chunks(): …`
        Raises `CloudRefused` (404: no such file; 416: `offset` is beyond its end; 403: the storage
        refuses the signature), `CloudUnreachable` or `CloudGarbage`; nothing is repeated but with
        an expired signature. A download without a byte for `timeout` seconds fails.
        """
        try:
            response = await self._open_call(cloud_name, type_, offset)
        except CloudError as error:
            error.title = self._http.title
            raise
        try:
            skipped, size = _extent(response, offset)
            yield Download(size, partial(self._chunks, response, skipped))
        finally:
            response.close()

    async def _chunks(self, response: aiohttp.ClientResponse, skipped: int) -> AsyncIterator[bytes]:
        """Yield the bytes of an answer after the first `skipped`."""
        try:
            # The chunks as they are received: joining them would copy the file.
            async for chunk, _ in response.content.iter_chunks():
                self._http.monitor.calls.downloaded(len(chunk))
                if wanted := chunk[skipped:]:
                    yield wanted
                skipped = max(0, skipped - len(chunk))
        except CONNECTION_ERRORS as error:
            raise unreachable(_DOWNLOAD, error, sent=True) from None

    async def _open_call(self, cloud_name: str, type_: str, offset: int) -> aiohttp.ClientResponse:
        call = self._call_of(cloud_name, type_)
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        for _ in range(2):
            response = await self._http.open(call, headers=headers, timeout=self._limits)
            if response.status in REDIRECTS:
                response = await self._follow(response, headers)
            if response.status < 400:
                return response
            response.close()
            if response.status not in _EXPIRED:
                break
        raise _storage_refusal(response.status)

    async def _follow(
        self, response: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        for _ in range(_MAX_REDIRECTS):
            response.close()
            location = redirect_target(response)
            try:
                response = await self._connections.request(
                    "GET", location, headers=headers, timeout=self._limits
                )
            except CONNECTION_ERRORS as error:
                raise _redirect_failed(error) from None
            if response.status not in REDIRECTS:
                return response
        response.close()
        raise CloudGarbage(f"{_DOWNLOAD}: too many redirects")


def _redirect_failed(error: Exception) -> CloudError:
    """Return the error of a redirect that leads nowhere, or to where nothing is fetched from."""
    refused = refused_address(error)
    if refused is None:
        return unreachable(_DOWNLOAD, error, sent=True)
    log.warning("redirect_refused", reason=str(refused))
    body = {"code": "REDIRECT_REFUSED", "message": f"The cloud redirects to {refused}"}
    return refusal(_DOWNLOAD, 403, body, None)


def _storage_refusal(status: int) -> CloudRefused:
    """Return the error of a storage, never a `CloudUnauthorized`: it has not seen the key."""
    if status not in _EXPIRED:
        return refusal(_DOWNLOAD, status, "the storage refused it", None)
    message = f"the storage refused the signed address ({status})"
    return refusal(_DOWNLOAD, 403, {"code": "STORAGE_REFUSED", "message": message}, None)


def redirect_target(response: aiohttp.ClientResponse) -> URL:
    """Return the URL of a redirect with its escapes unchanged, which are part of the signature.
    Raises `CloudGarbage`."""
    try:
        location = response.url.join(url_of(response.headers["Location"], encoded=True))
        host = location.host if location.port else None
    except (KeyError, ValueError):
        raise CloudGarbage(f"{_DOWNLOAD}: a redirect to nowhere") from None
    if location.scheme not in ("http", "https") or not host:
        raise CloudGarbage(f"{_DOWNLOAD}: a redirect to something that is not HTTP")
    if response.url.scheme == "https" and location.scheme == "http":
        raise CloudGarbage(f"{_DOWNLOAD}: a redirect from https to http")
    return location


def _extent(response: aiohttp.ClientResponse, asked: int) -> tuple[int, int | None]:
    """Return how many bytes an answer has before the one that was asked for, all of them where the
    storage does not support ranges, and the size of the whole content. Raises `CloudGarbage`."""
    if response.status == 206:
        given = re.fullmatch(
            r"bytes (\d{1,19})-\d+/(\d{1,19}|\*)", response.headers.get("Content-Range", "").strip()
        )
        if given is None or int(given[1]) != asked:
            raise CloudGarbage(f"{_DOWNLOAD}: not the range that was asked for")
        return 0, None if given[2] == "*" else int(given[2])
    if response.status != 200:
        raise CloudGarbage(f"{_DOWNLOAD}: status {response.status}")
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    return asked, None if encoded else response.content_length
