"""The proxy as people run it: a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from proxy.simulator import Simulator

#: No process needs longer to come up or to go.
PATIENCE = 30.0


@dataclass
class Process:
    """A running `comfy-cloud-proxy serve`; `said` is what it wrote to its two streams so far."""

    url: URL
    process: asyncio.subprocess.Process
    said: list[bytes] = field(default_factory=list)

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return await self.ended()

    async def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        await self.ended()

    async def ended(self) -> int:
        """Wait for the end; the exit code."""
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


def before(simulator: Simulator) -> dict[str, str]:
    """The environment of a process that has `simulator` for its cloud."""
    return {
        "COMFY_CLOUD_API_KEY": simulator.key,
        "COMFY_CLOUD_BASE_URL": str(simulator.base_url),
    }


@asynccontextmanager
async def serving(
    folder: Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
    port: int = 0,
) -> AsyncIterator[Process]:
    """`serve` on a port (0: a free one) with its data in `folder`; killed behind it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "proxy",
        "serve",
        "--port",
        str(port),
        "--data-dir",
        str(folder),
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**_clean_environment(), **(environment or {})},
    )
    said: list[bytes] = []
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(_collect(process.stderr, said))
    try:
        async with asyncio.timeout(PATIENCE):
            line = await process.stdout.readline()
        said.append(line)
        assert line.startswith(b"listening on "), (line, said)
        output = asyncio.create_task(_collect(process.stdout, said))
        yield Process(URL(line.split()[2].decode()), process, said)
        await output if process.returncode is not None else output.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await errors


async def _collect(stream: asyncio.StreamReader, said: list[bytes]) -> None:
    while line := await stream.readline():
        said.append(line)


def _clean_environment() -> dict[str, str]:
    """Ours, without settings of the proxy."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COMFY_PROXY_", "COMFY_CLOUD_"))
    }
