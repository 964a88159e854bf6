"""A standby that listens and knows its leader by the row of the lease, and leaders of any kind."""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from yarl import URL

from proxy.edge.accepting import listen
from proxy.edge.addressing import Network
from proxy.edge.context import ConnectionLimits, EdgeContext
from proxy.edge.listener import HttpListener, address_of
from proxy.leader.addresses import LeaderAddress
from proxy.leader.forwarding import Forwarding
from proxy.leader.handover import Handover
from proxy.leader.leadership import Leadership
from proxy.leader.passed_sockets import PassedSockets
from proxy.leader.standby import AmongStandbys, of_connection
from proxy.members.directory import Directory
from proxy.metrics import Metrics
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.budget import MemoryBudget
from proxy.storage.database import Database
from proxy.storage.leases import ENGINE, Lease, LeaseRepository

TIMEOUT = 30.0
#: The header by which a reverse proxy says who has signed in.
SIGN_IN = "x-user"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Passing:
    """A standby at `url`. No process leads until one of the test `leads`."""

    url: URL
    leadership: Leadership
    leases: LeaseRepository
    among: AmongStandbys
    budget: MemoryBudget
    lease: Lease | None = None
    _names: Any = field(default_factory=itertools.count)

    async def leads(self, url: URL | str, *, certificate: str = "") -> Lease:
        """Have the process at an address lead from now on, whoever did, and the standby know it."""
        address = LeaderAddress(str(url).rstrip("/"), certificate=certificate).encode()
        name = f"leader-{next(self._names)}"
        lease = await self.leases.acquire(ENGINE, name, 600.0, alone=True, address=address)
        assert lease is not None
        before, self.lease = self.lease, lease
        known = await self.leadership.known(TIMEOUT, after=0 if before is None else before.epoch)
        assert known == lease
        return lease


def sign(epoch: int) -> str:
    """The proof of a standby to the leader of an epoch."""
    return f"proof of {epoch}"


@asynccontextmanager
async def standing_by(
    database: Database, *, trusted: tuple[Network, ...] = (), max_bytes: int = 2**20
) -> AsyncIterator[Passing]:
    """A standby on a port of 127.0.0.1."""
    supervisor, leases, budget = Supervisor(), LeaseRepository(database), MemoryBudget(2**26)
    handover = Handover(leases, {}, "standby", Metrics())
    leadership = Leadership(leases, supervisor, "standby", 600.0, handover)
    supervisor.keep(leadership.follow, "follow the leader")
    forwarding = Forwarding(leadership, sign, frozenset({SIGN_IN}), max_bytes)
    among = AmongStandbys(
        leadership,
        database,
        forwarding,
        PassedSockets(forwarding, supervisor),
        lambda _: False,
        _metrics,
    )
    context = EdgeContext(
        ConnectionLimits(),
        budget,
        Directory(),
        supervisor,
        trusted,
        is_standby=lambda _: False,
    )
    listener = HttpListener(
        web.Application(),
        of_connection(among.handle),
        context,
        logger=logging.getLogger(__name__),
        stop_timeout=1.0,
    )
    sockets = await listen(["127.0.0.1"], 0)
    await forwarding.start()
    await listener.start(sockets)
    try:
        url = URL(address_of(sockets, "127.0.0.1", tls=False))
        yield Passing(url, leadership, leases, among, budget)
    finally:
        for listening in sockets:
            listening.close()
        await among.sockets.close()
        await listener.stop()
        await forwarding.close()
        await supervisor.close()


async def _metrics(_: web.Request) -> web.StreamResponse:
    return web.Response(text="a page of metrics")


@asynccontextmanager
async def leader(handle: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[URL]:
    """An HTTP server with one handler, which gets bodies as they were sent."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, auto_decompress=False, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    scheme, port = "http" if tls is None else "https", runner.addresses[0][1]
    try:
        yield URL(f"{scheme}://127.0.0.1:{port}")
    finally:
        await runner.cleanup()


@dataclass
class RawLeader:
    """A server below HTTP. Each connection is in `connections` once its first request, head and
    body, has come; what it answers is up to the test."""

    url: URL
    connections: asyncio.Queue[RawConnection] = field(default_factory=asyncio.Queue)

    async def next(self) -> RawConnection:
        """The next connection with a request."""
        async with asyncio.timeout(TIMEOUT):
            return await self.connections.get()


@dataclass
class RawConnection:
    """A connection of a standby, and the head of its request."""

    head: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def header(self, name: str) -> str | None:
        """The value of a header."""
        for line in self.head.splitlines()[1:]:
            key, _, value = line.partition(": ")
            if key.lower() == name.lower():
                return value
        return None

    def answer(self, text: str, *headers: str) -> None:
        """Answer with 200."""
        lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(text)}", *headers, "", text]
        self.writer.write("\r\n".join(lines).encode())

    def cut(self) -> None:
        """Break the connection."""
        self.writer.transport.abort()


@asynccontextmanager
async def raw_leader() -> AsyncIterator[RawLeader]:
    """A server whose answers the test writes."""
    async with AsyncExitStack() as stack:

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stack.callback(writer.close)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            found.connections.put_nowait(RawConnection(head, reader, writer))

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        found = RawLeader(URL(f"http://127.0.0.1:{port}"))
        stack.callback(server.close)
        yield found
