"""What a client puts beside its graph comes back in all messages about the job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import graphs
from stack import Client, Listener, running_proxy

from proxy.simulator import Simulator

PREVIEWS = {"supports_preview_metadata": True}


def told(listener: Listener, prompt_id: str) -> list[dict[str, Any]]:
    """Return the data of the messages about a job."""
    return [
        data
        for kind, data in listener.received
        if kind != "binary" and data.get("prompt_id") == prompt_id
    ]


async def test_it_is_in_all_messages_about_the_job(simulator: Simulator, client: Client) -> None:
    async with client.listening(PREVIEWS) as listener:
        first = await client.submit(graphs.sampled(), workflow_metadata={"tab": "a", "node": "x"})
        second = await client.submit(
            graphs.plain(), extra_data={"extra_pnginfo": {"workflow": {"id": "w"}}}
        )
        await listener.until_end(first)
        await listener.until_end(second)
    assert {data["tab"] for data in told(listener, first)} == {"a"}
    kinds = {kind for kind, data in listener.received if kind != "binary" and "tab" in data}
    assert kinds >= {"execution_start", "execution_cached", "executing", "executed", "progress"}
    assert kinds >= {"progress_state", "execution_success"}
    assert all(data["node"] != "x" for data in listener.of("executing") + listener.of("progress"))
    assert {data["workflow_id"] for data in told(listener, second)} == {"w"}
    assert not any("workflow_id" in data for data in told(listener, first))
    frames = listener.of("binary")
    assert frames
    assert all(b'"tab": "a"' in frame for frame in frames)
    entry = await client.history(first)
    assert entry["prompt"][3]["workflow_metadata"] == {"tab": "a", "node": "x"}
    assert not any("tab" in data for _, data in entry["status"]["messages"])
    assert all("workflow_metadata" not in job.extra_data for job in simulator.jobs.values())


async def test_it_is_there_after_a_restart(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    simulator.switches.capacity_wait = 60.0
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        prompt_id = await client.submit(graphs.plain(), workflow_metadata={"tab": 7})
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url, client.client_id)
        async with client.listening() as listener:
            await client.post("interrupt")
            await listener.until_end(prompt_id)
    assert {data["tab"] for data in told(listener, prompt_id)} == {7}
