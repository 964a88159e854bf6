"""Bytes to and from a server that is under test, below any HTTP client."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from yarl import URL

from proxy.app.server import Server

HEAD = b"GET /queue HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"


@dataclass
class Running:
    """A server under test; `held` submissions wait for `go`."""

    server: Server
    url: URL
    began: asyncio.Event
    go: asyncio.Event
    sockets: Sequence[socket.socket] = ()
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def stop(self) -> None:
        """Listen no more, and finish what is under way."""
        for listening in self.sockets:
            listening.close()
        await self.server.stop()

    async def connect(
        self, sent: bytes = b"", *, source: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection, from the address `source` if there is one, and send these bytes."""
        reader, writer = await asyncio.open_connection(
            self.url.host, self.url.port, local_addr=None if source is None else (source, 0)
        )
        self.writers.append(writer)
        writer.write(sent)
        return reader, writer

    async def refuses(self) -> bool:
        """Whether nobody listens any more."""
        try:
            await self.connect()
        except ConnectionError:
            return True
        return False


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection is closed."""
    data = b""
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65536):
                data += chunk
    return data
