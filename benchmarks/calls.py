"""How often the cloud is asked for a job while 1, 10 or 100 clients poll for it.

    python benchmarks/calls.py

Each client asks for `/history/{id}` and `/queue` ten times a second until the job has ended. The
cloud is the simulator. Prints a table in Markdown.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter

import aiohttp
from api import graph
from processes import server
from yarl import URL

from proxy.simulator import Simulator, Switches

JOBS = 5
INTERVAL = 0.1
#: Seconds that each job takes.
LENGTH = 3.0


async def poll(session: aiohttp.ClientSession, proxy: URL, prompt_id: str) -> int:
    """Ask until the job has ended; how often."""
    asked = 0
    while True:
        async with session.get(proxy / "queue") as answer:
            await answer.read()
        async with session.get(proxy / "history" / prompt_id) as answer:
            asked += 2
            if await answer.json():
                return asked
        await asyncio.sleep(INTERVAL)


async def job(session: aiohttp.ClientSession, proxy: URL, number: int, clients: int) -> int:
    """Run one job with so many clients asking for it; how often they asked."""
    slow = graph(number)
    slow["3"] = {"class_type": "SimulatorWait", "inputs": {"value": ["1", 0], "seconds": LENGTH}}
    slow["2"]["inputs"]["images"] = ["3", 0]
    async with session.post(proxy / "prompt", json={"prompt": slow}) as answer:
        prompt_id = (await answer.json())["prompt_id"]
    return sum(await asyncio.gather(*(poll(session, proxy, prompt_id) for _ in range(clients))))


async def main() -> None:
    """Measure and print."""
    print("| clients | their requests per job | calls to the cloud per job | which |")
    print("|---:|---:|---:|---|")
    async with Simulator(switches=Switches(cache_nodes=False)) as simulator:
        for clients in (1, 10, 100):
            with tempfile.TemporaryDirectory() as folder:
                async with (
                    server(
                        *("-m", "proxy", "serve", "--port", "0", "--data-dir", folder),
                        COMFY_CLOUD_API_KEY=simulator.key,
                        COMFY_CLOUD_BASE_URL=str(simulator.base_url),
                    ) as proxy,
                    aiohttp.ClientSession() as session,
                ):
                    await job(session, proxy.url, 0, 1)  # the first loads the catalog
                    before = Counter(simulator.calls)
                    asked = [await job(session, proxy.url, n, clients) for n in range(1, JOBS + 1)]
                    made = Counter(simulator.calls)
                    made.subtract(before)
            calls = {route: count / JOBS for route, count in made.items() if count}
            which = ", ".join(f"`{route}` {count:g}" for route, count in sorted(calls.items()))
            print(
                f"| {clients} | {sum(asked) / JOBS:.0f} | {sum(calls.values()):g} | {which} |",
                flush=True,
            )


if __name__ == "__main__":
    asyncio.run(main())
