"""A deployment of Comfy in one process: made-up node packs behind API v2."""

from __future__ import annotations

from proxy.simulator.deployment.server import SimulatedDeployment
from proxy.simulator.deployment.state import DeploymentSwitches

__all__ = ["DeploymentSwitches", "SimulatedDeployment"]
