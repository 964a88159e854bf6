"""Programs that were written for Comfy Cloud, with the proxy's address in place of the cloud's.

`CloudProgram` does what the quick start of the cloud's documentation does, step by step: each
request carries `X-API-Key`, jobs are submitted without `client_id`, and a file is fetched in two
steps from where a 302 points.
"""

from __future__ import annotations

import asyncio
import io
import json
import uuid
from collections.abc import Iterator
from typing import Any

import aiohttp
import graphs
import pytest
from PIL import Image
from quiet import logging_restored
from stack import TIMEOUT, Client, Proxy

from proxy import logging as logs
from proxy.simulator import Simulator

API_KEY = "comfyui-the-programs-own-0123456789abcdef"


class JobFailedError(Exception):
    """The job ended, and not well."""


class CloudProgram:
    """A program that knows nothing of proxies."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self.session = session
        self.base_url = base_url
        self.headers = {"X-API-Key": API_KEY}

    async def read(self, path: str, **query: str) -> Any:
        url = f"{self.base_url}{path}"
        async with self.session.get(url, params=query, headers=self.headers) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def upload(self, name: str, data: bytes) -> str:
        form = aiohttp.FormData({"type": "input", "overwrite": "true"})
        form.add_field("image", data, filename=name)
        url = f"{self.base_url}/api/upload/image"
        async with self.session.post(url, data=form, headers=self.headers) as answer:
            answer.raise_for_status()
            return str((await answer.json())["name"])

    async def submit(self, workflow: dict[str, Any]) -> str:
        url = f"{self.base_url}/api/prompt"
        body = {"prompt": workflow}
        async with self.session.post(url, json=body, headers=self.headers) as answer:
            answer.raise_for_status()
            result = await answer.json()
        assert "error" not in result
        return str(result["prompt_id"])

    async def poll(self, prompt_id: str) -> None:
        async with asyncio.timeout(TIMEOUT):
            while True:
                status = (await self.read(f"/api/job/{prompt_id}/status"))["status"]
                if status == "completed":
                    return
                if status in ("failed", "cancelled"):
                    raise JobFailedError(status)
                await asyncio.sleep(0.02)

    async def outputs(self, prompt_id: str) -> dict[str, Any]:
        return dict((await self.read(f"/api/jobs/{prompt_id}"))["outputs"])

    def listen(self) -> Any:
        url = self.base_url.replace("https://", "wss://")
        return self.session.ws_connect(f"{url}/ws?clientId={uuid.uuid4()}&token={API_KEY}")

    async def follow(self, socket: Any, prompt_id: str) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        async with asyncio.timeout(TIMEOUT):
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                event = json.loads(message.data)
                data = event.get("data", {})
                if data.get("prompt_id") != prompt_id:
                    continue
                match event["type"]:
                    case "executed" if data.get("output"):
                        outputs[data["node"]] = data["output"]
                    case "execution_success":
                        return outputs
                    case "execution_error":
                        raise JobFailedError(data["exception_message"])
        raise ConnectionError("the socket closed before the job ended")

    async def download(self, file: dict[str, str]) -> bytes:
        query = {key: file.get(key, "") for key in ("filename", "subfolder", "type")}
        async with self.session.get(
            f"{self.base_url}/api/view", params=query, headers=self.headers, allow_redirects=False
        ) as answer:
            assert answer.status == 302
            address = answer.headers["Location"]
        async with self.session.get(address) as answer:
            answer.raise_for_status()
            return await answer.read()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that the process logs, down to the smallest thing."""
    lines = io.StringIO()
    with logging_restored():
        logs.configure(stream=lines, log_level="debug")
        yield lines


@pytest.fixture
async def program(log: io.StringIO, proxy: Proxy, session: aiohttp.ClientSession) -> CloudProgram:
    return CloudProgram(session, str(proxy.url).rstrip("/"))


async def test_submit_poll_and_download(program: CloudProgram) -> None:
    assert (await program.read("/api/user"))["status"] == "active"
    name = await program.upload("cat.png", graphs.png((10, 20, 30)))
    prompt_id = await program.submit(graphs.inverted(name))
    await program.poll(prompt_id)
    outputs = await program.outputs(prompt_id)
    picture = Image.open(io.BytesIO(await program.download(outputs["4"]["images"][0])))
    assert picture.convert("RGB").getpixel((0, 0)) == (245, 235, 225)


async def test_submit_listen_and_download(program: CloudProgram) -> None:
    prompt_id = await program.submit(graphs.waiting(1.5))
    async with program.listen() as socket:
        outputs = await program.follow(socket, prompt_id)
    assert outputs == await program.outputs(prompt_id)
    data = await program.download(outputs["3"]["images"][0])
    assert Image.open(io.BytesIO(data)).size == (8, 8)


async def test_a_failure_is_reported_both_ways(program: CloudProgram) -> None:
    async with program.listen() as socket:
        prompt_id = await program.submit(graphs.raising())
        with pytest.raises(JobFailedError, match="boom"):
            await program.follow(socket, prompt_id)
    with pytest.raises(JobFailedError, match="failed"):
        await program.poll(prompt_id)
    status = await program.read(f"/api/job/{prompt_id}/status")
    assert json.loads(status["error_message"])["node_id"] == "3"


async def test_the_states_of_a_job_that_is_cancelled(program: CloudProgram, client: Client) -> None:
    async with program.listen() as socket:
        prompt_id = await program.submit(graphs.waiting())
        first = await program.read(f"/api/job/{prompt_id}/status")
        assert first["status"] in ("pending", "in_progress")
        async for message in socket:
            if json.loads(message.data)["type"] == "execution_start":
                break
    assert (await program.read(f"/api/job/{prompt_id}/status"))["status"] == "in_progress"
    await client.post(f"api/jobs/{prompt_id}/cancel")
    with pytest.raises(JobFailedError, match="cancelled"):
        await program.poll(prompt_id)


async def test_the_history_and_the_assets_of_a_job(program: CloudProgram) -> None:
    ids = []
    for color in (1, 2):
        ids.append(await program.submit(graphs.plain(color)))
        await program.poll(ids[-1])
    history = (await program.read("/api/history_v2"))["history"]
    assert [entry["prompt_id"] for entry in history] == ids[::-1]
    assert len((await program.read("/api/history_v2", max_items="1", offset="1"))["history"]) == 1
    detail = (await program.read(f"/api/history_v2/{ids[0]}"))[ids[0]]
    assert detail["prompt"]["prompt"] == graphs.plain(1)
    assert detail["outputs"] == history[1]["outputs"]
    (asset,) = (await program.read(f"/api/jobs/{ids[0]}/assets"))["assets"]
    assert (asset["name"], asset["node_id"]) == ("ComfyUI_00001_.png", "2")
    async with program.session.get(f"{program.base_url}{asset['preview_url']}") as picture:
        assert picture.headers["Content-Type"] == asset["mime_type"] == "image/png"


async def test_local_sockets_keep_the_local_rule(program: CloudProgram, client: Client) -> None:
    async with client.listening() as local, program.listen() as socket:
        prompt_id = await program.submit(graphs.plain())
        await program.follow(socket, prompt_id)
        await local.until("status", status={"exec_info": {"queue_remaining": 0}})
    assert set(local.types()) <= {"progress_state", "progress"}


async def test_the_programs_key_goes_nowhere(
    program: CloudProgram, simulator: Simulator, log: io.StringIO
) -> None:
    async with program.listen() as socket:
        prompt_id = await program.submit(graphs.plain())
        outputs = await program.follow(socket, prompt_id)
    await program.download(outputs["2"]["images"][0])
    assert prompt_id in log.getvalue()
    assert API_KEY not in log.getvalue()
    assert API_KEY not in repr([*simulator.requests, *simulator.storage.requests])
    answered = {
        request.status
        for request in simulator.requests
        if not request.path.startswith(("/api/billing/", "/api/workspaces/"))  # not for keys
    }
    assert answered <= {0, 101, 200, 302}
    assert simulator.leaks == []
