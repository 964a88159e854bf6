"""The official v2 server, comfy-api-proxy, as the deployment.

In front of it is a ComfyUI if `COMFYUI_URL` names one, else another proxy with the simulator, which
answers as one. Skipped where comfy-api-proxy is not installed; `COMFY_API_PROXY` can name it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import graphs
import pytest
from stack import TIMEOUT, Client, running_proxy

from proxy.settings import AccountSettings
from proxy.simulator import Simulator, Switches

COMMAND = os.environ.get("COMFY_API_PROXY") or shutil.which("comfy-api-proxy")
pytestmark = pytest.mark.skipif(COMMAND is None, reason="comfy-api-proxy is not installed")

KEY = "a-token-of-the-official-server"


@dataclass
class Official:
    """A proxy whose only account is an official server, and the address of what that is before."""

    client: Client
    comfyui: str


def free_port() -> int:
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@asynccontextmanager
async def served(comfyui: str) -> AsyncIterator[str]:
    """The official server in a process of its own."""
    assert COMMAND is not None
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *("run", "--comfyui", comfyui, "--port", str(port), "--token", KEY),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(TIMEOUT), aiohttp.ClientSession() as session:
            while True:
                try:
                    await session.get(f"{url}/api/v2/health")
                    break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)
        yield url
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def comfyui_like(folder: Path) -> AsyncIterator[str]:
    """The address of a ComfyUI, or of what answers as one."""
    if (named := os.environ.get("COMFYUI_URL")) is not None:
        yield named
        return
    async with (
        Simulator(switches=Switches(pace=0.05)) as simulator,
        running_proxy(simulator, folder / "behind") as behind,
    ):
        yield str(behind.url).rstrip("/")


@pytest.fixture
async def official(tmp_path: Path, session: aiohttp.ClientSession) -> AsyncIterator[Official]:
    async with comfyui_like(tmp_path) as comfyui, served(comfyui) as url, Simulator() as unused:
        (tmp_path / "key").write_text(KEY)
        table = AccountSettings(
            name="own",
            kind="deployment",
            base_url=url,
            key_file=tmp_path / "key",
            object_info=comfyui,
            slots=2,
        )
        async with running_proxy(unused, tmp_path / "data", accounts=(table,)) as proxy:
            client = Client(session, proxy.url)
            await client.until_ready()
            yield Official(client, comfyui)


async def test_a_job_has_the_life_of_a_local_server(official: Official) -> None:
    client = official.client
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


async def test_an_upload_is_loaded(official: Official) -> None:
    client = official.client
    await client.upload("cat.png", graphs.png((1, 2, 3)))
    entry = await client.run(graphs.inverted("cat.png"))
    assert entry["status"]["status_str"] == "success", entry["status"]


async def test_a_run_is_interrupted(official: Official) -> None:
    client = official.client
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.sampled(steps=2000))
        await listener.until("executing", prompt_id=prompt_id)
        await client.post("interrupt", {"prompt_id": prompt_id})
        await listener.until_end(prompt_id)
    assert listener.of("execution_interrupted")


async def test_jobs_one_after_the_other_all_succeed(official: Official) -> None:
    client = official.client
    ids = [await client.submit(graphs.plain(number)) for number in range(12)]
    entries = [await client.ended(prompt_id) for prompt_id in ids]
    assert {entry["status"]["status_str"] for entry in entries} == {"success"}
