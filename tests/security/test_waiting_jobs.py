"""Members whose waiting jobs are large, or many."""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path

import aiohttp
import graphs
import process
from security.attack import MEMBER, Target
from security.conftest import Start
from waiting import until

from proxy.simulator import Simulator

MB = 1024 * 1024
#: With what waits in memory, this much twice.
JOBS, TITLE = 24, 20 * MB
#: More than an account has.
SLOTS = 8
#: Objects of a graph, each of which takes 15 times its text in memory.
VALUES = 120_000


def packed(title: int) -> bytes:
    """A prompt that waits, whose node has a title of so many characters; packed, a few KB."""
    graph = graphs.waiting(600)
    next(iter(graph.values()))["_meta"] = {"title": "x" * title}
    return zlib.compress(json.dumps({"prompt": graph}).encode(), 9)


async def submit_large(target: Target) -> None:
    """Fill the slots of the account, and then the queue of Eve."""
    for _ in range(SLOTS):
        assert await target.request("POST", "prompt", json={"prompt": graphs.waiting(600)}) == 200
    headers = {"Content-Encoding": "deflate", "Content-Type": "application/json"}
    body = packed(TITLE)
    for _ in range(JOBS):
        assert await target.request("POST", "prompt", data=body, headers=headers) == 200


def memory(pid: int, name: str) -> int:
    """`VmRSS` or `VmHWM` (the highest) of a process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


async def test_large_waiting_jobs_are_not_in_memory_also_after_a_restart(
    start: Start, simulator: Simulator, tmp_path: Path
) -> None:
    async with start() as target:
        before = memory(target.process.process.pid, "VmRSS")
        async with target.attacked_by(MEMBER):
            await submit_large(target)
        await target.process.stop()
    async with process.serving(tmp_path / "data", environment=process.before(simulator)) as again:
        token = target.tokens["eve"]
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
            session.get(again.url / "queue") as answer,
        ):
            shown = 0
            async for piece in answer.content.iter_any():
                shown += len(piece)
        assert shown > JOBS * TITLE
        assert memory(again.process.pid, "VmHWM") - before < 400 * MB


async def test_jobs_with_megabytes_of_extra_data(start: Start, tmp_path: Path) -> None:
    """A member has a share of what is stored of jobs that have not ended."""
    body = {"prompt": graphs.waiting(600), "extra_data": {"data": "x" * 14 * MB}}
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    async with start() as target, target.attacked_by(MEMBER):
        for _ in range(SLOTS):
            small = {"prompt": graphs.waiting(600)}
            assert await target.request("POST", "prompt", json=small) == 200
        answers = [
            await target.request("POST", "prompt", data=io.BytesIO(data), headers=headers)
            for _ in range(48)
        ]
    taken = answers.count(200)
    assert set(answers) == {200, 429}
    assert taken * 14 * MB <= 512 * MB
    stored = sum(path.stat().st_size for path in (tmp_path / "data").rglob("proxy.db*"))
    assert stored < 700 * MB


async def test_graphs_of_running_jobs_have_a_share_of_memory(
    start: Start, simulator: Simulator
) -> None:
    graph = graphs.waiting(600)
    graph["1"]["inputs"]["more"] = [{"a": number} for number in range(VALUES)]
    body, headers = json.dumps({"prompt": graph}).encode(), {"Content-Type": "application/json"}
    async with start("--slots", "12") as target, target.attacked_by(MEMBER):
        for number in range(12):
            answer = await target.request("POST", "prompt", data=io.BytesIO(body), headers=headers)
            assert answer == 200
            # What runs holds memory beside the next requests.
            running = min(number + 1, 2)
            await until(lambda running=running: len(simulator.jobs) >= running)
    assert 0 < len(simulator.jobs) < 12
