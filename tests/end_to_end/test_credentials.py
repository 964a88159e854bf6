"""The keys that clients send for their own jobs outlive a kill, and are readable by nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import gated
import graphs
import pytest
from backend import environment_of
from process import TIMEOUT, before, serving
from stack import Client

from proxy.simulator import Simulator
from proxy.storage.encryption import SECRET_FILE

LENT = "comfyui-lentbyaclient0123456789"
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("has_secret_file", [False, True])
async def test_a_waiting_job_has_its_client_s_key_after_a_kill(
    tmp_path: Path, has_secret_file: bool
) -> None:
    folder, setting = tmp_path / "data", {}
    if has_secret_file:
        (tmp_path / "secret").write_text(SECRET)
        setting["COMFY_PROXY_SECRET_FILE"] = str(tmp_path / "secret")
    opened = asyncio.Event()
    async with (
        Simulator(plan="standard", extra_nodes=[gated.gate(opened)]) as cloud,
        aiohttp.ClientSession() as session,
    ):
        environment = {**before(cloud), "COMFY_PROXY_SLOTS": "1", **setting}
        async with serving(folder, environment=environment) as process:
            await Client(session, process.url).submit(gated.GRAPH)
            waiting = await Client(session, process.url).submit(
                graphs.plain(), extra_data={"api_key_comfy_org": LENT}
            )
            await process.kill()
        kept = contents(folder)
        # What replicas share is in their database.
        assert (SECRET_FILE in kept) is not bool(setting or environment_of(folder))
        assert not any(LENT.encode() in data for data in kept.values())
        async with serving(folder, environment=environment) as process:
            client = Client(session, process.url)
            async with client.listening() as listener, asyncio.timeout(TIMEOUT):
                opened.set()
                while waiting not in (await client.get("history"))[1]:
                    await listener.next()
        lent = [job.extra_data["api_key_comfy_org"] for job in cloud.jobs.values()]
        assert lent.count(LENT) == 1
