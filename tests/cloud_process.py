"""A simulated cloud in a process of its own, which can go and come back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from servers import ServerProcess, free_port
from yarl import URL


@dataclass
class CloudProcess:
    """A simulated cloud in a process of its own; it stands where tests expect a simulator."""

    server: ServerProcess
    key: str = "comfyui-of-a-process"

    @property
    def base_url(self) -> URL:
        """The address, also while nobody listens there."""
        return URL(f"http://127.0.0.1:{self.server.port}")

    async def start(self) -> None:
        """Listen again, as a cloud without jobs."""
        await asyncio.to_thread(self.server.start)

    async def stop(self) -> None:
        """Be gone: connections are refused."""
        await asyncio.to_thread(self.server.stop)


@asynccontextmanager
async def running_cloud(folder: Path) -> AsyncIterator[CloudProcess]:
    """A cloud that can be reached."""
    key, port = CloudProcess.key, str(free_port())
    command = ["env", f"COMFY_CLOUD_API_KEY={key}", sys.executable, "-m", "proxy.simulator"]
    cloud = CloudProcess(ServerProcess("cloud", int(port), [*command, "--port", port], folder))
    await cloud.start()
    try:
        yield cloud
    finally:
        await cloud.stop()
