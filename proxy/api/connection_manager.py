"""Watches over the connections of a listener: how many there are, and which are too slow or idle.

Who gets a place is in `places`.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol, cast

import structlog
from msgspec import Struct

from proxy.api.addressing import Network, parse_address
from proxy.api.admission import Admission
from proxy.api.places import AddressKey, Occupant, Places
from proxy.translate.errors import LocalError

if TYPE_CHECKING:
    from proxy.api import Services

log = structlog.get_logger(__name__)

#: Seconds in which a refused client has to say what it wanted.
REFUSAL_TIMEOUT = 2.0
#: This many connections beyond the limit are told why they are refused; others are just cut.
ANSWERED_REFUSALS = 256
#: Seconds that an anonymous connection may be idle, if `ConnectionLimits.idle_timeout` is not less.
ANONYMOUS_TIMEOUT = 60.0


class ConnectionLimits(Struct, frozen=True):
    """Bounds for connections. Times are seconds, 0 is no bound.

    `header_timeout` runs from the first byte of a request to the end of its headers;
    `body_timeout` is that in which a part of the body has to arrive, and `write_timeout` that in
    which a client has to take a part of an answer. `idle_timeout` is that between two requests.
    `header_bytes` bounds each header and the request line.
    """

    max_connections: int = 20_000
    header_timeout: float = 20.0
    body_timeout: float = 60.0
    write_timeout: float = 60.0
    idle_timeout: float = 660.0
    header_bytes: int = 16 * 1024


class ManagedConnection(Occupant, Protocol):
    """A connection, as far as its manager is concerned."""

    peer: str
    admission: Admission | None

    @property
    def busy(self) -> bool:
        """Whether an answer is being made or sent."""

    def check(self, now: float, limits: ConnectionLimits) -> None:
        """End what is too slow."""

    def refuse(self) -> None:
        """Take nothing of what the client sends."""

    def cancel(self) -> None:
        """Cancel the handler of the request under way."""

    def revoke(self) -> None:
        """End what is under way, because the access of its member has ended."""

    def end_unless_busy(self) -> None:
        """Close the connection if nothing is under way that a client waits for."""

    def end(self) -> None:
        """Close the connection; what was written before is still sent."""

    def drop(self) -> None:
        """Close the connection; what the client does not take is not waited for."""


class ConnectionManager:
    """The connections of a listener. Those from trusted proxies are not counted by address."""

    def __init__(self, limits: ConnectionLimits, services: Services) -> None:
        self.now = asyncio.get_running_loop().time
        self.services = services
        #: Connections that `check` has to look at, and since when a client takes nothing more.
        self.timed: set[ManagedConnection] = set()
        self.stalled: dict[ManagedConnection, float] = {}
        self._limits = limits
        self._places = Places(limits.max_connections)
        self.connections: set[ManagedConnection] = set()
        self._refused = 0
        self.draining = False
        self._changed = asyncio.Event()

    # --- what the connections tell ---------------------------------------------------------

    def accept(self, connection: ManagedConnection) -> bool | None:
        """Count a new connection. `None` lets it in; `True` refuses it with words, `False` without.

        Where all places are taken another connection may be closed for it.
        """
        connection.address = _counted_by(connection.peer, self.services.options.trusted_proxies)
        self.connections.add(connection)
        if self._places.enter(connection, self.now()):
            return None
        if self._refused == 0:
            log.warning("connection_limit_reached", limit=self._limits.max_connections)
        self._refused += 1
        connection.refuse()
        return self._refused <= ANSWERED_REFUSALS

    def join(self, connection: ManagedConnection, admission: Admission) -> None:
        """Count a connection as its member's. Raises `LocalError` (503) for one too many."""
        count = self._places.join_member(
            connection, admission.member, self.now(), limited=admission.token is not None
        )
        if count is not None:
            raise LocalError(
                "too_many_connections",
                f"You have {count} connections, which is the maximum for a member; close "
                "some and try again.",
                kind="unavailable",
                retry_after=5,
            )

    def answered(self, connection: ManagedConnection) -> None:
        """Note that an answer has gone out."""
        if connection.member is None:
            self._places.join_anonymous(connection)
        if self.draining:
            self._changed.set()

    def forget(self, connection: ManagedConnection, *, refused: bool) -> None:
        """Count a connection no longer, which is gone."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._refused -= refused
        self._places.leave(connection)
        self.timed.discard(connection)
        self.stalled.pop(connection, None)
        self._changed.set()

    # --- what the server asks for ----------------------------------------------------------

    def review(self) -> None:
        """End what is under way for those whose access has ended."""
        standing: dict[Admission, bool] = {}
        for connection in list(self.connections):
            admission = connection.admission if connection.member is not None else None
            if admission is not None:
                if admission not in standing:
                    standing[admission] = admission.holds(self.services.members)
                if not standing[admission]:
                    connection.revoke()

    async def run(self) -> None:
        """End what is too slow, until cancelled."""
        limits, idle = self._limits, self._limits.idle_timeout
        bounds = (limits.header_timeout, limits.body_timeout, limits.write_timeout, idle)
        pause = min(1.0, REFUSAL_TIMEOUT / 4, *(bound / 4 for bound in bounds if bound > 0))
        anonymous = min(idle or ANONYMOUS_TIMEOUT, ANONYMOUS_TIMEOUT)
        swept = self.now()
        while True:
            await asyncio.sleep(pause)
            now = self.now()
            for connection in list(self.timed):
                connection.check(now, limits)
            for connection, since in list(self.stalled.items()):
                if connection.busy and 0 < limits.write_timeout <= now - since:
                    log.info("answer_abandoned", member=connection.member)
                    connection.cut()
            self._end_idle(self._places.anonymous, now, anonymous)
            if 0 < idle <= 8 * (now - swept):
                swept = now
                for group in self._places.of_members():
                    self._end_idle(group, now, idle)

    @staticmethod
    def _end_idle(group: dict[Occupant, None], now: float, timeout: float) -> None:
        for connection in group:
            if connection.idle_for(now) >= timeout:
                cast("ManagedConnection", connection).drop()

    async def drain(self, seconds: float) -> bool:
        """Close what is idle and wait for the answers under way, for at most `seconds`.

        Returns whether all of them were sent.
        """
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    self._changed.clear()
                    for connection in list(self.connections):
                        connection.end_unless_busy()
                    if not any(connection.busy for connection in self.connections):
                        return True
                    await self._changed.wait()
        return False

    def cancel(self) -> int:
        """Cancel the handlers that still run, and return their number."""
        busy = [connection for connection in self.connections if connection.busy]
        for connection in busy:
            connection.cancel()
        return len(busy)

    async def close(self, seconds: float) -> None:
        """Close what is left, and cut what is not closed after `seconds`."""
        for connection in list(self.connections):
            connection.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.connections:
                    self._changed.clear()
                    await self._changed.wait()
        for connection in list(self.connections):
            connection.cut()


def _counted_by(peer: str, trusted: tuple[Network, ...]) -> AddressKey:
    """Return what connections of one place have in common: an IPv4 address, the /64 of an IPv6 one.

    It is empty where they are not counted.
    """
    address = parse_address(peer)
    if address is None or any(address in network for network in trusted):
        return ""
    return str(address) if address.version == 4 else address.packed[:8]
