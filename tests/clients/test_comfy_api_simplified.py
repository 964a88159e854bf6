"""`comfy-api-simplified`: requests, and a websocket that it opens when it has submitted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import graphs
import pytest
from clients.workflows import over_the_websocket, titled
from PIL import Image
from yarl import URL

simplified = pytest.importorskip(
    "comfy_api_simplified", reason="comfy-api-simplified is not installed"
)


@pytest.fixture
def api(server: URL) -> Any:
    return simplified.ComfyApiWrapper(str(server))


def workflow(graph: dict[str, Any]) -> Any:
    return simplified.ComfyWorkflowWrapper(titled(graph))


def test_it_fetches_the_pictures_of_a_text_to_image_workflow(api: Any) -> None:
    flow = workflow(graphs.sampled(steps=4))
    flow.set_node_param("KSampler", "seed", 2**64 - 1)
    pictures = api.queue_and_wait_images(flow, "SaveImage")
    [(name, data)] = pictures.items()
    assert name.startswith("ComfyUI_")
    assert Image.open(io.BytesIO(data)).size == (64, 64)


def test_it_collects_pictures_from_the_websocket(api: Any) -> None:
    flow = workflow(over_the_websocket(graphs.sampled(7, steps=4)))
    pictures = api.queue_and_wait_images(flow, "SaveImageWebsocket")
    assert [Image.open(io.BytesIO(data)).format for data in pictures.values()] == ["PNG"]


def test_it_uploads_a_picture_and_loads_it(api: Any, tmp_path: Path) -> None:
    (tmp_path / "a photo.png").write_bytes(graphs.png((255, 0, 0)))
    named = api.upload_image(tmp_path / "a photo.png")
    flow = workflow(graphs.inverted(f"{named['subfolder']}/{named['name']}"))
    [data] = api.queue_and_wait_images(flow, "SaveImage").values()
    assert Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0)) == (0, 255, 255)


def test_it_sees_a_node_fail(api: Any) -> None:
    graph = graphs.raising()
    graph["4"] = {"class_type": "SimulatorWait", "inputs": {"value": ["1", 0], "seconds": 2.0}}
    graph["3"]["inputs"]["value"] = ["4", 0]  # for it opens its websocket when it has submitted
    with pytest.raises(simplified.ComfyApiError, match="Execution error"):
        api.queue_and_wait_images(workflow(graph), "SaveImage")


def test_it_sees_a_workflow_refused(api: Any) -> None:
    with pytest.raises(simplified.ComfyApiError, match="400"):
        api.queue_and_wait_images(workflow({"1": {"class_type": "Nope", "inputs": {}}}), "Nope")


def test_it_interrupts_what_runs(api: Any) -> None:
    prompt_id = api.queue_prompt(titled(graphs.waiting()))["prompt_id"]
    while api.get_queue_size_before(prompt_id) > 0:
        pass
    api.interrupt()
    while not (entry := api.get_history(prompt_id)):
        pass
    assert entry[prompt_id]["status"]["messages"][-1][0] == "execution_interrupted"


def test_it_asks_what_there_is(api: Any) -> None:
    assert "KSampler" in api.get_object_info()
    assert api.get_object_info("Nope") == {}
    assert api.get_system_stats()["devices"][0]["vram_total"] > 0
    assert "EasyNegative" in api.get_embeddings()
