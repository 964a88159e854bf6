"""Contents from elsewhere: from behind signed URLs, and from addresses that stand in graphs.

`GET /api/view` answers with a 302 to a signed URL of another host, sometimes with the bytes
themselves. The URL is a secret and the key is none of that host's business: neither is ever
logged, named in an error, or sent to the other.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import structlog
from yarl import URL

from proxy.cloud.http import (
    CONNECT_TIMEOUT,
    AddressRefusedError,
    Connections,
    Http,
    Reach,
    reach_of,
    refused_address,
    reported,
)
from proxy.cloud.resilience import CloudGarbage, CloudRefused, refusal
from proxy.metrics import CloudCalls

log = structlog.get_logger(__name__)

_CALL = "the signed download"

#: A storage refuses a signature that has run out with one of these.
_EXPIRED = frozenset({400, 401, 403})

#: Seconds for which the opening of a content is tried again: somebody waits for its first byte.
_BUDGET = 10.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 4
#: The same for an address in a graph, and seconds for the whole of its file.
_REMOTE_REDIRECTS, _REMOTE_TIMEOUT = 3, 30.0


class Download:
    """A content that is arriving.

    `offset` is where its bytes begin: the one that was asked for, or 0 if the storage does not do
    ranges. `size` is the whole content's in bytes, `None` where the storage does not tell.
    """

    def __init__(self, response: aiohttp.ClientResponse, asked: int, calls: CloudCalls) -> None:
        self._response = response
        self._calls = calls
        self.offset, self.size = _extent(response, asked)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come. Raises `CloudUnreachable` if they end too early or stall."""
        with reported(_CALL, sent=True):
            # One read of the socket each: to join what has come meanwhile is a copy of the file.
            async for chunk, _ in self._response.content.iter_chunks():
                if chunk:
                    self._calls.downloaded(len(chunk))
                    yield chunk


class Downloads:
    """Opens downloads. One that brings no byte for `http.timeout` seconds is given up."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._limits = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT, sock_read=http.timeout
        )
        self._retries = replace(http.retries, budget=min(http.retries.budget, _BUDGET))
        self._connections = Connections(http.addresses.check_storage)

    async def start(self) -> None:
        """Open the session with the storage, which knows no credential."""
        await self._connections.start()

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()

    @asynccontextmanager
    async def open(self, cloud_name: str, *, type: str, offset: int) -> AsyncIterator[Download]:  # noqa: A002
        """The bytes of a file from `offset` on.

        Raises `CloudRefused` (404: no such file; 416: nothing begins at `offset`; 403: the storage
        does not take the signature), `CloudUnreachable` or `CloudGarbage`.
        """
        async for attempt in self._retries.attempts():
            with attempt:
                response = await self._begin(cloud_name, type, offset)
                try:
                    download = Download(response, offset, self._http.calls)
                except BaseException:
                    response.close()
                    raise
        try:
            yield download
        finally:
            response.close()

    async def _begin(self, cloud_name: str, type_: str, offset: int) -> aiohttp.ClientResponse:
        view = self._http.url("view", filename=cloud_name, type=type_)
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        for last in (False, True):
            response = await self._http.open("GET", view, headers=headers, limits=self._limits)
            if response.status not in _REDIRECTS:
                return response
            response = await self._follow(response, headers)
            if response.status < 400:
                return response
            response.close()
            if last or response.status not in _EXPIRED:
                break
        raise _storage_refusal(response.status)

    async def _follow(
        self, response: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        for _ in range(_MAX_REDIRECTS):
            location = redirect_target(response)
            response.close()
            with reported(_CALL, sent=True):
                response = await self._get(location, headers)
            if response.status not in _REDIRECTS:
                return response
        response.close()
        raise CloudGarbage(f"{_CALL}: too many redirects")

    async def _get(self, location: URL, headers: dict[str, str]) -> aiohttp.ClientResponse:
        try:
            session, proxy = self._connections.choose(location)
            return await session.get(
                location, headers=headers, timeout=self._limits, allow_redirects=False, proxy=proxy
            )
        except (aiohttp.ClientConnectorError, OSError) as error:
            if (refused := refused_address(error)) is None:
                raise
            log.warning("redirect_refused", reason=str(refused))
            said = {"code": "REDIRECT_REFUSED", "message": f"The cloud answered with {refused}"}
            raise refusal(_CALL, 403, said, None) from None


def _storage_refusal(status: int) -> CloudRefused:
    """Never a `CloudUnauthorized`: the storage has not seen the key."""
    if status not in _EXPIRED:
        return refusal(_CALL, status, "the storage refused it", None)
    said = f"the storage refused the signed address ({status})"
    return refusal(_CALL, 403, {"code": "STORAGE_REFUSED", "message": said}, None)


def redirect_target(response: aiohttp.ClientResponse) -> URL:
    """Where a redirect leads, with every escape as it was written: it is part of the signature."""
    try:
        location = response.url.join(URL(response.headers["Location"], encoded=True))
    except (KeyError, ValueError):
        raise CloudGarbage(f"{_CALL}: a redirect to nowhere") from None
    if location.scheme not in ("http", "https") or not location.host:
        raise CloudGarbage(f"{_CALL}: a redirect to something that is not HTTP")
    if response.url.scheme == "https" and location.scheme == "http":
        raise CloudGarbage(f"{_CALL}: a redirect from https to http")
    return location


def _extent(response: aiohttp.ClientResponse, asked: int) -> tuple[int, int | None]:
    """Where the bytes of an answer begin, and how long the whole is."""
    if response.status == 206:
        given = re.fullmatch(
            r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip()
        )
        if given is None or int(given[1]) != asked:
            raise CloudGarbage(f"{_CALL}: not the range that was asked for")
        return asked, None if given[2] == "*" else int(given[2])
    if response.status != 200:
        raise CloudGarbage(f"{_CALL}: status {response.status}")
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    return 0, None if encoded else response.content_length


class NotFetchedError(Exception):
    """A file was not fetched; the text says why, and nothing of what a server answered."""


class RemoteFiles:
    """Fetches files of at most `most` bytes from `hosts` (`*.example.com` for all below one).

    Each address is looked at when it is connected to, whatever name led there; what is less public
    than `reach` is refused.
    """

    def __init__(self, hosts: Collection[str], *, most: int, reach: Reach = "public") -> None:
        self._hosts = tuple(host.lower() for host in hosts)
        self._most = most
        self._reach = reach
        self._connections = Connections(self._check)

    async def start(self) -> None:
        """Open the sessions; connections come when they are needed."""
        await self._connections.start()

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()

    async def fetch(self, address: str) -> bytes:
        """The bytes behind an address. Raises `NotFetchedError`."""
        try:
            url = URL(address)
            for _ in range(_REMOTE_REDIRECTS + 1):
                self._check_url(url)
                session, proxy = self._connections.choose(url)
                limits = aiohttp.ClientTimeout(total=_REMOTE_TIMEOUT, sock_connect=CONNECT_TIMEOUT)
                async with session.get(
                    url, timeout=limits, allow_redirects=False, proxy=proxy
                ) as response:
                    if response.status not in _REDIRECTS:
                        return await self._body(response)
                    url = response.url.join(URL(response.headers.get("Location", ""), encoded=True))
        except AddressRefusedError as error:
            raise NotFetchedError(str(error)) from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            refused = refused_address(error)
            if refused is not None:
                log.warning("url_refused", reason=str(refused))
                raise NotFetchedError(str(refused)) from None
            raise NotFetchedError("the server cannot be reached or broke off") from error
        raise NotFetchedError("it is redirected too often")

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        if response.status != 200:
            raise NotFetchedError(f"the server answers {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > self._most:
                raise NotFetchedError(f"it has more than {self._most} bytes")
        return bytes(body)

    def _check_url(self, url: URL) -> None:
        if url.scheme not in ("http", "https") or not url.host:
            raise NotFetchedError("it is no http or https address")
        host = url.host.lower()
        allowed = any(
            host == one or (one.startswith("*.") and host.endswith(one[1:])) for one in self._hosts
        )
        if not allowed:
            raise NotFetchedError(
                f"the host {host} is not allowed: ask an admin to add it to the setting url_hosts"
            )

    def _check(self, address: str) -> None:
        reach = reach_of(address)
        if self._reach == "public" and reach != "public":
            raise AddressRefusedError("the address is not of the public network")
