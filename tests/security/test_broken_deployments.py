"""A deployment that floods the streams of its jobs, and one whose jobs have very many texts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from broken_cloud import broken_cloud
from deployments import Place, framed
from process import TIMEOUT
from security.attack import CLOUD, Target
from security.conftest import Start
from waiting import until

from proxy.simulator import Simulator
from proxy.simulator.deployment import SimulatedDeployment
from proxy.simulator.nodes import Context, NodeClass, Output

#: Variables of a proxy whose accounts are in a file.
NO_KEY = {"COMFY_CLOUD_API_KEY": "", "COMFY_CLOUD_BASE_URL": ""}
#: Texts of a job, bytes of each, and jobs.
TEXTS, TEXT_BYTES, JOBS = 500, 1024 * 1024, 3
#: Bytes of small frames on the stream of each job, and bytes that are written at once.
FLOOD, PIECE = 4 * 1024 * 1024, 256 * 1024


def progress(number: int) -> str:
    data = {"value": 0.5, "nodes_total": 3, "current_node": "2", "step": number, "steps": 1_000_000}
    return f"event: progress\ndata: {json.dumps(data)}\n\n"


FRAMES = {
    "other steps": "".join(map(progress, range(2000))),
    "the same step": progress(1),
    "other nodes": progress(1) + progress(1).replace('"2"', '"1"'),
    "no JSON": "event: progress\ndata: x\n\n",
    "outputs": 'event: output\ndata: {"id": "a", "node_id": "3"}\n\n',
    "comments": ":\n",
}


async def submit(target: Target, graph: dict[str, Any]) -> str:
    body = {"prompt": graph}
    async with (
        aiohttp.ClientSession(headers=target.bearer()) as session,
        session.post(target.url / "prompt", json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["prompt_id"])


async def until_ended(target: Target, ids: list[str]) -> list[dict[str, Any]]:
    """The entries of the jobs."""
    async with aiohttp.ClientSession(headers=target.bearer()) as session, asyncio.timeout(TIMEOUT):
        found = []
        for id_ in ids:
            while True:
                async with session.get(target.url / "history" / id_) as answer:
                    if entry := (await answer.json()).get(id_):
                        found.append(entry)
                        break
                await asyncio.sleep(0.1)
        return found


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
async def test_a_flood_of_frames(
    simulator: Simulator, deployment: SimulatedDeployment, start: Start, tmp_path: Path, frame: str
) -> None:
    """On the streams of four jobs, which run until it is over."""
    piece = frame.encode() * (PIECE // len(frame))
    flooded = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal flooded
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b'event: status\ndata: {"status": "running"}\n\n')
        for _ in range(FLOOD // PIECE):
            await answer.write(piece)
        flooded += 1
        return answer

    deployment.switches.pace = 1000.0
    async with broken_cloud(deployment) as broken:
        broken.replace(r"GET /api/v2/jobs/[^/]+/events", flood)
        (tmp_path / "object_info.json").write_bytes(deployment.object_info)
        async with aiohttp.ClientSession() as session:
            path = Place(simulator, broken, tmp_path, session).config(slots=4)
            async with (
                start("--config", str(path), environment=NO_KEY) as target,
                target.attacked_by(CLOUD),
            ):
                for color in range(4):
                    await submit(target, framed(color))
                await until(lambda: flooded >= 4)


async def _texts(_inputs: dict[str, Any], _context: Context) -> Output:
    return Output(ui={"text": ["x" * TEXT_BYTES] * TEXTS})


async def test_very_many_texts(simulator: Simulator, start: Start, tmp_path: Path) -> None:
    texts = NodeClass("ManyTexts", _texts, output_node=True)
    async with (
        SimulatedDeployment(extra_nodes=[texts]) as deployment,
        aiohttp.ClientSession() as session,
    ):
        path = Place(simulator, deployment, tmp_path, session).config(slots=2)
        async with (
            start("--config", str(path), environment=NO_KEY) as target,
            target.attacked_by(CLOUD),
        ):
            graph = {"1": {"class_type": "ManyTexts", "inputs": {}}}
            ids = [await submit(target, graph) for _ in range(JOBS)]
            entries = await until_ended(target, ids)
    for entry in entries:
        assert entry["status"]["completed"]
        assert 10 < len(entry["outputs"]["1"]["text"]) <= 16
