"""What the connections of a listener share, and their limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct, field

from proxy.edge.addressing import Network
from proxy.logging import SummedLines
from proxy.members.directory import Directory
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.budget import MemoryBudget
from proxy.sharing.loop_turns import LoopTurns


class ConnectionLimits(Struct, frozen=True):
    """Limits of connections. Times are in seconds; 0 is no limit, but of bodies.

    Within `body_timeout` a part of a body must arrive, and within `write_timeout` the client must
    read a part of the answer, where the system can tell (Linux): the slowest connections do that in
    a few seconds. `idle_timeout` is from an answer to the end of the headers of the next request:
    longer than the ten minutes after which clients in use close idle connections themselves, so
    that none sends a request just then. `header_bytes` is the maximum size of each header, twice
    that of other servers: tokens of sign-in proxies are large.
    """

    max_connections: int = 20_000
    body_timeout: float = 60.0
    write_timeout: float = 60.0
    idle_timeout: float = 660.0
    header_bytes: int = 16 * 1024


class EdgeContext(Struct, frozen=True):
    """What connections use: their limits, the memory for clients, who has access, the reverse
    proxies that are trusted, and the prefix of all paths (`""` or like `/comfy`); the services of
    the application, which only its handlers know; the turns of the listener, and the lines of its
    log about strangers; and where there are standbys, whether a proof is that of one."""

    limits: ConnectionLimits
    budget: MemoryBudget
    members: Directory
    supervisor: Supervisor
    trusted_proxies: tuple[Network, ...] = ()
    base_path: str = ""
    services: Any = None
    turns: LoopTurns = field(default_factory=LoopTurns)
    lines: SummedLines = field(default_factory=SummedLines)
    is_standby: Callable[[str], bool] | None = None
