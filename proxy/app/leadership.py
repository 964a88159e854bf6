"""Creates what stands for the lease of the leader."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from proxy.app.storage import Records
from proxy.leader import leadership
from proxy.leader.handover import Handover
from proxy.runtime import randomness
from proxy.storage.leases import LeaseRepository


def leadership_of(
    records: Records,
    handover: Callable[[LeaseRepository, str], Handover] | None = None,
    address: Callable[[], str] = str,
) -> leadership.Leadership:
    """Return how this process comes to lead; with a `handover` others may."""
    leases, holder = LeaseRepository(records.database), process_name()
    return leadership.Leadership(
        leases,
        records.supervisor,
        holder,
        leadership.LENGTH,
        None if handover is None else handover(leases, holder),
        address,
    )


def process_name() -> str:
    """Return a name of this process that no other one has or had."""
    return f"{socket.gethostname()}:{os.getpid()}:{randomness.token_hex(4)}"
