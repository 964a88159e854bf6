"""A way to a server that can be cut, reset, or turned into a hole, as a network in bad weather."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from yarl import URL

_PIECE = 64 * 1024

#: `open` forwards; `closed` refuses connections; in a `hole` what is sent is lost, and nobody
#: learns of it.
Weather = Literal["open", "closed", "hole"]


class Forwarder:
    """Takes connections on a port of the loopback, and forwards them to another port."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.weather: Weather = "open"
        self._passing = asyncio.Event()
        self._passing.set()
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Close all connections, and refuse new ones."""
        self.weather = "closed"
        self._passing.set()
        self._end_all(reset=False)

    def reset(self) -> None:
        """Break all connections, as a router that has forgotten them; new ones are taken."""
        self._end_all(reset=True)

    def hole(self) -> None:
        """Lose what is sent from now on, while all connections stay open."""
        self.weather = "hole"
        self._passing.clear()

    def heal(self) -> None:
        """Forward again. Connections that have lost something break."""
        if self.weather == "hole":
            self._end_all(reset=True)
        self.weather = "open"
        self._passing.set()

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward a connection until one side ends it."""
        task = asyncio.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all connections."""
        self.cut()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            await self._passing.wait()
            if self.weather == "closed" or writer.is_closing():
                return
            onward, away = await asyncio.open_connection("127.0.0.1", self.target)
            self._connections.add(away)
            try:
                passing = (self._pass(reader, away), self._pass(onward, writer))
                tasks = [asyncio.create_task(coroutine) for coroutine in passing]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                self._connections.discard(away)
                away.close()
        except OSError:
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_PIECE):
                await self._passing.wait()
                writer.write(data)
                await writer.drain()

    def _end_all(self, *, reset: bool) -> None:
        for writer in list(self._connections):
            if reset:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@asynccontextmanager
async def forwarding(target: int) -> AsyncIterator[Forwarder]:
    """A forwarder to a port; it and its connections end with the block."""
    forwarder = Forwarder(target)
    server = await asyncio.start_server(forwarder.take, "127.0.0.1", 0)
    forwarder.port = server.sockets[0].getsockname()[1]
    try:
        yield forwarder
    finally:
        server.close()
        await forwarder.close()


@dataclass
class Ways:
    """The ways of one replica to each server, by which alone it reaches them."""

    database: Forwarder
    cloud: Forwarder


_SETTINGS = {
    "database": "COMFY_PROXY_DATABASE",
    "cloud": "COMFY_CLOUD_BASE_URL",
}


@asynccontextmanager
async def ways_of(environment: Mapping[str, str]) -> AsyncIterator[tuple[Ways, dict[str, str]]]:
    """Ways to the servers of an environment, and the environment with these in their place."""
    async with AsyncExitStack() as stack:
        ways, changed = {}, dict(environment)
        for name, setting in _SETTINGS.items():
            url = URL(environment[setting])
            way = ways[name] = await stack.enter_async_context(forwarding(url.port or 0))
            changed[setting] = environment[setting].replace(f":{url.port}", f":{way.port}", 1)
        yield Ways(**ways), changed
