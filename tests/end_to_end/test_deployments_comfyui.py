"""A real ComfyUI with real node packs behind the official v2 server, as the deployment.

`COMFYUI` names its folder (see `official`); the packs are ComfyUI_Comfyroll_CustomNodes, ComfyMath,
ComfyUI-Custom-Scripts and ComfyUI-VideoHelperSuite. A test whose pack is missing is skipped.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from official import COMFYUI, COMMAND, client_of, comfyui
from PIL import Image
from process import command
from stack import Client

pytestmark = [
    pytest.mark.skipif(COMFYUI is None, reason="COMFYUI names no ComfyUI"),
    pytest.mark.skipif(COMMAND is None, reason="comfy-api-proxy is not installed"),
]

GOLD, RED = (255, 215, 0), (255, 0, 0)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with comfyui(tmp_path_factory.mktemp("comfyui")) as url:
        yield url


@pytest.fixture
async def client(
    behind: str, tmp_path: Path, session: aiohttp.ClientSession
) -> AsyncIterator[Client]:
    async with client_of(behind, tmp_path / "front", session) as opened:
        yield opened


async def installed(client: Client, *classes: str) -> None:
    """Skip the test unless the ComfyUI has these classes."""
    for name in classes:
        _, found = await client.get(f"object_info/{name}")
        if not found:
            pytest.skip(f"{name} is not installed")


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def bordered(width: int = 3) -> dict[str, Any]:
    """A red panel in a border of Comfyroll's, whose width ComfyMath adds up."""
    edges = {f"{edge}_thickness": ["2", 0] for edge in ("top", "bottom", "left", "right")}
    return {
        "1": node("CR Color Panel", panel_width=64, panel_height=32, fill_color="red"),
        "2": node("CM_IntBinaryOperation", op="Add", a=width, b=5),
        "3": node(
            "CR Image Border",
            image=["1", 0],
            **edges,
            border_color="gold",
            outline_thickness=0,
            outline_color="white",
        ),
        "4": node("SaveImage", images=["3", 0], filename_prefix="packs/bordered"),
    }


PACKS = ("CR Color Panel", "CR Image Border", "CM_IntBinaryOperation")


def picture(data: bytes) -> Image.Image:
    """A picture in three channels."""
    return Image.open(io.BytesIO(data)).convert("RGB")


async def test_nodes_of_packs_make_a_picture(client: Client) -> None:
    await installed(client, *PACKS)
    async with client.listening() as listener:
        prompt_id = await client.submit(bordered())
        await listener.until_end(prompt_id)
    entry = await client.history(prompt_id)
    assert entry["status"]["status_str"] == "success", entry["status"]
    item = entry["outputs"]["4"]["images"][0]
    assert (item["subfolder"], item["filename"]) == ("packs", "bordered_00001_.png")
    made = picture(await client.view(item))
    assert made.size == (64 + 16, 32 + 16)
    assert (made.getpixel((0, 0)), made.getpixel((40, 24))) == (GOLD, RED)
    types = listener.types()
    assert types[:2] == ["execution_start", "execution_cached"]
    assert types[-2:] == ["execution_success", "executing"]
    assert types.count("executed") == 1


async def test_a_second_run_that_is_cached_has_its_picture(client: Client) -> None:
    await installed(client, *PACKS)
    first, second = [await client.run(bordered(7)) for _ in range(2)]
    assert second["status"]["status_str"] == "success"
    shown = [await client.view(entry["outputs"]["4"]["images"][0]) for entry in (first, second)]
    assert picture(shown[0]).tobytes() == picture(shown[1]).tobytes()


async def test_a_video_of_a_pack_is_under_the_key_of_the_pack(client: Client) -> None:
    await installed(client, "VHS_VideoCombine", *PACKS)
    graph = bordered(9)
    graph["4"] = node(
        "VHS_VideoCombine",
        images=["3", 0],
        frame_rate=8,
        loop_count=0,
        filename_prefix="film",
        format="image/gif",
        pingpong=False,
        save_output=True,
    )
    entry = await client.run(graph)
    assert entry["status"]["status_str"] == "success", entry["status"]
    item = entry["outputs"]["4"]["gifs"][0]
    assert (await client.view({**item, "type": item["type"]})).startswith(b"GIF8")


async def test_an_upload_is_loaded_by_its_name(client: Client) -> None:
    await installed(client, *PACKS)
    await client.upload("cat.png", graphs.png((1, 2, 3)))
    graph = bordered(11)
    graph["1"] = node("LoadImage", image="cat.png")
    graph["5"] = node("ImageInvert", image=["3", 0])
    graph["4"]["inputs"]["images"] = ["5", 0]
    entry = await client.run(graph)
    assert entry["status"]["status_str"] == "success", entry["status"]
    made = picture(await client.view(entry["outputs"]["4"]["images"][0]))
    assert made.getpixel((32, 32)) == (254, 253, 252)


async def test_an_output_is_an_input(client: Client) -> None:
    entry = await client.run(graphs.plain(0x112233))
    item = entry["outputs"]["2"]["images"][0]
    graph = graphs.inverted(f"{item['filename']} [output]")
    entry = await client.run(graph)
    assert entry["status"]["status_str"] == "success", entry["status"]
    made = picture(await client.view(entry["outputs"]["4"]["images"][0]))
    assert made.getpixel((0, 0)) == (0xEE, 0xDD, 0xCC)
    assert entry["outputs"]["3"]["images"][0]["type"] == "temp"


async def test_an_exception_of_a_pack_is_told(client: Client) -> None:
    await installed(client, *PACKS)
    graph = bordered()
    graph["2"]["inputs"] |= {"op": "Div", "b": 0}
    entry = await client.run(graph)
    kind, error = entry["status"]["messages"][-1]
    assert kind == "execution_error"
    assert (error["node_id"], error["node_type"]) == ("2", "CM_IntBinaryOperation")
    assert "zero" in error["exception_message"]
    assert error["current_inputs"]["b"] == [0]


async def test_a_text_that_is_no_file_is_not_made_up(client: Client) -> None:
    await installed(client, "ShowText|pysssss", *PACKS)
    graph = bordered(13)
    graph["5"] = node("ShowText|pysssss", text=["1", 1])
    entry = await client.run(graph)
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert entry["outputs"].keys() == {"4"}


async def test_what_cannot_run_is_refused_before_it_is_sent(client: Client) -> None:
    unknown = {"1": node("OfNoPack"), "2": node("SaveImage", images=["1", 0], filename_prefix="x")}
    for graph in (unknown, graphs.inverted("nowhere.png")):
        status, answer = await client.post("prompt", {"prompt": graph})
        assert status == 400, answer


async def test_jobs_at_once_have_their_own_pictures(client: Client) -> None:
    colors = [0x100000 * number + number for number in range(1, 9)]
    ids = [await client.submit(graphs.plain(color)) for color in colors]
    shown = []
    for prompt_id in ids:
        entry = await client.ended(prompt_id)
        data = await client.view(entry["outputs"]["2"]["images"][0])
        shown.append(graphs.color_of(data))
    assert shown == colors


async def test_its_list_of_nodes_is_saved(behind: str, tmp_path: Path) -> None:
    target = tmp_path / "object_info.json"
    code, out, err = await command("catalog", "save", behind, str(target))
    assert code == 0, err
    assert len(json.loads(target.read_text())) > 300
    assert "node classes in" in out
