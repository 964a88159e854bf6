"""A proxy that has another key than the account of the simulator, until it is mended there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from proxy.simulator import Simulator

OTHER_KEY = "comfyui-another-key-0123456789"


def with_other_key(simulator: Simulator) -> Simulator:
    """What `running_proxy` needs to know of the simulator, with a key that it does not accept."""
    return cast("Simulator", SimpleNamespace(base_url=simulator.base_url, key=OTHER_KEY))
