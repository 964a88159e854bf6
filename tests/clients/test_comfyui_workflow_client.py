"""`comfyui-workflow-client`: one client that polls the history, one that follows a websocket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import pytest
from clients.workflows import saved
from PIL import Image
from yarl import URL

comfyuiclient = pytest.importorskip(
    "comfyuiclient", reason="comfyui-workflow-client is not installed"
)


def address(server: URL) -> str:
    return f"{server.host}:{server.port}"


async def generate(server: URL, path: Path, **pictures: Image.Image) -> dict[str, Any]:
    client = comfyuiclient.ComfyUIClientAsync(address(server), str(path))
    await client.connect()
    try:
        for node, picture in pictures.items():
            await client.set_data(node, image=picture)
        results: dict[str, Any] = await client.generate(["SaveImage", "PreviewImage", "PreviewAny"])
        return results
    finally:
        await client.close()


def test_the_polling_client_generates_a_picture(server: URL, tmp_path: Path) -> None:
    client = comfyuiclient.ComfyUIClient(address(server), str(saved(graphs.sampled(), tmp_path)))
    client.connect()
    client.set_data("KSampler", seed=2**64 - 1)
    client.set_data("CLIPTextEncode", text="Käthe, 世界")
    picture = client.generate(["SaveImage"])["SaveImage"]
    client.close()
    assert picture.size == (64, 64)


async def test_the_following_client_generates_a_picture(server: URL, tmp_path: Path) -> None:
    results = await generate(server, saved(graphs.sampled(5), tmp_path))
    assert results["SaveImage"].size == (64, 64)


async def test_each_upload_of_one_name_is_the_picture_that_was_sent(
    server: URL, tmp_path: Path
) -> None:
    path = saved(graphs.inverted("to be set"), tmp_path)
    inverses = []
    for color in ("red", "blue"):
        results = await generate(server, path, LoadImage=Image.new("RGB", (20, 30), color))
        inverses.append(results["SaveImage"].convert("RGB").getpixel((0, 0)))
    assert inverses == [(0, 255, 255), (255, 255, 0)]


async def test_texts_are_results_too(server: URL, tmp_path: Path) -> None:
    graph = {"1": {"class_type": "PreviewAny", "inputs": {"source": "hello"}}}
    assert await generate(server, saved(graph, tmp_path)) == {"PreviewAny": ["hello"]}


async def test_a_failed_run_ends_without_results(server: URL, tmp_path: Path) -> None:
    assert await generate(server, saved(graphs.raising(), tmp_path)) == {}


async def test_a_refused_workflow_is_a_connection_error(server: URL, tmp_path: Path) -> None:
    path = saved({"1": {"class_type": "Nope", "inputs": {}}}, tmp_path)
    with pytest.raises(ConnectionError, match="400"):
        await generate(server, path)
