"""All connections of a listener: how many there are and whose they are, and their bounds.

A connection is *anonymous* until a request on it has been authenticated. Anonymous connections
never get all places: when theirs are taken, the one that has been idle for longest is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from proxy.api.addressing import Network, parse_address
from proxy.api.connections import REFUSAL_TIMEOUT, Connection
from proxy.translate.errors import LocalError

if TYPE_CHECKING:
    from proxy.api.authenticator import Admission, Authenticator
    from proxy.api.server import Services

log = structlog.get_logger(__name__)

#: This many connections beyond the limit are told why they are refused; others are just cut.
ANSWERED_REFUSALS = 256
#: Seconds that an anonymous connection may be idle, if `ConnectionLimits.idle_timeout` is not less.
ANONYMOUS_TIMEOUT = 60.0
#: Seconds after which an idle connection may be closed in favour of another.
EVICTION_IDLE = 5.0
#: This many connections are looked at for one that can be closed.
EVICTION_CANDIDATES = 1024
#: The parts of all places that anonymous connections, those of one address and one member take.
ANONYMOUS_SHARE, ADDRESS_SHARE, MEMBER_SHARE = 3 / 4, 1 / 4, 1 / 2
#: This many places an address or a member may always take.
LEAST_SHARE = 64
#: Descriptors kept for files, the database and the connections to the cloud, unless that were more
#: than half of all.
RESERVE = 256

#: Dictionaries instead of sets, for their order: the first have been idle for longest.
_Groups = dict[str | bytes, dict[Connection, None]]


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
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


class ConnectionManager:
    """The connections of a listener. Those from trusted proxies are not counted by address."""

    def __init__(
        self, limits: ConnectionLimits, services: Services, authenticator: Authenticator
    ) -> None:
        self.now = asyncio.get_running_loop().time
        self.services = services
        self.authenticator = authenticator
        #: Connections that `check` has to look at, and since when a client takes nothing more.
        self.timed: set[Connection] = set()
        self.stalled: dict[Connection, float] = {}
        self._limits = limits
        most = limits.max_connections
        self._most_anonymous = max(1, most - int(most * (1 - ANONYMOUS_SHARE)))
        self._most_of_address = max(LEAST_SHARE, int(most * ADDRESS_SHARE))
        self._most_of_member = max(LEAST_SHARE, int(most * MEMBER_SHARE))
        self.connections: set[Connection] = set()
        self._refused = 0
        self._anonymous: dict[Connection, None] = {}
        self._by_address: _Groups = {}
        self._by_member: _Groups = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.draining = False
        self._changed = asyncio.Event()

    # --- what the connections tell ---------------------------------------------------------

    def accept(self, connection: Connection) -> bool | None:
        """Count a new connection. `None` lets it in; `True` refuses it with words, `False` without.

        Where all places are taken, or those of anonymous connections or of the address, one that
        has been idle for long is closed.
        """
        connection.address = _counted_by(connection.peer, self.services.trusted_proxies)
        self.connections.add(connection)
        neighbours = self._by_address.get(connection.address)
        many = neighbours is not None and len(neighbours) >= self._most_of_address
        full = len(self.connections) - self._refused > self._limits.max_connections
        if many or full or len(self._anonymous) >= self._most_anonymous:
            candidates = neighbours if many and neighbours is not None else self._anonymous
            if not self._evict(candidates):
                if self._refused == 0:
                    log.warning(
                        "connection_limit_reached",
                        limit=self._limits.max_connections,
                        anonymous=len(self._anonymous),
                    )
                self._refused += 1
                return self._refused <= ANSWERED_REFUSALS
        self._join_anonymous(connection)
        return None

    def join(self, connection: Connection, admission: Admission) -> None:
        """Count a connection as its member's. Raises `LocalError` (503) for one too many."""
        member = admission.member
        others = self._by_member.get(member)
        if (
            admission.token is not None
            and others is not None
            and len(others) >= self._most_of_member
            and not self._evict(others)
        ):
            raise LocalError(
                "too_many_connections",
                f"You have {len(others)} connections, which is the maximum for a member; close "
                "some and try again.",
                kind="unavailable",
                retry_after=5,
            )
        self._leave(connection)
        connection.member = member
        self._by_member.setdefault(member, {})[connection] = None

    def answered(self, connection: Connection) -> None:
        """An answer has gone out."""
        if connection.member is None:
            self._leave(connection)
            self._join_anonymous(connection)
        if self.draining:
            self._changed.set()

    def forget(self, connection: Connection, *, refused: bool) -> None:
        """A connection is gone."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._refused -= refused
        self._leave(connection)
        self.timed.discard(connection)
        self.stalled.pop(connection, None)
        self._changed.set()

    def keep_closing(self, task: asyncio.Task[None]) -> None:
        """Keep the task that closes a websocket."""
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _join_anonymous(self, connection: Connection) -> None:
        self._anonymous[connection] = None
        if connection.address:
            self._by_address.setdefault(connection.address, {})[connection] = None

    def _leave(self, connection: Connection) -> None:
        """Take it out of the anonymous connections, or out of its member's."""
        groups, key = self._by_address, connection.address
        if connection.member is not None:
            groups, key = self._by_member, connection.member
        else:
            self._anonymous.pop(connection, None)
        group = groups.get(key)
        if group is not None:
            group.pop(connection, None)
            if not group:
                del groups[key]

    def _evict(self, candidates: dict[Connection, None]) -> bool:
        """Cut the connection that has been idle for longest, if that is long enough."""
        now = self.now()
        for connection in islice(candidates, EVICTION_CANDIDATES):
            if connection.idle_for(now) >= EVICTION_IDLE:
                log.debug("connection_evicted", member=connection.member)
                connection.cut()
                self.forget(connection, refused=False)
                return True
        return False

    # --- what the server asks for ----------------------------------------------------------

    def review(self) -> None:
        """End what is under way for those whose access has ended."""
        standing: dict[Admission, bool] = {}
        for group in list(self._by_member.values()):
            for connection in list(group):
                admission = connection.admission
                if admission is None:
                    continue
                if admission not in standing:
                    standing[admission] = self.authenticator.is_valid(admission)
                if not standing[admission]:
                    connection.revoke()

    async def run(self) -> None:
        """End what is too slow, until cancelled."""
        limits = self._limits
        idle = limits.idle_timeout
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
            self._end_idle(self._anonymous, now, anonymous)
            if 0 < idle <= 8 * (now - swept):
                swept = now
                for group in self._by_member.values():
                    self._end_idle(group, now, idle)

    @staticmethod
    def _end_idle(group: dict[Connection, None], now: float, patience: float) -> None:
        for connection in group:
            if connection.idle_for(now) >= patience:
                connection.drop()

    async def drain(self, patience: float) -> bool:
        """Close what is idle and wait for the answers under way, at most `patience` seconds.

        Says whether all have gone out.
        """
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while True:
                    self._changed.clear()
                    for connection in list(self.connections):
                        connection.end_unless_busy()
                    if not any(connection.busy for connection in self.connections):
                        return True
                    await self._changed.wait()
        return False

    def cancel(self) -> int:
        """Cancel the handlers that still run; their number."""
        busy = [connection for connection in self.connections if connection.busy]
        for connection in busy:
            connection.cancel()
        return len(busy)

    async def close(self, patience: float) -> None:
        """Close what is left, and cut what is not closed after `patience` seconds."""
        for connection in list(self.connections):
            connection.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.connections:
                    self._changed.clear()
                    await self._changed.wait()
        for connection in list(self.connections):
            connection.cut()


def _counted_by(peer: str, trusted: tuple[Network, ...]) -> str | bytes:
    """What connections of one place have in common: an IPv4 address, the /64 of an IPv6 one.

    It is empty where they are not counted.
    """
    address = parse_address(peer)
    if address is None or any(address in network for network in trusted):
        return ""
    return str(address) if address.version == 4 else address.packed[:8]


def room_for(connections: int) -> int:
    """Raise this process's limit of open files, and say how many connections fit into it.

    A process out of descriptors could neither write its records nor reach the cloud; so it takes
    fewer clients instead.
    """
    if sys.platform == "win32":
        return connections
    import resource

    wanted = connections + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError):  # macOS allows fewer than it says
            pass
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, soft - min(RESERVE, soft // 2)))
