"""What pictures cost through the proxy, beside an nginx that passes them on from another nginx.

    python benchmarks/view.py

A picture of 1.5 MB that is in the cache, and pictures that are not and come from the cloud; then
the memory that a file of 1 GB takes which ten clients fetch at once before it is there. The cloud
is the static nginx: it redirects `/api/view` to its files. Every server is one process (nginx one
worker), the load is the same for all and a process of its own, and they take turns. The nginx in
front has `proxy_pass` and nothing else; a second one is tuned for large answers. Needs nginx
(Debian: `apt-get install nginx-light`). Prints a table in Markdown.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import nginx
from blake3 import blake3
from yarl import URL

from proxy.files.namespace import make_record
from proxy.storage.file_tables import FileRecord
from proxy.storage.files import FileRepository
from proxy.storage.sqlite import FILE, open_sqlite
from proxy.storage.start import migrate
from proxy.translate.names import Place

HERE = Path(__file__).parent
SIZE = 1_500_000
ROUNDS = 7
#: Requests of a round for a cached picture, and pictures of a round that are fresh.
CACHED, FRESH = 400, 60
LARGE = 1 << 30
CLIENTS = 10


@dataclass(frozen=True)
class Picture:
    """A file of the cloud and the name that the proxy's member has for it."""

    cloud_name: str
    filename: str

    def record(self) -> FileRecord:
        place = Place("output", self.filename)
        return make_record(
            "local", place, cloud_name=self.cloud_name, cloud_type="output", modified=1.0
        )


def make_pictures(folder: Path, count: int) -> list[Picture]:
    """Contents that look like compressed ones, each another."""
    noise = random.Random(0).randbytes(SIZE - 8)
    made = []
    for number in range(count):
        data = number.to_bytes(8) + noise
        name = f"{blake3(data).hexdigest()}.png"
        (folder / name).write_bytes(data)
        made.append(Picture(name, f"picture_{number:05}_.png"))
    return made


def make_large(folder: Path) -> Picture:
    """A file of 1 GB, all zeros."""
    path = folder / "large"
    with path.open("wb") as file:
        file.truncate(LARGE)
    hasher = blake3()
    hasher.update_mmap(path)
    name = f"{hasher.hexdigest()}.png"
    path.rename(folder / name)
    return Picture(name, "large_00001_.png")


@asynccontextmanager
async def proxy(folder: Path, cloud: URL) -> AsyncIterator[tuple[URL, int]]:
    """The proxy as a process; its address and its process id."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "--port", "0", "--data-dir", str(folder)),
        stdout=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "COMFY_CLOUD_API_KEY": "comfyui-benchmark",
            "COMFY_CLOUD_BASE_URL": str(cloud),
            "COMFY_PROXY_LOG_LEVEL": "error",
            "COMFY_PROXY_CACHE_MB": "4096",
        },
    )
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        yield URL(line.split()[2]), process.pid
    finally:
        process.terminate()
        await process.wait()


async def rate(urls: Iterable[URL], connections: int = 8) -> float:
    """Answers per second, each URL fetched once."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "fetch.py"), "--connections", str(connections)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate("\n".join(map(str, urls)).encode())
    if process.returncode:
        raise RuntimeError("the load failed")
    return float(json.loads(output))


async def rates(proxied: URL, others: list[URL], pictures: list[Picture]) -> dict[str, list[float]]:
    """Answers per second of the proxy and of each nginx by turns; medians, cached and not."""
    first, *fresh = pictures
    await rate([view(proxied, first)])
    cached: list[list[float]] = []
    arriving: list[list[float]] = []
    for number in range(ROUNDS):
        same = [view(proxied, first), *(other / first.cloud_name for other in others)]
        cached.append([await rate([url] * CACHED) for url in same])
        some = fresh[number * FRESH : (number + 1) * FRESH]
        arriving.append(
            [
                await rate([view(proxied, picture) for picture in some]),
                *[await rate([other / picture.cloud_name for picture in some]) for other in others],
            ]
        )
    return {
        "in the cache": [statistics.median(column) for column in zip(*cached, strict=True)],
        "from the cloud": [statistics.median(column) for column in zip(*arriving, strict=True)],
    }


def view(proxied: URL, picture: Picture) -> URL:
    """Where the proxy shows it."""
    return (proxied / "view").with_query(filename=picture.filename)


async def added_memory(proxied: URL, pid: int, large: Picture) -> float:
    """MiB by which the process grew at most while all clients fetched the large file."""
    forget_peak(pid)
    before = memory(pid, "VmRSS")
    await rate([view(proxied, large)] * CLIENTS, connections=CLIENTS)
    return memory(pid, "VmHWM") - before


def forget_peak(pid: int) -> None:
    """Let `VmHWM` count from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def memory(pid: int, field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (the peak) in MiB."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


async def main() -> None:
    """Measure and print."""
    if nginx.program() is None:
        print("skipped: nginx is not installed (Debian: apt-get install nginx-light)")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cloud, data = folder / "cloud", folder / "data"
        cloud.mkdir()
        data.mkdir()
        pictures = make_pictures(cloud, 1 + ROUNDS * FRESH)
        large = make_large(cloud)
        database = await open_sqlite(data / FILE)
        await migrate(database)
        records = [picture.record() for picture in (*pictures, large)]
        await FileRepository(database).write(lambda files: files.put(records))
        await database.close()
        async with (
            nginx.static(folder / "static", cloud) as static,
            nginx.passing_on(folder / "plain", static) as plain,
            nginx.passing_on(folder / "tuned", static, nginx.PASSED_ON_TUNED) as tuned,
            proxy(data, static) as (proxied, pid),
        ):
            found = await rates(proxied, [plain, tuned], pictures)
            added = await added_memory(proxied, pid, large)
    print("| a picture of 1.5 MB, answers a second | proxy | nginx | | nginx, tuned | |")
    print("|---|---:|---:|---:|---:|---:|")
    for kind, (ours, theirs, best) in found.items():
        print(
            f"| {kind} | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f} "
            f"| {best:,.0f} | {ours / best:.2f} |"
        )
    print(f"\n1 GB to {CLIENTS} clients at once: {added:.1f} MiB more memory")


if __name__ == "__main__":
    asyncio.run(main())
