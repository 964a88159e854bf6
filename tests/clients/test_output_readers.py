"""Programs that share folders with the ComfyUI beside them, and read its outputs there: Salad's
comfyui-api, and ai-dock's comfyui-api-wrapper.

Neither is in a package registry, so both run where they are installed: `comfyui-api` on the PATH,
and the command of the wrapper (`uvicorn --app-dir FOLDER main:app`) in COMFYUI_API_WRAPPER. The
calls that they make are recorded, and made again everywhere.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shlex
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from clients.recorded import Recorded, calls_of
from process import TIMEOUT, serving
from servers import free_port
from stack import Client
from yarl import URL

COMFYUI_API = shutil.which("comfyui-api")
WRAPPER = os.environ.get("COMFYUI_API_WRAPPER")


@asynccontextmanager
async def program(
    *command: str, environment: Mapping[str, str], ready: URL, folder: Path
) -> AsyncIterator[None]:
    """A program that runs until the block ends, once it answers at `ready`."""
    with (folder / "program.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **environment}, cwd=folder, stdout=log, stderr=log
        )
        try:
            async with asyncio.timeout(TIMEOUT), aiohttp.ClientSession() as session:
                while True:
                    assert process.returncode is None, (folder / "program.log").read_text()
                    try:
                        async with session.get(ready) as answer:
                            if answer.status == 200:
                                break
                    except aiohttp.ClientError:
                        pass
                    await asyncio.sleep(0.1)
            yield
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture
def comfy(tmp_path: Path) -> Path:
    """The folder of a ComfyUI, as the programs expect one."""
    home = tmp_path / "ComfyUI"
    for name in ("input", "models", "output"):
        (home / name).mkdir(parents=True)
    return home


@pytest.fixture
async def server(tmp_path: Path, comfy: Path) -> AsyncIterator[URL]:
    arguments = ("--simulate",)
    folders = (
        *("--output-directory", str(comfy / "output")),
        *("--input-directory", str(comfy / "input")),
    )
    async with serving(tmp_path / "data", *arguments, *folders) as process:
        yield process.url


async def post(url: URL, body: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        return answer.status, await answer.json()


@pytest.mark.skipif(COMFYUI_API is None, reason="Salad's comfyui-api is not installed")
async def test_salads_comfyui_api_returns_the_picture(
    server: URL, comfy: Path, tmp_path: Path
) -> None:
    here = URL(f"http://127.0.0.1:{free_port()}")
    environment = {
        "CMD": "sleep 600",  # in place of a local ComfyUI
        "DIRECT_ADDRESS": str(server.host),
        "COMFYUI_PORT_HOST": str(server.port),
        "COMFY_HOME": str(comfy),
        "WORKFLOW_DIR": str(tmp_path / "workflows"),
        "CACHE_DIR": str(tmp_path / "cache"),
        "HOST": str(here.host),
        "PORT": str(here.port),
    }
    async with program(
        str(COMFYUI_API), environment=environment, ready=here / "ready", folder=tmp_path
    ):
        status, answer = await post(here / "prompt", {"prompt": graphs.sampled(61)})
        # It writes a picture that it is sent to the input folder.
        sent = graphs.inverted(base64.b64encode(graphs.png()).decode())
        _, other = await post(here / "prompt", {"prompt": sent})
    assert status == 200, answer
    [picture] = answer["images"]
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert len(list((comfy / "input").iterdir())) == 1
    assert "images" in other, other
    [picture] = other["images"]
    assert base64.b64decode(picture).startswith(b"\x89PNG")


@pytest.mark.skipif(WRAPPER is None, reason="ai-dock's comfyui-api-wrapper is not installed")
async def test_ai_docks_wrapper_returns_the_output(
    server: URL, comfy: Path, tmp_path: Path
) -> None:
    here = URL(f"http://127.0.0.1:{free_port()}")
    environment = {"COMFYUI_API_BASE": str(server), "COMFYUI_INSTALL_PATH": str(comfy)}
    address = ("--host", str(here.host), "--port", str(here.port))
    async with program(
        *shlex.split(str(WRAPPER)),
        *address,
        environment=environment,
        ready=here / "queue-info",
        folder=tmp_path,
    ):
        body = {"input": {"workflow_json": graphs.sampled(62)}}
        _, answer = await post(here / "generate" / "sync", body)
    assert answer["status"] == "completed", answer
    [output] = answer["output"]
    [moved] = comfy.glob("output/*/ComfyUI_00001_.png")  # noqa: ASYNC240
    assert str(moved) == output["local_path"]
    assert moved.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["comfyui_api", "comfyui_api_wrapper"])
async def test_what_the_history_names_is_in_the_folder_at_once(
    server: URL, comfy: Path, name: str
) -> None:
    """Both read the files as soon as the history has the job, by their names alone."""
    async with aiohttp.ClientSession() as session, AsyncExitStack() as sockets:
        program, client = Recorded(session, server), Client(session, server)
        entry: dict[str, Any] = {}
        for call in calls_of(name):
            if "open" in call:
                client_id = call["open"].partition("clientId=")[2]
                await sockets.enter_async_context(client.listening(client_id=client_id))
            elif "close" in call:
                await sockets.aclose()
            elif call["path"].startswith("/history/") and not entry:
                async with asyncio.timeout(TIMEOUT):
                    while not (found := json.loads(await program.call(call))):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                entry = found[program.prompt_id]
                read = [
                    (comfy / "output" / item["filename"]).read_bytes()
                    for output in entry["outputs"].values()
                    for item in output["images"]
                ]
                assert [data[:4] for data in read] == [b"\x89PNG"]
            else:
                await program.call(call)
        assert entry["status"]["completed"]
