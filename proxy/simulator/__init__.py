"""A Comfy Cloud in a box: for the first run without a key, for tests and for faults."""

from __future__ import annotations

from proxy.simulator.account import Plan, SimulatedAccount
from proxy.simulator.faults import Faults, HttpFault, JobFault, SocketFault
from proxy.simulator.jobs import SimulatedJob
from proxy.simulator.nodes import NodeClass
from proxy.simulator.server import Simulator
from proxy.simulator.switches import Switches

__all__ = [
    "Faults",
    "HttpFault",
    "JobFault",
    "NodeClass",
    "Plan",
    "SimulatedAccount",
    "SimulatedJob",
    "Simulator",
    "SocketFault",
    "Switches",
]
