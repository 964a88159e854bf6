"""The cloud that the settings choose: Comfy Cloud, or the simulator inside this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from yarl import URL

from proxy.config import ConfigError, Settings, read_key
from proxy.telemetry import register_secret


@dataclass(frozen=True, slots=True)
class Cloud:
    """Where the cloud answers, and the key that it takes."""

    base_url: URL
    key: str = field(repr=False)
    simulated: bool

    def __str__(self) -> str:
        name = "Comfy Cloud simulator" if self.simulated else "Comfy Cloud"
        return f"{name} at {str(self.base_url).rstrip('/')}"


@asynccontextmanager
async def chosen_cloud(settings: Settings) -> AsyncIterator[Cloud]:
    """The cloud, for as long as the block runs.

    Raises `ConfigError` when Comfy Cloud is chosen and there is no key.
    """
    if settings.simulate:
        from proxy.simulator import Simulator, Switches

        async with Simulator(switches=Switches(pace=settings.simulate_pace)) as simulator:
            register_secret(simulator.key)
            yield Cloud(simulator.base_url, simulator.key, simulated=True)
        return
    key = read_key(settings)
    if key is None:
        raise ConfigError(
            "There is no API key: set COMFY_CLOUD_API_KEY or COMFY_CLOUD_API_KEY_FILE "
            "(keys are made at https://platform.comfy.org), or try it without one by --simulate."
        )
    register_secret(key)
    yield Cloud(settings.base_url, key, simulated=False)
