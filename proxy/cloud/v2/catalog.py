"""The node classes of a deployment, which has no list of them itself.

They are those of the install that its build was made from: a file, or the address of a ComfyUI.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from yarl import URL

from proxy.cloud.answers import CATALOG
from proxy.cloud.connections import (
    CONNECT_TIMEOUT,
    CONNECTION_ERRORS,
    USER_AGENT,
    Connections,
    read_body,
)
from proxy.cloud.errors import CloudGarbage, CloudUnreachable

#: Seconds in which a ComfyUI sends its list.
TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class NodeList:
    """Where the node classes of a deployment are."""

    place: Path | URL

    async def read(self) -> bytes:
        """Return the classes as `GET /object_info` has them. Raises `CloudUnreachable`,
        `CloudGarbage`."""
        body = await (_fetch(self.place) if isinstance(self.place, URL) else _load(self.place))
        body = body.strip()
        if not (body.startswith(b"{") and body.endswith(b"}")):
            raise CloudGarbage(f"{self.place}: not a list of node classes")
        return body

    async def saved_at(self) -> float | None:
        """Return when the file was written (seconds since 1970), `None` of an address, whose list
        is always new, and of a file that is missing."""
        if isinstance(self.place, URL):
            return None
        try:
            return (await asyncio.to_thread(self.place.stat)).st_mtime
        except OSError:
            return None


async def _load(path: Path) -> bytes:
    def load() -> bytes:
        with path.open("rb") as file:
            return file.read(CATALOG.size + 1)

    try:
        body = await asyncio.to_thread(load)
    except OSError as error:
        raise CloudUnreachable(f"{path} cannot be read ({error.strerror})") from None
    if len(body) > CATALOG.size:
        raise CloudGarbage(f"{path}: larger than {CATALOG.size:,} bytes")
    return body


async def _fetch(address: URL) -> bytes:
    """Read the list of a ComfyUI, whose address the person who runs the proxy has chosen."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT, sock_connect=CONNECT_TIMEOUT)
    url = address / "object_info"
    try:
        async with (
            Connections(lambda _: None, headers={"User-Agent": USER_AGENT}) as connections,
            await connections.request("GET", url, timeout=timeout) as response,
        ):
            if response.status != 200:
                raise CloudGarbage(f"{url}: status {response.status}")
            body = await read_body(response, CATALOG.size)
    except CONNECTION_ERRORS as error:
        raise CloudUnreachable(f"{address}: no answer ({type(error).__name__})") from None
    if len(body) > CATALOG.size:
        raise CloudGarbage(f"{address}: larger than {CATALOG.size:,} bytes")
    return body
