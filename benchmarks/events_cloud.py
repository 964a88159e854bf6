"""The simulator with many accounts and a node that tells of its progress at a steady pace.

Nodes begin at SIGUSR1; those that start behind SIGUSR2 wait for the next one. The maximum of each
`progress` event, and the end of each preview, is when it was made (seconds since 1970).
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import signal
import struct
import time
from typing import Any

import uvloop
from PIL import Image

from proxy.simulator import NodeClass, Simulator, Switches
from proxy.simulator.nodes.node_class import Context, Output

KEY = "comfyui-benchmark-{}"
#: Steps of a job each second: each tells of its progress, and the last of each second has a preview
#: before it. That makes ten events a second.
PACE = 9
PREVIEW_BYTES = 50_000


begun = asyncio.Event()


def preview() -> bytes:
    """A JPEG of 50 kB; what stands behind its end is ours."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    return buffer.getvalue() + os.urandom(PREVIEW_BYTES - len(buffer.getvalue()) - 8)


async def tell(inputs: dict[str, Any], context: Context) -> Output:
    """Tell of progress for so many seconds, beginning anywhere in the first tick."""
    image = preview()
    await begun.wait()
    loop = asyncio.get_running_loop()
    due = loop.time() + (hash(context.node_id + str(inputs["seed"])) % 1000) / 1000 / PACE
    for number in range(int(inputs["seconds"]) * PACE):
        await asyncio.sleep(due - loop.time())
        if number % PACE == PACE - 1:
            context.picture(image + struct.pack("<d", time.time()))
        context.progress(number, time.time())
        due += 1 / PACE
    return Output(ui={"text": ["told"]})


NODE = NodeClass(
    "BenchmarkEvents",
    tell,
    required={"seconds": ["INT", {"default": 1}], "seed": ["INT", {"default": 0}]},
    output_node=True,
)


async def serve(given: argparse.Namespace) -> None:
    """Answer until SIGTERM."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGUSR1, begun.set)
    loop.add_signal_handler(signal.SIGUSR2, begun.clear)
    switches = Switches(progress_state="none", cache_nodes=False, notifications=False)
    simulator = Simulator(key=KEY.format(0), plan="pro", switches=switches, extra_nodes=[NODE])
    for number in range(1, given.accounts):
        simulator.add_account(KEY.format(number), "pro")
    async with simulator:
        print(simulator.base_url, flush=True)
        await ended.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=100)
    uvloop.run(serve(parser.parse_args()))
