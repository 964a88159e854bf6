"""The simulator in a process of its own; its account has the key that is given.

With `--record` the jobs that it has had are in that file when SIGTERM has ended it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

import uvloop

from proxy.simulator import Simulator, Switches
from proxy.translate import codec


async def serve(given: argparse.Namespace) -> None:
    """Answer until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    switches = Switches(pace=given.pace)
    async with Simulator(key=given.key, plan=given.plan, switches=switches) as simulator:
        print(simulator.base_url, flush=True)
        await ended.wait()
    if given.record is not None:
        given.record.write_bytes(codec.dump_bytes(jobs(simulator)))


def jobs(simulator: Simulator) -> list[dict[str, object]]:
    """What there was, in the order of arrival. Times are ms since 1970."""
    return [
        {
            "mark": job.extra_data.get("comfy_cloud_proxy", ""),
            "created": job.created,
            "started": job.started,
            "ended": job.ended,
        }
        for job in simulator.jobs.values()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("key")
    parser.add_argument("--plan", default="pro")
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--record", type=Path)
    uvloop.run(serve(parser.parse_args()))
