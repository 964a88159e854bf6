"""What the proxy costs: polls beside a bare handler, submissions beside the cloud itself.

    python benchmarks/api.py

Every server runs in a process of its own and so does the load (wrk, one thread, 50 connections), so
that each has a core on a machine with two. The bare handler is aiohttp's, gives the same bytes and
does nothing else. The cloud is the simulator. Prints a table in Markdown.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from processes import server
from yarl import URL

HERE = Path(__file__).parent
KEY = "comfyui-benchmark"
ROUNDS = 5
SUBMISSIONS = 60


def graph(number: int) -> dict[str, Any]:
    """A small graph that no other submission equals."""
    inputs = {"width": 16, "height": 16, "batch_size": 1, "color": number}
    return {
        "1": {"class_type": "EmptyImage", "inputs": inputs},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


async def rate(url: URL) -> float:
    """Answers per second of a URL, loaded from a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", "-c50", "-d3s", str(url)), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    found = re.search(r"Requests/sec:\s*([\d.]+)", output.decode())
    if process.returncode or found is None or b"Non-2xx" in output:
        raise RuntimeError(f"the load failed: {output.decode()}")
    return float(found[1])


async def polls(proxy: URL, paths: dict[str, str], folder: Path) -> list[tuple[str, float, float]]:
    """Answers per second of the proxy and of a bare handler, by turns; the median of each."""
    rows = []
    async with aiohttp.ClientSession() as session:
        for name, path in paths.items():
            async with session.get(proxy.join(URL(path))) as answer:
                body = folder / "body"
                body.write_bytes(await answer.read())
            async with server(str(HERE / "bare.py"), str(body)) as bare:
                ours, theirs = [], []
                for _ in range(ROUNDS):
                    ours.append(await rate(proxy.join(URL(path))))
                    theirs.append(await rate(bare.url))
            rows.append((name, statistics.median(ours), statistics.median(theirs)))
    return rows


async def submissions(proxy: URL, cloud: URL) -> tuple[float, float]:
    """Milliseconds of a submission through the proxy and to the cloud, by turns; the medians."""
    ours, theirs = [], []
    async with aiohttp.ClientSession() as session:
        for number in range(SUBMISSIONS):
            ours.append(await _submit(session, proxy / "prompt", 2 * number, {}))
            theirs.append(
                await _submit(session, cloud / "api/prompt", 2 * number + 1, {"X-API-Key": KEY})
            )
    return statistics.median(ours), statistics.median(theirs)


async def _submit(
    session: aiohttp.ClientSession, url: URL, number: int, headers: dict[str, str]
) -> float:
    begun = time.perf_counter()
    async with session.post(url, json={"prompt": graph(number)}, headers=headers) as answer:
        answer.raise_for_status()
        await answer.read()
    taken = 1000 * (time.perf_counter() - begun)
    await asyncio.sleep(0.03)  # let the job end, so that it does not run beside the next call
    return taken


async def finished_job(proxy: URL) -> str:
    """Run one job through the proxy; its id."""
    async with aiohttp.ClientSession() as session:
        async with session.post(proxy / "prompt", json={"prompt": graph(0xFFFFFF)}) as answer:
            prompt_id = str((await answer.json())["prompt_id"])
        while True:
            async with session.get(proxy / "history" / prompt_id) as answer:
                if await answer.json():
                    return prompt_id
            await asyncio.sleep(0.05)


async def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            server(str(HERE / "cloud.py"), KEY) as cloud,
            server(
                *("-m", "proxy", "serve", "--port", "0", "--data-dir", str(folder / "data")),
                COMFY_CLOUD_API_KEY=KEY,
                COMFY_CLOUD_BASE_URL=str(cloud.url),
            ) as proxy,
        ):
            prompt_id = await finished_job(proxy.url)
            paths = {"GET /queue": "/queue", "GET /history/{id}": f"/history/{prompt_id}"}
            rows = await polls(proxy.url, paths, folder)
            ours, theirs = await submissions(proxy.url, cloud.url)
    print("| | through the proxy | without it | |")
    print("|---|---:|---:|---:|")
    for name, mine, bare in rows:
        print(f"| `{name}`, answers a second | {mine:,.0f} | {bare:,.0f} | {mine / bare:.0%} |")
    print(f"| `POST /prompt`, ms | {ours:.1f} | {theirs:.1f} | +{ours - theirs:.1f} ms |")


if __name__ == "__main__":
    asyncio.run(main())
