"""Servers in processes of their own."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from yarl import URL


@dataclass(frozen=True)
class Server:
    """A process that listens at `url`."""

    url: URL
    pid: int

    def memory(self) -> float:
        """Its resident memory in MiB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1024**2

    def seconds(self) -> float:
        """The processor time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


@asynccontextmanager
async def server(*command: str, **environment: str) -> AsyncIterator[Server]:
    """A process that prints a line with its address when it listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        stdout=asyncio.subprocess.PIPE,
        env={"COMFY_PROXY_LOG_LEVEL": "warning", **environment},
    )
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        url = URL(next(word for word in line.split() if word.startswith("http")))
        yield Server(url, process.pid)
    finally:
        process.terminate()
        await process.wait()
