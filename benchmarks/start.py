"""How long the proxy needs from its start to its first answer, with much to remember.

    python benchmarks/start.py [--history 100000] [--files 100000] [--members 10]

Fills a data folder with history entries and files, shared out among the members, and starts the
proxy over it, and over an empty one, a few times each. Prints a table in Markdown with the best
time of each, its memory then, and its memory behind `GET /history` of one member; ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import aiohttp
from processes import server
from sqlalchemy import Connection

from proxy.storage.file_tables import FileRecord
from proxy.storage.files import FileUnit
from proxy.storage.history import add_history
from proxy.storage.job_tables import HistoryEntry
from proxy.storage.payloads import Payload, add_payload
from proxy.storage.start import open_folder

HERE = Path(__file__).parent
KEY = "comfyui-benchmark"
STARTS = 3
#: Rows that are written in one unit.
AT_ONCE = 10_000

_GRAPH = json.dumps({str(n): {"class_type": "KSampler", "inputs": {"x": n}} for n in range(40)})
_RESULT = json.dumps({"outputs": {}, "status": {"status_str": "success"}, "meta": {}})


async def fill(folder: Path, history: int, files: int, members: int) -> None:
    """Write what is to be remembered."""

    def entries(connection: Connection, first: int) -> None:
        for number in range(first, min(first + AT_ONCE, history)):
            summary = {"id": f"job-{number}", "status": "completed", "create_time": number}
            entry = HistoryEntry(
                order=number + 1,
                member=_member(number, members),
                prompt_id=f"job-{number}",
                state="succeeded",
                number=number,
                created_at=number,
                started_at=number,
                ended_at=number,
                outputs_to_execute=(),
                summary=json.dumps(summary).encode(),
                result=_RESULT.encode(),
                cloud_id=f"cloud-{number}",
            )
            add_history(connection, entry)
            add_payload(connection, entry.member, entry.order, Payload(_GRAPH.encode(), b"{}"))

    def names(connection: Connection, first: int) -> None:
        FileUnit(connection).put(
            [
                FileRecord(
                    _member(number, members),
                    "output",
                    f"ComfyUI_{number:05}_.png",
                    f"{number:064x}.png",
                    "output",
                    None,
                    None,
                    "image/png",
                    float(number),
                    "default",
                    f"job-{number}",
                )
                for number in range(first, min(first + AT_ONCE, files))
            ]
        )

    database = await open_folder(folder)
    for write, count in ((entries, history), (names, files)):
        for first in range(0, count, AT_ONCE):
            await database.write(partial(write, first=first))
    await database.close()


def _member(number: int, members: int) -> str:
    return "local" if number % members == 0 else f"m{number % members}"


async def measure(folder: Path, cloud: str) -> tuple[float, float, float]:
    """Seconds to the first answer, and MiB then and behind the whole history of a member."""
    best = (float("inf"), 0.0, 0.0)
    for _ in range(STARTS):
        begun = time.perf_counter()
        command = ("-m", "proxy", "serve", "--port", "0", "--data-dir", str(folder))
        environment = {"COMFY_CLOUD_API_KEY": KEY, "COMFY_CLOUD_BASE_URL": cloud}
        async with (
            server(*command, **environment) as proxy,
            aiohttp.ClientSession() as session,
        ):
            async with session.get(proxy.url / "queue") as answer:
                assert answer.status == 200
            took, idle = time.perf_counter() - begun, proxy.memory()
            async with session.get(proxy.url / "history") as answer:
                assert answer.status == 200
                async for _chunk in answer.content.iter_any():
                    pass
            best = min(best, (took, idle, proxy.memory()))
    return best


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--history", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--members", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        full, empty = Path(scratch, "full"), Path(scratch, "empty")
        await fill(full, options.history, options.files, options.members)
        print("| Data folder | First answer (s) | Memory (MiB) | After `GET /history` (MiB) |")
        print("| --- | ---: | ---: | ---: |")
        async with server(str(HERE / "cloud.py"), KEY) as cloud:
            for name, folder in (
                ("empty", empty),
                (f"{options.history:,} history entries, {options.files:,} files", full),
            ):
                took, idle, after = await measure(folder, str(cloud.url))
                print(f"| {name} | {took:.2f} | {idle:.0f} | {after:.0f} |", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
