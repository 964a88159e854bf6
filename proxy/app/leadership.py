"""Creates what stands for the lease of the leader."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from proxy.app.storage import Records
from proxy.leader.handover import Handover
from proxy.leader.leadership import Leadership
from proxy.runtime import randomness
from proxy.settings import Settings
from proxy.storage.leases import LeaseRepository


def leadership_of(
    settings: Settings,
    records: Records,
    handover: Callable[[LeaseRepository, str], Handover] | None = None,
    address: Callable[[], str] = str,
) -> Leadership:
    """Return how this process comes to lead; with a `handover` others may."""
    leases, holder = LeaseRepository(records.database), process_name()
    return Leadership(
        leases,
        records.supervisor,
        holder,
        settings.engine_lease,
        None if handover is None else handover(leases, holder),
        address,
    )


def process_name() -> str:
    """Return a name of this process that no other one has or had."""
    return f"{socket.gethostname()}:{os.getpid()}:{randomness.token_hex(4)}"
