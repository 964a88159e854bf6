"""Clients of a gateway with members, with the token where docs/recipes.md puts it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import graphs
import pytest
from clients.conftest import BackgroundLoop
from clients.workflows import saved, titled
from process import command, serving
from yarl import URL

SCRIPT = Path(__file__).with_name("stable_canvas.mjs")
COMFY = shutil.which("comfy")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[URL, str]]:
    """Where a gateway listens, and the token of its member."""
    folder, loop = tmp_path_factory.mktemp("gateway"), BackgroundLoop()

    def proxy(*words: str) -> str:
        code, out, err = loop.run(command(*words, "--data-dir", str(folder)))
        assert code == 0, err
        return out.strip()

    proxy("member", "add", "anna")
    token = proxy("token", "new", "anna")
    manager = serving(folder, "--simulate")
    process = loop.run(manager.__aenter__())
    try:
        yield process.url, token
    finally:
        loop.run(manager.__aexit__(None, None, None))
        loop.close()


@pytest.fixture
def token(gateway: tuple[URL, str]) -> str:
    return gateway[1]


@pytest.fixture
def host(gateway: tuple[URL, str]) -> str:
    """The host and the port."""
    return gateway[0].authority


def test_the_command_run_takes_the_token_in_the_address(
    host: str, token: str, tmp_path: Path
) -> None:
    workflow = saved(graphs.sampled(91), tmp_path)
    for server in (f"http://{host}/t/{token}", f"http://x:{token}@{host}"):
        words = [sys.executable, "-m", "proxy", "run", str(workflow), "--server", server]
        words += ["--output", str(tmp_path / "pictures")]
        done = subprocess.run(words, capture_output=True, text=True, timeout=40, check=False)
        assert done.returncode == 0, done.stderr
        assert token not in done.stdout + done.stderr
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_a_script_takes_the_token_in_its_server_address(host: str, token: str) -> None:
    websocket = pytest.importorskip("websocket", reason="websocket-client is not installed")
    server_address = f"{host}/t/{token}"
    socket = websocket.create_connection(f"ws://{server_address}/ws?clientId=script", timeout=20)
    body = json.dumps({"prompt": graphs.sampled(92), "client_id": "script"}).encode()
    with urlopen(Request(f"http://{server_address}/prompt", data=body)) as answer:
        prompt_id = json.load(answer)["prompt_id"]
    events: list[Any] = []
    while not events or events[-1]["type"] != "executing" or events[-1]["data"]["node"] is not None:
        message = socket.recv()
        events += [json.loads(message)] if isinstance(message, str) else []
    socket.close()
    with urlopen(f"http://{server_address}/history/{prompt_id}") as answer:
        assert json.load(answer)[prompt_id]["status"]["status_str"] == "success"


def test_a_script_takes_the_token_in_a_header(host: str, token: str) -> None:
    websocket = pytest.importorskip("websocket", reason="websocket-client is not installed")
    header = {"Authorization": f"Bearer {token}"}
    socket = websocket.create_connection(f"ws://{host}/ws?clientId=me", header=header, timeout=20)
    assert json.loads(socket.recv())["type"] == "status"
    socket.close()


def test_comfy_api_simplified_takes_it_as_a_password(host: str, token: str) -> None:
    simplified = pytest.importorskip(
        "comfy_api_simplified", reason="comfy-api-simplified is not installed"
    )
    api = simplified.ComfyApiWrapper(f"http://{host}", user="x", password=token)
    flow = simplified.ComfyWorkflowWrapper(titled(graphs.sampled(93)))
    assert len(api.queue_and_wait_images(flow, "SaveImage")) == 1


async def test_comfyui_workflow_client_takes_it_in_the_address(
    host: str, token: str, tmp_path: Path
) -> None:
    clients = pytest.importorskip(
        "comfyuiclient", reason="comfyui-workflow-client is not installed"
    )
    path = str(saved(graphs.sampled(94), tmp_path))
    following = clients.ComfyUIClientAsync(f"{host}/t/{token}", path)
    await following.connect()
    try:
        assert (await following.generate(["SaveImage"]))["SaveImage"].size == (64, 64)
    finally:
        await following.close()
    polling = clients.ComfyUIClient(f"{host}/t/{token}", path)
    polling.connect()
    assert polling.generate(["SaveImage"])["SaveImage"].size == (64, 64)
    polling.close()


def test_stable_canvas_takes_it_in_its_login_plug_in(
    host: str, token: str, node_folder: Path
) -> None:
    script = shutil.copy(SCRIPT, node_folder)
    command = ["node", script, "websocket", host, token]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["files"] == [[200, "image/png"]] * 2
    assert answer["previews"] > 0


@pytest.mark.skipif(COMFY is None, reason="comfy-cli is not installed")
def test_comfy_cli_takes_it_as_the_key_of_its_cloud(host: str, token: str, tmp_path: Path) -> None:
    environment = os.environ | {
        "HOME": str(tmp_path),
        "DO_NOT_TRACK": "1",
        "COMFY_CLOUD_BASE_URL": f"http://{host}",
        "COMFY_CLOUD_API_KEY": token,
    }

    def comfy(*arguments: str) -> dict[str, Any]:
        command = [str(COMFY), "--skip-prompt", "--json", "--where", "cloud", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=50, check=False, env=environment
        )
        return dict(json.loads(done.stdout)["data"])

    ran = comfy("run", "--workflow", str(saved(graphs.sampled(95), tmp_path)), "--wait")
    assert ran["status"] == "completed"
    [file] = comfy("download", ran["prompt_id"], "--out-dir", str(tmp_path / "out"))["files"]
    assert Path(file["path"]).read_bytes().startswith(b"\x89PNG")
