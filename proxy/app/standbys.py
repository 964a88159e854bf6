"""One of several processes over one database: it passes requests on, and leads when it is
elected."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from yarl import URL

from proxy.api.request_bodies import MAX_JSON_BYTES
from proxy.app.leadership import leadership_of
from proxy.app.process import Process
from proxy.app.server import server_logger
from proxy.app.storage import Records
from proxy.edge.context import ConnectionLimits, EdgeContext
from proxy.edge.listener import HttpListener, address_of
from proxy.edge.tls import Certificate
from proxy.leader.addresses import LeaderAddress, fingerprint, reached_at
from proxy.leader.forwarding import Forwarding
from proxy.leader.handover import Handover
from proxy.leader.leadership import Leadership
from proxy.leader.passed_sockets import PassedSockets
from proxy.leader.standby import AmongStandbys, of_connection
from proxy.members.directory import Directory
from proxy.settings import AccountAccess, Settings


@dataclass(frozen=True)
class Listening:
    """The sockets of a process that listen, and those for admins, if there are any."""

    sockets: Sequence[socket.socket]
    admin_sockets: Sequence[socket.socket] = ()
    certificate: Certificate | None = None

    def close(self) -> None:
        """Listen no more."""
        for listening in (*self.sockets, *self.admin_sockets):
            listening.close()


@dataclass(frozen=True)
class Standby:
    """What a process does among others, whether it leads or not."""

    leadership: Leadership
    among: AmongStandbys
    among_admins: AmongStandbys
    listeners: Sequence[tuple[HttpListener, Sequence[socket.socket], Certificate | None]]

    async def begin(self) -> None:
        """Pass on what comes from now on."""
        self.among.leads = self.among_admins.leads = False
        for listener, sockets, certificate in self.listeners:
            await listener.start(sockets, certificate)

    def pause(self) -> None:
        """Leave what comes from now on to the leader in this process."""
        self.among.leads = self.among_admins.leads = True
        for listener, _, _ in self.listeners:
            listener.pause()

    async def stop(self, *, spent: float = 0.0) -> None:
        """Accept no more, and finish what is under way."""
        await self.among.sockets.close()
        for listener, _, _ in self.listeners:
            await listener.stop(spent=spent)


@asynccontextmanager
async def open_standby(
    process: Process,
    records: Records,
    listening: Listening,
    limits: ConnectionLimits,
    accounts: Sequence[AccountAccess],
    *,
    stop_timeout: float,
) -> AsyncIterator[Standby]:
    """Stand by, with a session to the leader; nothing is answered yet."""
    settings, metrics = process.settings, process.metrics
    clouds = {account.base_url for account in accounts}
    leadership = leadership_of(
        records,
        lambda leases, holder: Handover(leases, clouds, holder, metrics),
        _reached(settings, listening),
    )
    records.supervisor.keep(leadership.follow, "follow the leader")

    def sign(epoch: int) -> str:
        return records.cipher.sign(b"standby %d" % epoch)

    def is_standby(proof: str) -> bool:
        term = leadership.term
        if not (proof and proof.isascii()) or term is None:
            return False
        return records.cipher.proves(b"standby %d" % term.lease.epoch, proof)

    async def page(request: web.Request, *, public: bool) -> web.StreamResponse:
        accept = request.headers.get("Accept", "")
        body, type_ = await metrics.page(accept, public=public)
        return web.Response(body=body, headers={"Content-Type": type_, "Cache-Control": "no-store"})

    def among(*, admin: bool) -> AmongStandbys:
        forwarding = Forwarding(leadership, sign, _trusted(settings), MAX_JSON_BYTES, admin)
        return AmongStandbys(
            leadership,
            records.database,
            forwarding,
            PassedSockets(forwarding, records.supervisor),
            is_standby,
            lambda request: page(request, public=not admin),
            settings.base_path,
        )

    both = among(admin=False), among(admin=True)
    context = EdgeContext(
        limits,
        process.budget,
        Directory(),  # the leader decides who has access
        records.supervisor,
        settings.trusted_proxies,
        turns=process.loop_turns,
        is_standby=is_standby,
    )

    def listener(one: AmongStandbys) -> HttpListener:
        return HttpListener(
            web.Application(),
            of_connection(one.handle),
            context,
            logger=server_logger(),
            stop_timeout=stop_timeout,
        )

    listeners = [(listener(both[0]), listening.sockets, listening.certificate)]
    if listening.admin_sockets:
        listeners.append((listener(both[1]), listening.admin_sockets, None))
    for one in both:
        await one.forwarding.start()
    try:
        yield Standby(leadership, *both, listeners)
    finally:
        for one in both:
            await one.forwarding.close()


def _trusted(settings: Settings) -> frozenset[str]:
    """Return the headers that count of trusted proxies alone, in lower case."""
    names = settings.sign_in_header, settings.sign_in_groups_header
    return frozenset(name.lower() for name in names if name is not None)


def _reached(settings: Settings, listening: Listening) -> Callable[[], str]:
    """Return what tells where other processes reach this one."""
    database = None if settings.database is None else URL(settings.database.get_secret_value())
    host = reached_at(settings.hosts[0], database)
    url = address_of(listening.sockets, host, tls=listening.certificate is not None)
    admin_url = ""
    if listening.admin_sockets and settings.admin_listen is not None:
        host = reached_at(settings.admin_listen[0], database)
        admin_url = address_of(listening.admin_sockets, host, tls=False)

    def reached() -> str:
        certificate = ""
        if listening.certificate is not None:
            certificate = fingerprint(listening.certificate.pem)
        return LeaderAddress(url, admin_url, certificate).encode()

    return reached
