"""Answers of a process among others: by itself, as the leader, or by passing on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web

from proxy.api import bodies
from proxy.api.requests import connection_of
from proxy.edge.addressing import STANDBY
from proxy.edge.listener import Handle
from proxy.leader.forwarding import Forwarding, leader_lost, not_leading
from proxy.leader.leadership import Leadership
from proxy.leader.passed_sockets import PassedSockets
from proxy.storage.database import Database
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: Methods that change nothing.
_SAFE = frozenset({"GET", "HEAD"})


@dataclass(eq=False, repr=False)
class AmongStandbys:
    """Answers requests of a process that stands by, and of one whose term is over.

    `is_standby` tells whether a proof is that of a standby, `metrics` returns the page of metrics.
    """

    leadership: Leadership
    database: Database
    forwarding: Forwarding
    sockets: PassedSockets
    is_standby: Callable[[str], bool]
    metrics: Callable[[web.Request], Awaitable[web.StreamResponse]]
    base_path: str = ""
    #: Whether the process stops, and nothing new should come to it.
    stops: bool = False
    #: Whether the leader in this process listens: what comes on older connections is passed to it.
    leads: bool = False

    def of_leader(self, gate: Handle, is_retired: Callable[[], bool] = bool) -> Handle:
        """Return `gate`, by which a leader answers, while the term lasts; what comes once it
        `is_retired` is for the next leader."""

        def leads() -> bool:
            term = self.leadership.term
            return term is not None and term.lasts

        async def handle(request: web.Request) -> web.StreamResponse:
            connection = connection_of(request)
            if STANDBY in request.headers and not connection.passes_on:
                return not_leading()  # to the leader of another term
            if is_retired() and not connection.is_ending:  # what had begun by then is answered here
                connection.is_ending = True  # the next ones come to who answers here then
                return await self.handle(request)
            if not leads():
                return await self.handle(request)
            answer = await gate(request)
            if leads() or answer.prepared:
                return answer
            if connection.passes_on and answer.status >= 500:
                connection.cut()  # the standby decides whether to send it again
            elif request.method in _SAFE and not connection.passes_on:
                return await self.handle(request)  # another one may know more by now
            elif request.method in _SAFE:
                return not_leading()
            elif answer.status >= 500:  # the next leader may have what this one could not finish
                return bodies.refusal(leader_lost())
            return answer

        return handle

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request of a process that does not lead."""
        connection = connection_of(request)
        try:
            if STANDBY in request.headers:
                return not_leading()
            if connection.prefix.refusal is not None:
                raise connection.prefix.refusal
            if self.leads:
                connection.is_ending = True  # the next ones come to the leader here
            elif (own := self._own(request)) is not None:
                return await own(request)
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self.sockets.serve(request)
            return await self.forwarding.request(request)
        except LocalError as error:
            return bodies.refusal(error)

    def _own(
        self, request: web.Request
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]] | None:
        """Return what answers here whoever leads, if anything does."""
        if request.method not in _SAFE:
            return None
        return {
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/leader": self._leader,
            "/metrics": self.metrics,
        }.get(request.path.removeprefix(self.base_path))

    async def _health(self, _: web.Request) -> web.StreamResponse:
        """Return whether load balancers may send requests here while nobody leads."""
        if self.stops:
            return bodies.json({"status": "stopping"}, 503)
        return bodies.json({"status": "ok"})

    async def _leader(self, _: web.Request) -> web.StreamResponse:
        return bodies.json({"leader": False}, 503)

    async def _readiness(self, _: web.Request) -> web.StreamResponse:
        """Return whether requests are passed on to a leader; not while one begins here."""
        reason = None
        if self.stops:
            reason = "The process stops."
        elif self.database.problem is not None:
            reason = "The database is unavailable; the log says why."
        elif self.leadership.term is not None:
            reason = "The process is about to lead."
        if reason is None:
            return bodies.json({"status": "ready", "engine": "standby"})
        return bodies.json({"status": "not ready", "engine": "standby", "reason": reason}, 503)


def of_connection(handle: Handle) -> Callable[[Any], Handle]:
    """Return a gate that leaves aiohttp's application out."""
    return lambda _application: handle
