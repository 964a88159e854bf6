"""What a leader with PostgreSQL costs, and what standbys add that pass on to it.

    PYTHONPATH=tests python benchmarks/cluster.py

Every server is a process of its own. Polls come from wrk, one for each process; submissions go to
one process with SQLite, to the leader and to a standby by turns; events come from 500 jobs on 100
accounts, ten a second each, a tenth of them previews of 50 kB, and go to clients at the standbys.
Prints tables in Markdown, with the processor time of each process: on a machine with
few cores the whole is slower than its parts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import servers
from api import KEY, _submit, finished_job, rate
from events_cloud import KEY as KEYS
from processes import Server, server

HERE = Path(__file__).parent
ROUNDS = 3
SUBMISSIONS = 60


@asynccontextmanager
async def processes(
    folder: Path, count: int, *options: str, **environment: str
) -> AsyncIterator[list[Server]]:
    """So many processes over servers of their own, ready, the leader first."""
    async with AsyncExitStack() as stack:
        postgresql = stack.enter_context(servers.postgresql())
        shared = {
            "COMFY_PROXY_DATABASE": postgresql.create("benchmark"),
            "COMFY_PROXY_BLOBS": str(folder / "blobs"),
        }
        found = []
        for number in range(count):
            data = str(folder / f"process-{number}")
            place = ("-m", "proxy", "serve", "--port", "0", "--data-dir", data)
            one = server(*place, *options, **shared, **environment)
            found.append(await stack.enter_async_context(one))
        leads = [await ready(process) for process in found]
        yield sorted(found, key=lambda process: not leads[found.index(process)])


async def ready(process: Server) -> bool:
    """Wait until a process takes jobs; return whether it leads."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while True:
            async with session.get(process.url / "readyz") as answer:
                if answer.status == 200:
                    return bool((await answer.json())["engine"] == "active")
            await asyncio.sleep(0.1)


async def polls(found: Sequence[Server]) -> None:
    """Answers a second of the leader, and of standbys beside it, each with a load of its own."""
    prompt_id = await finished_job(found[0].url)
    print(
        "| processes | `GET /queue`, a second | ms of processor time per 1,000 "
        "| `GET /history/{id}` | ms |\n|---:|---:|---:|---:|---:|"
    )
    for count in range(1, len(found) + 1):
        row = [str(count)]
        for path in ("queue", f"history/{prompt_id}"):
            used = [process.seconds() for process in found[:count]]
            rates = [
                sum(await asyncio.gather(*(rate(process.url / path) for process in found[:count])))
                for _ in range(ROUNDS)
            ]
            work = sum(
                process.seconds() - before for process, before in zip(found, used, strict=False)
            )
            answers = 3 * sum(rates)
            row += [f"{statistics.median(rates):,.0f}", f"{1e6 * work / answers:,.0f}"]
        print(f"| {' | '.join(row)} |", flush=True)


async def submissions(one: Server, found: Sequence[Server]) -> None:
    """Milliseconds of a submission to one process, to the leader, and through a standby."""
    places = {"one process with SQLite": one, "the leader": found[0]}
    if len(found) > 1:
        places["a standby"] = found[1]
    taken: dict[str, list[float]] = {name: [] for name in places}
    async with aiohttp.ClientSession() as session:
        for number in range(SUBMISSIONS):
            for name, place in places.items():
                taken[name].append(await _submit(session, place.url / "prompt", number, {}))
    print("\n| `POST /prompt` | ms, median | 95% | slower than one process by, ms |")
    print("|---|---:|---:|---:|")
    least = statistics.median(taken["one process with SQLite"])
    for name, values in taken.items():
        median, limit = statistics.median(values), statistics.quantiles(values, n=20)[18]
        print(f"| {name} | {median:.1f} | {limit:.1f} | +{median - least:.1f} |", flush=True)


async def events(cloud: Server, found: Sequence[Server], jobs: int, seconds: int) -> None:
    """A row: what clients at the standbys heard of so many jobs, and who worked for it."""
    urls = [str(standby.url) for standby in found[1:]]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "events_clients.py"), *urls),
        *("--jobs", str(jobs), "--seconds", str(seconds)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"running\n", "the clients failed"
    os.kill(cloud.pid, signal.SIGUSR1)
    used: list[list[float]] = []
    while (line := await process.stdout.readline()) in (b"counting\n", b"counted\n"):
        used.append([each.seconds() for each in (cloud, *found)])
    await process.wait()
    if process.returncode or len(used) != 2:
        raise RuntimeError("the clients failed")
    report = json.loads(line)
    shares = [
        100 * (after - before) / report["seconds"] for before, after in zip(*used, strict=True)
    ]
    work = " | ".join(f"{share:.0f}%" for share in shares)
    print(
        f"| {jobs} | {jobs * 10:,} | {report['events']:,.0f} | {report['messages']:,.0f} "
        f"| {report['median']:.0f} | {report['p99']:.0f} | {work} |",
        flush=True,
    )


async def until_idle(process: Server) -> None:
    """Wait until no job is left."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(300):
        while True:
            async with session.get(process.url / "prompt") as answer:
                if (await answer.json())["exec_info"]["queue_remaining"] == 0:
                    return
            await asyncio.sleep(0.5)


async def main(given: argparse.Namespace) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            cloud = await stack.enter_async_context(server(str(HERE / "cloud.py"), KEY))
            ours = {"COMFY_CLOUD_API_KEY": KEY, "COMFY_CLOUD_BASE_URL": str(cloud.url)}
            alone = ("-m", "proxy", "serve", "--port", "0", "--data-dir", str(folder / "one"))
            one = await stack.enter_async_context(server(*alone, **ours))
            found = await stack.enter_async_context(processes(folder / "polls", 3, **ours))
            await ready(one)
            await finished_job(one.url)
            await polls(found)
            await submissions(one, found)
        async with AsyncExitStack() as stack:
            cloud = await stack.enter_async_context(
                server(str(HERE / "events_cloud.py"), "--accounts", str(given.accounts))
            )
            config = folder / "config.toml"
            config.touch(mode=0o600)
            config.write_text(
                f'base_url = "{cloud.url}"\nslots = 5\n'
                + "".join(
                    f'[[accounts]]\nname = "a{number}"\nkey = "{KEYS.format(number)}"\n'
                    for number in range(given.accounts)
                )
            )
            found = await stack.enter_async_context(
                processes(folder / "events", 3, "--config", str(config))
            )
            print(
                "\n| jobs | events a second, sent | received | messages | ms, median | 99% "
                "| cloud | leader | standby | standby |\n" + "|---:" * 10 + "|"
            )
            for jobs in given.jobs:
                await events(cloud, found, jobs, given.seconds)
                await until_idle(found[0])
                os.kill(cloud.pid, signal.SIGUSR2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=100)
    parser.add_argument("--jobs", type=int, nargs="+", default=[100, 200, 300, 400, 500])
    parser.add_argument("--seconds", type=int, default=24, help="of each job")
    begun = time.perf_counter()
    asyncio.run(main(parser.parse_args()))
    print(f"\n{time.perf_counter() - begun:.0f} s")
