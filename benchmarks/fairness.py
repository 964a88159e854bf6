"""Fair turns: twenty members of unequal greed share one account of five slots.

    python benchmarks/fairness.py [--jobs 1000]

The proxy and the cloud (the simulator) run in processes of their own, and each member is a client
with a websocket. All members call their websocket the same, and every graph has its member's marker
in its node ids, texts and file names, so that whatever reaches the wrong one is seen. Prints tables
in Markdown; ends with 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
from shares import Turn, dues, utilisation, windows
from team import CloudJob, running, session
from yarl import URL

SLOTS = 5
#: Seconds of a sampling step; a job has 3 to 6.
PACE = 0.1
#: Seconds of the windows in which turns are compared, and between their beginnings.
WINDOW, STEP = 10.0, 1.0
#: The least fairness index of any window, and the least use of the slots.
FAIR, USED = 0.95, 0.95
#: Seconds after which everything is given up.
BOUND = 540.0
#: Seconds after which those come that come late.
LATE = 25.0
#: Seconds between the jobs of those that send one now and then.
NOW_AND_THEN = 3.0
#: How many jobs a steady member has under way.
UNDER_WAY = 4

Habit = Literal["all at once", "steady", "now and then", "late"]

#: Who there is: how many members, and what and how many of a thousand jobs each has.
GROUPS: list[tuple[int, Habit, int]] = [
    (1, "all at once", 240),
    (4, "all at once", 80),
    (8, "steady", 35),
    (4, "now and then", 20),
    (2, "late", 28),
    (1, "late", 24),
]
TEAM = [(habit, jobs) for count, habit, jobs in GROUPS for _ in range(count)]
_MARKER = re.compile(rb"zq\d\dzq")
_ENDS = frozenset({"execution_success", "execution_error", "execution_interrupted"})


def graph(marker: str, number: int, steps: int) -> dict[str, Any]:
    """The workflow that every ComfyUI opens with, small, with a marker wherever one can be."""

    def node(name: str, class_type: str, **inputs: Any) -> tuple[str, dict[str, Any]]:
        linked = {
            key: [f"{marker}-{value[0]}", value[1]] if isinstance(value, tuple) else value
            for key, value in inputs.items()
        }
        return f"{marker}-{name}", {"class_type": class_type, "inputs": linked}

    sampling = {"seed": number, "steps": steps, "cfg": 8, "sampler_name": "euler"}
    return dict(
        [
            node(
                "model",
                "CheckpointLoaderSimple",
                ckpt_name="v1-5-pruned-emaonly-fp16.safetensors",
            ),
            node("size", "EmptyLatentImage", width=64, height=64, batch_size=1),
            node("text", "CLIPTextEncode", text=f"a cat {marker}", clip=("model", 1)),
            node(
                "sampler",
                "KSampler",
                **sampling,
                scheduler="normal",
                denoise=1,
                model=("model", 0),
                positive=("text", 0),
                negative=("text", 0),
                latent_image=("size", 0),
            ),
            node("picture", "VAEDecode", samples=("sampler", 0), vae=("model", 2)),
            node("saved", "SaveImage", filename_prefix=marker, images=("picture", 0)),
        ]
    )


@dataclass
class Client:
    """A member's program: when it sent and had what (seconds since 1970), and what it heard."""

    name: str
    marker: str
    habit: Habit
    jobs: int
    token: str
    url: URL
    rng: random.Random
    sent: dict[str, tuple[float, float]] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    heard_of: Counter[str] = field(default_factory=Counter)
    strange: list[bytes] = field(default_factory=list)
    previews: int = 0

    async def run(self) -> None:
        """Send all jobs, as its habit is, and listen until each has ended."""
        ended = asyncio.Semaphore(UNDER_WAY)
        url = (self.url / "ws").with_query(clientId="shared")
        async with session(self.token) as http, http.ws_connect(url) as socket:
            flags = {"supports_preview_metadata": True}
            await socket.send_json({"type": "feature_flags", "data": flags})
            listening = asyncio.create_task(self._listen(socket, ended))
            try:
                await self._send_all(http, ended)
                await listening
            finally:
                listening.cancel()

    async def _send_all(self, http: aiohttp.ClientSession, ended: asyncio.Semaphore) -> None:
        if self.habit in ("all at once", "late"):
            await asyncio.sleep(LATE if self.habit == "late" else 0.0)
            await asyncio.gather(*(self._send(http, number) for number in range(self.jobs)))
            return
        for number in range(self.jobs):
            if self.habit == "steady":
                await ended.acquire()
            else:
                await asyncio.sleep(NOW_AND_THEN * self.rng.uniform(0.5, 1.5))
            await self._send(http, number)

    async def _send(self, http: aiohttp.ClientSession, number: int) -> None:
        body = {
            "prompt": graph(self.marker, number, self.rng.randint(3, 6)),
            "client_id": "shared",
        }
        begun = time.time()
        async with http.post(self.url / "prompt", json=body) as answer:
            parsed = await answer.json()
            if answer.status != 200:
                raise RuntimeError(f"{self.name}: {answer.status} {parsed}")
        self.sent[parsed["prompt_id"]] = begun, time.time()

    async def _listen(
        self, socket: aiohttp.ClientWebSocketResponse, ended: asyncio.Semaphore
    ) -> None:
        async for message in socket:
            binary = message.type is aiohttp.WSMsgType.BINARY
            data: bytes = message.data if binary else message.data.encode()
            if any(found != self.marker.encode() for found in _MARKER.findall(data)):
                self.strange.append(data)
            if binary:
                self.previews += 1
                continue
            parsed = json.loads(data)
            prompt_id = parsed["data"].get("prompt_id")
            if prompt_id is None:
                continue
            self.heard_of[prompt_id] += 1
            if parsed["type"] in _ENDS:
                self.ends[prompt_id] += 1
                ended.release()
                if len(self.ends) == self.jobs:
                    return
        raise RuntimeError(f"{self.name}: the socket was closed")

    def faults(self) -> list[str]:
        """What the member heard and should not have, or not so often."""
        others = sum(prompt_id not in self.sent for prompt_id in self.heard_of)
        faults = {
            "messages with another's marker": len(self.strange),
            "jobs of others heard of": others,
            "jobs without an end": sum(prompt_id not in self.ends for prompt_id in self.sent),
            "jobs that ended twice": sum(count > 1 for count in self.ends.values()),
            "jobs without a preview": int(self.previews < self.jobs),
        }
        return [f"{self.name}: {count} {what}" for what, count in faults.items() if count]


def turns_of(clients: list[Client], cloud_jobs: list[CloudJob]) -> list[Turn]:
    """What the clients sent beside what the cloud had, in the order in which it came there."""
    sent = {(client.name, id_): at for client in clients for id_, at in client.sent.items()}
    return [
        Turn(job.member, *sent[job.member, job.prompt_id], job.arrived, job.started, job.ended)
        for job in cloud_jobs
    ]


def percentile(values: list[float]) -> float:
    """The 95th."""
    return statistics.quantiles(values, n=20)[18] if len(values) > 1 else values[0]


def print_members(clients: list[Client], turns: list[Turn]) -> None:
    """A line for each member."""
    shares = dues(turns)
    print("| member | sends | jobs | share of the turns while it waited | due | ", end="")
    print("waits, s (median) | (95 %) |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for client in clients:
        waits = [turn.started - turn.sent for turn in turns if turn.member == client.name]
        had, due = (f"{share:.1%}" for share in shares.get(client.name, (1.0, 1.0)))
        print(f"| {client.name} | {client.habit} | {len(waits)} | {had} | {due} | ", end="")
        print(f"{statistics.median(waits):.1f} | {percentile(waits):.1f} |")


def print_sums(clients: list[Client], turns: list[Turn]) -> list[str]:
    """The sums; which bounds were missed."""
    found = list(windows(turns, WINDOW, STEP))
    indices = [index for _, index in found]
    used = utilisation(turns, SLOTS)
    submissions = [1000 * (turn.taken - turn.sent) for turn in turns]
    received = sum(sum(client.heard_of.values()) + client.previews for client in clients)
    faults = [fault for client in clients for fault in client.faults()]
    seconds = max(turn.ended for turn in turns) - min(turn.sent for turn in turns)
    print("\n| | |")
    print("|---|---:|")
    print(f"| jobs, of {len(clients)} members, on {SLOTS} slots | {len(turns)} |")
    print(f"| seconds | {seconds:.0f} |")
    print(f"| windows of {WINDOW:.0f} s in which several waited throughout | {len(found)} |")
    print(f"| Jain's index of the turns in them, least (bound {FAIR}) | {min(indices):.3f} |")
    print(f"| Jain's index, median | {statistics.median(indices):.3f} |")
    print(f"| slots in use while anything waited (bound {USED}) | {used:.3f} |")
    print(f"| `POST /prompt`, ms (median) | {statistics.median(submissions):.0f} |")
    print(f"| `POST /prompt`, ms (95 %) | {percentile(submissions):.0f} |")
    print(f"| messages received | {received} |")
    print(f"| of another member, lost or doubled | {len(faults)} |")
    if min(indices) < FAIR:
        at, index = min(found, key=lambda each: each[1])
        faults.append(f"the fairness index is {index:.3f} in the window from second {at:.0f}")
    if used < USED:
        faults.append(f"only {used:.3f} of the slots were in use")
    if len(turns) != sum(client.jobs for client in clients):
        faults.append(f"the cloud had {len(turns)} jobs")
    return faults


async def main(given: argparse.Namespace) -> int:
    """Run, and print the tables."""
    rng = random.Random(given.seed)
    names = [f"m{number:02}" for number in range(len(TEAM))]
    with tempfile.TemporaryDirectory() as folder:
        async with (
            asyncio.timeout(BOUND),
            running(Path(folder), names, "--slots", str(SLOTS), pace=PACE) as shop,
        ):
            clients = [
                Client(
                    name,
                    f"zq{name[1:]}zq",
                    habit,
                    max(1, jobs * given.jobs // 1000),
                    shop.tokens[name],
                    shop.url,
                    random.Random(rng.random()),
                )
                for name, (habit, jobs) in zip(names, TEAM, strict=True)
            ]
            await asyncio.gather(*(client.run() for client in clients))
        turns = turns_of(clients, shop.cloud_jobs())
    print_members(clients, turns)
    faults = print_sums(clients, turns)
    for fault in faults:
        print(f"MISSED: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    sys.exit(asyncio.run(main(parser.parse_args())))
