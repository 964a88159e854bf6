"""Many websockets: what an idle one costs, and what a job waits for while they are open.

    python benchmarks/sockets.py [--idle 9000] [--busy 100] [--jobs 2] [--deflate]

The proxy and the cloud (the simulator) run in processes of their own. The idle sockets are opened
at the first, then the busy clients run their jobs, each with a socket of its own, once without the
idle sockets and once beside them. With `--deflate` the idle sockets offer compression, as browsers
do. Prints a table in Markdown; ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import aiohttp
import uvloop
from processes import server
from yarl import URL

HERE = Path(__file__).parent
KEY = "comfyui-benchmark"
#: Seconds after which everything is given up.
BOUND = 300.0
#: Sockets that are opened at once.
OPENING = 200


def graph(number: int) -> dict[str, Any]:
    """A small graph with a preview at each of five steps, which no other submission equals."""
    size = {"width": 64, "height": 64, "batch_size": 1}
    model = {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"}
    sampling = {"seed": number, "steps": 5, "cfg": 8, "sampler_name": "euler", "denoise": 1}
    links = {
        "model": ["1", 0],
        "positive": ["3", 0],
        "negative": ["3", 0],
        "latent_image": ["2", 0],
    }
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": model},
        "2": {"class_type": "EmptyLatentImage", "inputs": size},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["1", 1]}},
        "4": {"class_type": "KSampler", "inputs": {**sampling, "scheduler": "normal", **links}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
    }


class Idle(asyncio.Protocol):
    """A websocket that shakes hands, reads everything and says nothing."""

    received = 0

    def __init__(self, url: URL, *, deflate: bool) -> None:
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if deflate else ""
        self._request = (
            f"GET /ws?clientId={uuid.uuid4().hex} HTTP/1.1\r\nHost: {url.authority}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n{offer}"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Shake hands."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count."""
        Idle.received += len(data)
        if not self.open.done():
            if not data.startswith(b"HTTP/1.1 101 "):
                self.open.set_exception(RuntimeError(data[:80]))
            else:
                self.open.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """A socket that is lost before it is open is a failure."""
        if not self.open.done():
            self.open.set_exception(exc or ConnectionError("closed"))


async def open_idle(url: URL, count: int, *, deflate: bool) -> list[Idle]:
    """Open so many sockets."""
    loop = asyncio.get_running_loop()
    turn = asyncio.Semaphore(OPENING)

    async def one() -> Idle:
        async with turn:
            assert url.host is not None
            assert url.port is not None
            _, socket = await loop.create_connection(
                lambda: Idle(url, deflate=deflate), url.host, url.port
            )
            await socket.open
            return socket

    return list(await asyncio.gather(*(one() for _ in range(count))))


@dataclass
class Figures:
    """Milliseconds of each submission, job and probe."""

    submissions: list[float] = field(default_factory=list)
    jobs: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)


async def timed(into: list[float], call: Callable[[], Awaitable[None]]) -> None:
    """Note how long a call took."""
    begun = time.perf_counter()
    await call()
    into.append(1000 * (time.perf_counter() - begun))


async def busy_client(
    session: aiohttp.ClientSession, url: URL, first: int, jobs: int, figures: Figures
) -> None:
    """Run jobs one after the other, each to the end that the socket tells."""
    client_id = uuid.uuid4().hex
    async with session.ws_connect((url / "ws").with_query(clientId=client_id)) as socket:
        for number in range(first, first + jobs):

            async def run(number: int = number) -> None:
                body = {"prompt": graph(number), "client_id": client_id}

                async def submit() -> None:
                    async with session.post(url / "prompt", json=body) as answer:
                        answer.raise_for_status()
                        await answer.read()

                await timed(figures.submissions, submit)
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        event = json.loads(message.data)
                        if event["type"] == "executing" and event["data"]["node"] is None:
                            return
                raise RuntimeError("the socket was closed")

            await timed(figures.jobs, run)


async def busy(url: URL, clients: int, jobs: int, first: int) -> Figures:
    """Let the busy clients run, and ask for the queue meanwhile, twenty times a second."""
    figures = Figures()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> None:
            async with session.get(url / "queue") as answer:
                await answer.read()

        async def probe() -> None:
            while True:
                await timed(figures.probes, ask)
                await asyncio.sleep(0.05)

        probing = asyncio.create_task(probe())
        try:
            work = (
                busy_client(session, url, first + number * jobs, jobs, figures)
                for number in range(clients)
            )
            await asyncio.gather(*work)
        finally:
            probing.cancel()
    return figures


def spread(values: list[float]) -> str:
    """Median and 95th percentile."""
    return f"{statistics.median(values):,.0f} / {statistics.quantiles(values, n=20)[18]:,.0f}"


async def main(given: argparse.Namespace) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            asyncio.timeout(BOUND),
            server(str(HERE / "cloud.py"), KEY) as cloud,
            server(
                *("-m", "proxy", "serve", "--port", "0", "--data-dir", folder),
                *("--max-connections", str(4 * (given.idle + 2 * given.busy))),
                COMFY_CLOUD_API_KEY=KEY,
                COMFY_CLOUD_BASE_URL=str(cloud.url),
            ) as proxy,
        ):
            await busy(proxy.url, 1, 1, 1)
            used = proxy.seconds()
            alone = await busy(proxy.url, given.busy, given.jobs, 1_000)
            work_alone = proxy.seconds() - used
            before = proxy.memory()
            begun = time.perf_counter()
            sockets = await open_idle(proxy.url, given.idle, deflate=given.deflate)
            opening = time.perf_counter() - begun
            after, used = proxy.memory(), proxy.seconds()
            await asyncio.sleep(5)
            idling = (proxy.seconds() - used) / 5
            used = proxy.seconds()
            beside = await busy(proxy.url, given.busy, given.jobs, 1_000_000)
            work_beside = proxy.seconds() - used
            end = proxy.memory()
            for socket in sockets:
                socket.transport.close()
    jobs = given.busy * given.jobs
    print(f"{given.idle:,} idle sockets{' that compress' if given.deflate else ''}:")
    print(f"* opened in {opening:.1f} s; {before:.0f} MiB before, {after:.0f} MiB with them,")
    print(f"  {1024 * (after - before) / given.idle:.1f} KiB each; {end:.0f} MiB at the end")
    print(f"* {100 * idling:.1f} % of a core while nothing happens")
    print()
    print(f"| {given.busy} busy clients, {jobs} jobs | alone | beside the idle ones |")
    print("|---|---:|---:|")
    rows = {
        "`POST /prompt`, ms (median / 95 %)": (alone.submissions, beside.submissions),
        "a job from submission to end, ms": (alone.jobs, beside.jobs),
        "`GET /queue` meanwhile, ms": (alone.probes, beside.probes),
    }
    for name, (row, other) in rows.items():
        print(f"| {name} | {spread(row)} | {spread(other)} |")
    print(
        f"| processor time of the proxy a job, ms | {1000 * work_alone / jobs:.0f} "
        f"| {1000 * work_beside / jobs:.0f} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle", type=int, default=9_000)
    parser.add_argument("--busy", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--deflate", action="store_true")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main(parser.parse_args()))
