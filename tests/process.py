"""The proxy as people run it: a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from backend import environment_of
from yarl import URL

from proxy.simulator import Simulator

#: No process needs longer to come up or to go, however busy the machine.
TIMEOUT = 90.0


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
        async with asyncio.timeout(TIMEOUT):
            return await self.process.wait()


def before(simulator: Simulator) -> dict[str, str]:
    """The environment of a process that has `simulator` for its cloud."""
    return {
        "COMFY_CLOUD_API_KEY": simulator.key,
        "COMFY_CLOUD_BASE_URL": str(simulator.base_url),
    }


@asynccontextmanager
async def child(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    errors: bool = True,
    stdin: bytes | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python with these arguments; killed behind it, and its streams read to their ends.

    `environment` is all that it has of one; without it has ours. What it writes to its standard
    error is piped, or without `errors` left to ours.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=None if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE if errors else None,
        env=environment,
    )
    try:
        if stdin is not None and process.stdin is not None:
            process.stdin.write(stdin)
            process.stdin.write_eof()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def command(
    *words: str, environment: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run a command of the proxy; its exit code and what it wrote to its two streams."""
    if environment is None and "--data-dir" in words:
        folder = Path(words[words.index("--data-dir") + 1])
        environment = {**os.environ, **environment_of(folder)}
    async with child("-m", "proxy", *words, environment=environment) as process:
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()


@asynccontextmanager
async def serving(
    folder: Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
    port: int = 0,
) -> AsyncIterator[Process]:
    """`serve` on a port (0: a free one) with its data in `folder`; killed behind it."""
    place = ("--port", str(port), "--data-dir", str(folder))
    whole = {**_clean_environment(), **environment_of(folder), **(environment or {})}
    said: list[bytes] = []
    async with child("-m", "proxy", "serve", *place, *options, environment=whole) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        reading = [asyncio.create_task(_collect(process.stderr, said))]
        try:
            async with asyncio.timeout(TIMEOUT):
                line = await process.stdout.readline()
            said.append(line)
            assert line.startswith(b"listening on "), (line, said)
            reading.append(asyncio.create_task(_collect(process.stdout, said)))
            yield Process(URL(line.split()[2].decode()), process, said)
        finally:
            if process.returncode is None:
                process.kill()
            await asyncio.gather(*reading)


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
