"""Names behave as on a local disk, and the cloud's are never seen."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from PIL import Image
from stack import Client, running_proxy

from proxy.simulator import Simulator


def color(data: bytes) -> tuple[int, ...]:
    pixel = Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


async def inverted(client: Client, image: str) -> tuple[int, ...]:
    entry = await client.run(graphs.inverted(image))
    return color(await client.view(entry["outputs"]["4"]["images"][0]))


@pytest.mark.parametrize("written", ["sub/cat.png", "sub/cat.png [input]", "sub\\cat.png"])
async def test_an_upload_is_found_however_it_is_written(client: Client, written: str) -> None:
    await client.upload("cat.png", graphs.png((1, 2, 3)), subfolder="sub")
    assert await inverted(client, written) == (254, 253, 252)


async def test_an_overwritten_name_means_the_new_picture(client: Client) -> None:
    await client.upload("temp.png", graphs.png((1, 2, 3)))
    assert await inverted(client, "temp.png") == (254, 253, 252)
    answer = await client.upload("temp.png", graphs.png((9, 9, 9)), overwrite="true")
    assert answer["name"] == "temp.png"
    assert await inverted(client, "temp.png") == (246, 246, 246)


async def test_a_refusal_speaks_of_the_clients_file(client: Client) -> None:
    await client.upload("cat.png", graphs.png())
    graph = graphs.inverted("cat.png")
    graph["2"]["inputs"]["image"] = "cat.png"
    graph["9"] = {"class_type": "LoadImage", "inputs": {"image": "dog.png"}}
    graph["3"]["inputs"]["images"] = ["9", 0]
    _, body = await client.post("prompt", {"prompt": graph})
    assert "dog.png" in str(body)
    (cloud_name,) = [word for word in str(body).split("'") if len(word) > 64] or [""]
    assert cloud_name == ""


async def test_the_menus_list_the_members_uploads(simulator: Simulator, client: Client) -> None:
    simulator.switches.upload_kinds = "any"
    await client.upload("cat.png", graphs.png())
    await client.upload("notes.txt", b"text")
    _, info = await client.get("object_info/LoadImage")
    choices = info["LoadImage"]["input"]["required"]["image"][0]
    assert choices == ["cat.png"]
    _, everything = await client.get("object_info")
    assert everything["LoadImage"] == info["LoadImage"]


async def test_uploads_follow_to_another_cloud(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with running_proxy(simulator, tmp_path) as proxy:
        await Client(session, proxy.url).upload("cat.png", graphs.png((1, 2, 3)))
    async with Simulator() as other, running_proxy(other, tmp_path) as proxy:
        assert await inverted(Client(session, proxy.url), "cat.png") == (254, 253, 252)


async def test_a_mask_becomes_the_alpha_of_its_original(client: Client) -> None:
    uploaded = await client.upload("cat.png", graphs.png((1, 2, 3)))
    mask = io.BytesIO()
    Image.new("RGBA", (32, 32), (0, 0, 0, 77)).save(mask, "PNG")
    form = aiohttp.FormData()
    form.add_field("image", mask.getvalue(), filename="painted.png", content_type="image/png")
    reference: dict[str, Any] = {"filename": uploaded["name"], "type": "input", "subfolder": ""}
    form.add_field("original_ref", str(reference).replace("'", '"'))
    async with client.session.post(client.url / "upload/mask", data=form) as answer:
        assert answer.status == 200
        named = await answer.json()
    item = {"filename": named["name"], "type": named["type"], "subfolder": named["subfolder"]}
    picture = Image.open(io.BytesIO(await client.view(item)))
    assert picture.mode == "RGBA"
    assert picture.getpixel((0, 0)) == (1, 2, 3, 77)
