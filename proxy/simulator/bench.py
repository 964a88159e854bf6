"""What all accounts of one simulator share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.simulator.faults import Faults
from proxy.simulator.nodes import NodeClasses
from proxy.simulator.storage import Storage
from proxy.simulator.switches import Switches


@dataclass(frozen=True, slots=True)
class Bench:
    """`changed` is to be called when anything has changed that a test may wait for."""

    switches: Switches
    faults: Faults
    storage: Storage
    catalog: NodeClasses
    changed: Callable[[], None]
