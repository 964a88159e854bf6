"""The simulator in a process of its own; its account has the key that is given."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from proxy.simulator import Simulator


async def serve(key: str) -> None:
    """Answer until the process is ended."""
    async with Simulator(key=key, plan="pro") as simulator:
        print(simulator.base_url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
