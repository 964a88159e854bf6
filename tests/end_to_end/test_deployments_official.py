"""The official v2 server, comfy-api-proxy, as the deployment, before another proxy with the
simulator, which answers as a ComfyUI. Skipped where comfy-api-proxy is not installed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import graphs
import pytest
from official import COMMAND, client_of
from stack import Client, running_proxy

from proxy.simulator import Simulator, Switches

pytestmark = pytest.mark.skipif(COMMAND is None, reason="comfy-api-proxy is not installed")


@pytest.fixture
async def client(tmp_path: Path, session: aiohttp.ClientSession) -> AsyncIterator[Client]:
    async with (
        Simulator(switches=Switches(pace=0.05)) as simulator,
        running_proxy(simulator, tmp_path / "behind") as behind,
        client_of(str(behind.url).rstrip("/"), tmp_path / "front", session) as client,
    ):
        yield client


async def test_a_job_has_the_life_of_a_local_server(client: Client) -> None:
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.sampled(steps=30))
        await listener.until_end(prompt_id)
    types = listener.types()
    assert types[:2] == ["execution_start", "execution_cached"]
    assert types[-2:] == ["execution_success", "executing"]
    assert "progress" in types
    entry = await client.history(prompt_id)
    data = await client.view(entry["outputs"]["9"]["images"][0])
    assert data.startswith(b"\x89PNG")
    _, job = await client.get(f"api/jobs/{prompt_id}")
    # That server tells no times of a run: they are the proxy's own.
    assert 0 < job["execution_start_time"] <= job["execution_end_time"]


async def test_an_upload_is_loaded(client: Client) -> None:
    await client.upload("cat.png", graphs.png((1, 2, 3)))
    entry = await client.run(graphs.inverted("cat.png"))
    assert entry["status"]["status_str"] == "success", entry["status"]


async def test_a_run_is_interrupted(client: Client) -> None:
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.sampled(steps=2000))
        await listener.until("executing", prompt_id=prompt_id)
        await client.post("interrupt", {"prompt_id": prompt_id})
        await listener.until_end(prompt_id)
    assert listener.of("execution_interrupted")


async def test_jobs_one_after_the_other_all_succeed(client: Client) -> None:
    ids = [await client.submit(graphs.plain(number)) for number in range(12)]
    entries = [await client.ended(prompt_id) for prompt_id in ids]
    assert {entry["status"]["status_str"] for entry in entries} == {"success"}
