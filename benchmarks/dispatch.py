"""How long a job is on its way to the cloud: into a free slot, and into one that has become free.

    python benchmarks/dispatch.py

The proxy and the cloud (the simulator) run in processes of their own, all on this machine, so that
the network's way to the cloud is not in the figures. Into a free slot: from the moment at which the
client sends `POST /prompt` until the cloud has the job. Into one that has become free: from the end
of a job on the cloud, which the proxy hears of a little later, until the cloud has the next one;
only one job at a time is sent (`--slots 1`), so that each has to wait for the end
of the one before. Prints a table in Markdown; ends with 1 if a bound is missed.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
from api import graph
from team import Shop, running, session

#: ms within which 95 % of the jobs are to be on the cloud.
FREE, FREED = 50.0, 100.0
#: How many jobs are measured, each time.
MEASURED = 200
#: How many jobs wait for the slot, by how many members.
WAITING = [(1, 300), (20, 1000)]
#: Seconds after which everything is given up.
BOUND = 300.0
_HOLDING = {"1": {"class_type": "SimulatorWait", "inputs": {"seconds": 1000}}}
_ONE = ("--slots", "1")


async def submit(http: aiohttp.ClientSession, shop: Shop, prompt: dict[str, Any]) -> None:
    """Submit a graph."""
    async with http.post(shop.url / "prompt", json={"prompt": prompt}) as answer:
        answer.raise_for_status()
        await answer.read()


async def remaining(http: aiohttp.ClientSession, shop: Shop) -> int:
    """How many jobs wait or run for a member."""
    async with http.get(shop.url / "prompt") as answer:
        return int((await answer.json())["exec_info"]["queue_remaining"])


async def until(http: aiohttp.ClientSession, shop: Shop, max_jobs: int, pause: float) -> None:
    """Wait until no more than so many jobs remain."""
    while await remaining(http, shop) > max_jobs:  # noqa: ASYNC110 (a client has nothing to wait for)
        await asyncio.sleep(pause)


async def into_free() -> list[float]:
    """ms of each job into a free slot."""
    sent = []
    with tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder), ["m00"]) as shop, session(shop.tokens["m00"]) as http:
            for number in range(MEASURED + 1):
                sent.append(time.time())
                await submit(http, shop, graph(number))
                await until(http, shop, 0, 0.01)
        arrived = [job.arrived for job in shop.cloud_jobs()]
    _, *taken = [1000 * (at - begun) for begun, at in zip(sent, arrived, strict=True)]
    return taken  # the first one waits for the list of nodes and for the event socket


async def into_freed(members: int, jobs: int) -> list[float]:
    """ms from each end to the next job, while so many jobs of so many members wait."""
    names = [f"m{number:02}" for number in range(members)]
    with tempfile.TemporaryDirectory() as folder:
        async with (
            running(Path(folder), names, *_ONE, plan="standard") as shop,
            AsyncExitStack() as stack,
        ):
            clients = [await stack.enter_async_context(session(t)) for t in shop.tokens.values()]
            await submit(clients[0], shop, _HOLDING)
            await asyncio.gather(
                *(submit(clients[number % members], shop, graph(number)) for number in range(jobs))
            )
            async with clients[0].post(shop.url / "interrupt") as answer:
                answer.raise_for_status()
            await until(clients[-1], shop, jobs - MEASURED - 2, 0.5)
        found = shop.cloud_jobs()[1 : MEASURED + 2]
    return [1000 * (after.arrived - before.ended) for before, after in itertools.pairwise(found)]


def line(name: str, taken: list[float], bound: float) -> bool:
    """Print a line of the table; whether the bound holds."""
    high = statistics.quantiles(taken, n=20)[18]
    print(f"| {name} | {statistics.median(taken):.0f} | {high:.0f} | {bound:.0f} |", flush=True)
    return high <= bound


async def main() -> int:
    """Measure and print."""
    print("| a job to the cloud, ms | median | 95 % | bound |")
    print("|---|---:|---:|---:|")
    async with asyncio.timeout(BOUND):
        well = [line("into a free slot", await into_free(), FREE)]
        for members, jobs in WAITING:
            whose = f"{members} members" if members > 1 else "one member"
            name = f"into one that has become free, {jobs:,} jobs of {whose} waiting"
            well.append(line(name, await into_freed(members, jobs), FREED))
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
