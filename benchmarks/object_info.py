"""What the prepared catalog gains: `GET /object_info` beside a handler that does as ComfyUI's.

    python benchmarks/object_info.py

The body is one of about 9 MB, as the cloud's: the simulator's node classes again and again under
other names. Both servers give the same JSON, each in a process of its own, under the same load
from a third; every line of headers is sent to both. The other server is aiohttp's with
`web.json_response` of the object and nothing else: it neither compresses nor knows 304, as a
ComfyUI by default. Prints a table in Markdown, and below it what an upload costs.

Without compression the copying of 9 MB into and out of the kernel is most of the work, so that
the gain is less there. zstd finds the repetition of such a made body; the sizes of a real one are
nearer to those of gzip.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
from api import HERE
from processes import server
from yarl import URL

from proxy.catalog.bodies import Whole
from proxy.catalog.node_classes import Nodes
from proxy.simulator import Simulator
from proxy.simulator.nodes import NodeClass, object_info, standard_nodes
from proxy.translate import codec

SIZE = 9_000_000
ROUNDS = 3
UPLOADS = 20
#: A picture of one pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
)


def many_nodes() -> list[NodeClass]:
    """So many node classes that `object_info` has `SIZE` bytes; those that list files once."""
    nodes = standard_nodes()
    repeated = [node for name, node in nodes.items() if not name.startswith("Load")]
    size = len(codec.dump_bytes(object_info({node.name: node for node in repeated})))
    count = (SIZE - len(codec.dump_bytes(object_info(nodes)))) // size
    return [
        replace(node, name=f"{node.name}{number}", display_name=f"{node.name} {number}")
        for number in range(count)
        for node in repeated
    ]


async def rate(url: URL, headers: list[str], seconds: float, connections: int) -> float:
    """Answers per second, loaded from a process of its own."""
    options = [f"--header={line}" for line in headers]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "load.py"), str(url), *options),
        *("--seconds", str(seconds), "--connections", str(connections)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("the load failed")
    return float(json.loads(output))


async def cases(session: aiohttp.ClientSession, url: URL) -> list[tuple[str, int, list[str]]]:
    """What clients send: a name, the bytes of our answer's body, and lines of headers."""
    found = []
    for coding in "identity", "gzip", "zstd":
        line = f"Accept-Encoding: {coding}"
        async with session.get(url, headers={"Accept-Encoding": coding}) as answer:
            size, tag = int(answer.headers["Content-Length"]), answer.headers["ETag"]
        found.append((f"`{line}`", size, [line]))
        if coding == "gzip":
            conditional = [line, f"If-None-Match: {tag}"]
            found.append((f"`{line}`, has it already (304)", 0, conditional))
    return found


async def after_uploads(session: aiohttp.ClientSession, proxy: URL) -> list[float]:
    """Milliseconds of the first `object_info` after each upload; the upload is in its lists."""
    taken = []
    for number in range(UPLOADS):
        form = aiohttp.FormData()
        name = f"upload-{number}.png"
        form.add_field("image", PIXEL, filename=name, content_type="image/png")
        async with session.post(proxy / "upload/image", data=form) as answer:
            answer.raise_for_status()
        begun = time.perf_counter()
        headers = {"Accept-Encoding": "gzip"}
        async with session.get(proxy / "object_info", headers=headers) as answer:
            info = await answer.read()
        taken.append(1000 * (time.perf_counter() - begun))
        if name.encode() not in info:
            raise RuntimeError(f"{name} is not listed")
    return taken


def in_process(body: bytes) -> dict[str, float]:
    """Milliseconds to read the catalog, and to put a body together for one more upload."""
    begun = time.perf_counter()
    whole: Whole = Nodes(codec.loads(body)).whole
    taken = {"reading a new catalog, in a thread": [1000 * (time.perf_counter() - begun)]}
    for coding in ("identity", "gzip", "zstd"):
        times = taken[f"splicing `{coding}` for other files"] = []
        for number in range(UPLOADS):
            begun = time.perf_counter()
            whole.body({f"{index}.png": 1 for index in range(number)}, coding)
            times.append(1000 * (time.perf_counter() - begun))
    return {name: statistics.median(times) for name, times in taken.items()}


async def by_turns(
    ours: URL, theirs: URL, headers: list[str], given: argparse.Namespace
) -> tuple[float, float]:
    """The answers per second of both servers, the medians of some rounds."""
    rates: tuple[list[float], list[float]] = [], []
    for _ in range(ROUNDS):
        for url, found in zip((ours, theirs), rates, strict=True):
            found.append(await rate(url, headers, given.seconds, given.connections))
    return statistics.median(rates[0]), statistics.median(rates[1])


async def measure(proxy: URL, folder: Path, given: argparse.Namespace) -> None:
    """Compare the proxy with the other server, and print."""
    ours = proxy / "object_info"
    async with (
        aiohttp.ClientSession(auto_decompress=False) as raw,
        aiohttp.ClientSession() as session,
    ):
        async with session.get(ours) as answer:
            body = await answer.read()
        (folder / "body").write_bytes(body)
        async with server(str(HERE / "comfyui.py"), str(folder / "body")) as other:
            theirs = other.url / "object_info"
            async with session.get(theirs) as answer:
                if await answer.read() != body:
                    raise RuntimeError("the bodies differ")
            print(
                f"| {len(body) / 1e6:.1f} MB, {len(json.loads(body)):,} classes | bytes sent "
                "| answers a second | `json_response` | times |"
            )
            print("|---|---:|---:|---:|---:|")
            for case, size, headers in await cases(raw, ours):
                mine, plain = await by_turns(ours, theirs, headers, given)
                print(
                    f"| {case} | {size:,} | {mine:,.0f} | {plain:.1f} | {mine / plain:,.0f} |",
                    flush=True,
                )
        uploads = statistics.median(await after_uploads(session, proxy))
    print("\n| | ms |\n|---|---:|")
    first = {"first `gzip` answer after an upload, as a client sees it": uploads}
    for what, taken in (first | in_process(body)).items():
        print(f"| {what} | {taken:.1f} |")


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            Simulator(extra_nodes=many_nodes()) as simulator,
            server(
                *("-m", "proxy", "serve", "--port", "0", "--data-dir", str(folder / "data")),
                COMFY_CLOUD_API_KEY=simulator.key,
                COMFY_CLOUD_BASE_URL=str(simulator.base_url),
            ) as proxy,
        ):
            await measure(proxy.url, folder, given)


if __name__ == "__main__":
    asyncio.run(main())
