"""A key and a signature that must be found nowhere but where they belong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from process import Process, serving
from stack import Client

from proxy.simulator import HttpFault, Simulator
from proxy.simulator.nodes import NodeClass
from proxy.simulator.nodes.node_class import Context, Output

CANARY = "comfyui-c4n4ry0123456789abcdefghijklmnopqrstuvwxyz"


async def _leak(inputs: dict[str, Any], _context: Context) -> Output:
    """A node that shows whatever secret it is given: in its output, or in its failure."""
    key = inputs["api_key_comfy_org"]
    if inputs["fail"]:
        raise ValueError(f"the key was {key}")
    return Output(ui={"text": [f"the key is {key}"], key: [key]})


LEAKING = NodeClass(
    "TestLeak",
    _leak,
    required={"fail": ["BOOLEAN", {}]},
    hidden={"api_key_comfy_org": "API_KEY_COMFY_ORG"},
    output_node=True,
)


class Recorder:
    """Every byte that clients were sent."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.trace = aiohttp.TraceConfig()
        self.trace.on_response_chunk_received.append(self._chunk)
        self.trace.on_request_end.append(self._end)

    async def _chunk(self, _session: Any, _context: Any, params: Any) -> None:
        self.seen.append(params.chunk)

    async def _end(self, _session: Any, _context: Any, params: Any) -> None:
        self.seen.append(str(params.response.headers).encode())


@pytest.fixture
async def canary_cloud() -> AsyncIterator[Simulator]:
    async with Simulator(key=CANARY, extra_nodes=[LEAKING]) as running:
        yield running


async def _live_through_everything(
    client: Client, simulator: Simulator, received: list[bytes]
) -> None:
    async with client.listening({"supports_preview_metadata": True}) as listener:
        await client.upload("cat.png", graphs.png())
        await _run(client, listener, graphs.inverted("cat.png"))
        await _run(client, listener, graphs.sampled())
        await _run(client, listener, graphs.raising())
        for fail in (False, True):
            leak = {"1": {"class_type": "TestLeak", "inputs": {"fail": fail}}}
            await _run(client, listener, leak)
            own = {"api_key_comfy_org": "comfyui-theclientsown000000", "auth_token_comfy_org": ""}
            await _run(client, listener, leak, extra_data=own)
        for _, data in listener.received:
            received.append(data if isinstance(data, bytes) else json.dumps(data).encode())
    for path in (
        "queue",
        "history",
        "api/jobs",
        "object_info",
        "system_stats",
        "features",
        "models",
    ):
        await client.get(path)
    for job in (await client.get("history"))[1].values():
        for output in job["outputs"].values():
            for item in output.get("images", []):
                await client.view(item)
                await client.view(item, preview="webp;75")
    await client.post("prompt", {"prompt": {}})
    await client.post("prompt", {"prompt": {"1": {"class_type": "None", "inputs": {}}}})
    simulator.faults.add(HttpFault("GET storage", reset=True), times=2)
    await simulator.close_sockets()
    await client.run(graphs.plain(5, size=16))
    for status in (500, 403, 401):
        body = json.dumps({"code": "X", "message": f"your key {CANARY} is odd"})
        simulator.faults.add(HttpFault("POST /api/prompt", status=status, body=body))
        await client.post("prompt", {"prompt": graphs.plain(status)})


async def _run(client: Client, listener: Any, graph: dict[str, Any], **fields: Any) -> None:
    await listener.until_end(await client.submit(graph, **fields))


def _everything(process: Process, folder: Path, seen: list[bytes]) -> dict[str, bytes]:
    found = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found["clients"] = b"\n".join(seen)
    found["log"] = b"".join(process.said)
    return found


async def test_the_key_is_found_nowhere(canary_cloud: Simulator, tmp_path: Path) -> None:
    recorder = Recorder()
    environment = {
        "COMFY_CLOUD_API_KEY": CANARY,
        "COMFY_CLOUD_BASE_URL": str(canary_cloud.base_url),
        "COMFY_PROXY_LOG_LEVEL": "debug",
        "COMFY_PROXY_LOG_FORMAT": "json",
    }
    received: list[bytes] = []
    async with (
        serving(tmp_path, environment=environment) as process,
        aiohttp.ClientSession(trace_configs=[recorder.trace]) as session,
    ):
        client = Client(session, process.url)
        await _live_through_everything(client, canary_cloud, received)
        assert await process.stop() == 0
        found = _everything(process, tmp_path, [*recorder.seen, *received])
    assert b"job_ended" in found["log"]
    assert b"the key is [REDACTED]" in found["clients"]
    for place, data in found.items():
        assert CANARY.encode() not in data, place
        assert b"theclientsown" not in data, place
        assert b"X-Goog-Signature" not in data, place
    assert canary_cloud.storage.requests
    assert canary_cloud.leaks == []
    assert not any(CANARY in str(request) for request in canary_cloud.storage.requests)
