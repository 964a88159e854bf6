"""Contents from behind signed URLs.

`GET /api/view` answers with a 302 to a signed URL of another host, sometimes with the bytes
themselves. The URL is a secret and the key is none of that host's business: neither is ever
logged, named in an error, or sent to the other.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import structlog
from yarl import URL

from proxy.cloud.connections import CONNECT_TIMEOUT, Connections, refused_address
from proxy.cloud.errors import CloudGarbage, CloudRefused, refusal
from proxy.cloud.http import Http, reported
from proxy.metrics import CloudCalls

log = structlog.get_logger(__name__)

_CALL = "the signed download"

#: A storage refuses a signature that has run out with one of these.
_EXPIRED = frozenset({400, 401, 403})

#: Seconds for which the opening of a content is tried again: somebody waits for its first byte.
_BUDGET = 10.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 4


class Download:
    """A content that is arriving.

    `offset` is where its bytes begin: the one that was asked for, or 0 if the storage does not do
    ranges. `size` is the whole content's in bytes, `None` where the storage does not tell.
    """

    def __init__(self, response: aiohttp.ClientResponse, asked: int, calls: CloudCalls) -> None:
        self._response = response
        self._calls = calls
        self.status = response.status
        self.content_type = response.content_type
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
                location,
                headers=headers,
                timeout=self._limits,
                allow_redirects=False,
                proxy=proxy,
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
