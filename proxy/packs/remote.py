"""Files from addresses in graphs, which nodes of packs load."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

import aiohttp
import structlog
from yarl import URL

from proxy.cloud.connections import CONNECT_TIMEOUT, Connections, refused_address
from proxy.cloud.http import REDIRECTS
from proxy.cloud.reach import AddressRefusedError, Reach, is_host_of, reach_of
from proxy.translate.reading import url_of

log = structlog.get_logger(__name__)

#: Redirects that are followed, and seconds for the whole of a file.
_MAX_REDIRECTS, _TIMEOUT = 3, 30.0


class NotFetchedError(Exception):
    """Raised when a file is not fetched; says why, and nothing of what a server answered."""


class RemoteFiles:
    """Fetches files of at most `max_bytes` bytes from `hosts` (`*.example.com` for all below one).

    Each address is looked at when it is connected to, whatever name led there; what is less public
    than `reach` is refused.
    """

    def __init__(self, hosts: Collection[str], *, max_bytes: int, reach: Reach = "public") -> None:
        self._hosts = tuple(host.lower() for host in hosts)
        self._max_bytes = max_bytes
        self._reach = reach
        self._connections = Connections(self._check)

    async def start(self) -> None:
        """Open the sessions; connections come when they are needed."""
        await self._connections.start()

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()

    async def fetch(self, address: str, target: Path) -> None:
        """Write what is behind an address to the file `target`. Raises `NotFetchedError`."""
        try:
            url = url_of(address)
            for _ in range(_MAX_REDIRECTS + 1):
                self._check_url(url)
                limits = aiohttp.ClientTimeout(total=_TIMEOUT, sock_connect=CONNECT_TIMEOUT)
                async with await self._connections.request("GET", url, timeout=limits) as response:
                    if response.status not in REDIRECTS:
                        await self._write_body(response, target)
                        return
                    url = response.url.join(
                        url_of(response.headers.get("Location", ""), encoded=True)
                    )
        except AddressRefusedError as error:
            raise NotFetchedError(str(error)) from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            refused = refused_address(error)
            if refused is not None:
                log.warning("url_refused", reason=str(refused))
                raise NotFetchedError(str(refused)) from None
            raise NotFetchedError(
                "the server cannot be reached, or closed the connection"
            ) from error
        raise NotFetchedError("it redirects too often")

    async def _write_body(self, response: aiohttp.ClientResponse, target: Path) -> None:
        if response.status != 200:
            raise NotFetchedError(f"the server answers {response.status}")
        size = 0
        file = await asyncio.to_thread(target.open, "wb", buffering=0)
        try:
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > self._max_bytes:
                    raise NotFetchedError(f"it has more than {self._max_bytes} bytes")
                await asyncio.to_thread(file.write, chunk)
        finally:
            await asyncio.to_thread(file.close)

    def _check_url(self, url: URL) -> None:
        if url.scheme not in ("http", "https") or not url.host:
            raise NotFetchedError("it is not an http or https address")
        host = url.host.lower()
        if not is_host_of(self._hosts, host):
            raise NotFetchedError(
                f"the host {host} is not allowed: ask an admin to add it to the setting url_hosts"
            )

    def _check(self, address: str) -> None:
        reach = reach_of(address)
        if self._reach == "public" and reach != "public":
            raise AddressRefusedError("the address is not in the public network")
