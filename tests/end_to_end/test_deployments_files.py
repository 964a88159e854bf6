"""Files of a local client on a deployment: uploads, masks, outputs as inputs, and names."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Any

import aiohttp
import graphs
import pytest
from deployments import Place, framed, stamped
from PIL import Image
from stack import Client, bare
from waiting import until

from proxy.simulator.deployment.state import DeploymentAsset, DeploymentJob

UPLOAD = "POST /api/v2/assets"


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with place.proxy() as (running, _):
        yield running


@pytest.fixture
async def alone(place: Place) -> AsyncIterator[Client]:
    """A client of a proxy that has the deployment alone."""
    async with place.proxy(cloud=False) as (running, _):
        yield running


def last_job(place: Place) -> DeploymentJob:
    """The newest job of the deployment."""
    return [*place.deployment.jobs.values()][-1]


def asset_of(place: Place, node: str = "2", input_: str = "stamp") -> DeploymentAsset:
    """The asset that an input of the newest job refers to."""
    reference = last_job(place).graph[node]["inputs"][input_]
    return place.deployment.workers.assets[reference["info"]["id"]]


def content_of(place: Place, asset: DeploymentAsset) -> bytes:
    """The bytes of an asset."""
    return place.deployment.storage.get(asset.stored)


def first_pixel(data: bytes) -> Any:
    """The colour of the first pixel."""
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGBA").getpixel((0, 0))


async def saved(client: Client, **fields: Any) -> dict[str, Any]:
    """The picture that a job of the deployment has saved."""
    entry = await client.run(framed(**fields))
    item: dict[str, Any] = bare(entry["outputs"]["3"]["images"][0])
    return item


# --- inputs --------------------------------------------------------------------------------


async def test_names_of_uploads_are_those_of_a_local_server(alone: Client) -> None:
    first = await alone.upload("cat.png", graphs.png((1, 2, 3)), subfolder="a/b")
    again = await alone.upload("cat.png", graphs.png((1, 2, 3)), subfolder="a/b")
    other = await alone.upload("cat.png", graphs.png((4, 5, 6)), subfolder="a/b")
    over = await alone.upload("cat.png", graphs.png((7, 8, 9)), subfolder="a/b", overwrite="true")
    assert bare(first) == {"name": "cat.png", "subfolder": "a/b", "type": "input"}
    assert bare(again) == bare(first) == bare(over)
    assert other["name"] == "cat (1).png"
    shown = {"filename": "cat.png", "subfolder": "a/b", "type": "input"}
    assert first_pixel(await alone.view(shown)) == (7, 8, 9, 255)


async def test_a_content_is_sent_once_whatever_its_names(alone: Client, place: Place) -> None:
    for name in ("cat.png", "dog.png", "sub/cat.png"):
        folder, _, file = name.rpartition("/")
        await alone.upload(file, graphs.png(), subfolder=folder)
        await alone.run(stamped(name, prefix=name))
    assert place.deployment.calls[UPLOAD] == 1


async def test_a_content_that_the_platform_has_is_taken_by_its_hash(
    alone: Client, place: Place
) -> None:
    place.deployment.switches.input_life = 60.0  # too short to rely on
    await alone.upload("cat.png", graphs.png())
    await alone.run(stamped("cat.png"))
    first = asset_of(place)
    await alone.run(stamped("cat.png", prefix="again"))
    second = asset_of(place)
    assert first.id != second.id
    assert first.digest == second.digest
    assert place.deployment.calls[UPLOAD] == 1


async def test_a_content_whose_metadata_the_platform_removes_is_taken(
    alone: Client, place: Place
) -> None:
    place.deployment.switches.strips_metadata = True
    await alone.upload("cat.png", graphs.png())
    entry = await alone.run(stamped("cat.png"))
    assert entry["status"]["status_str"] == "success"


async def test_a_name_keeps_its_stem_where_that_is_safe_and_its_folder_stays_here(
    alone: Client, place: Place
) -> None:
    uploaded = await alone.upload("my cat é.png", graphs.png(), subfolder="sub/dir")
    entry = await alone.run(stamped(f"sub/dir/{uploaded['name']}"))
    assert entry["status"]["status_str"] == "success"
    path = PurePosixPath(asset_of(place).file_path)
    assert path.name == str(path)
    assert path.name.isascii()
    assert path.stem.startswith("my")
    assert path.suffix == ".png"


@pytest.mark.parametrize("folder", ["input", "output", "temp"])
async def test_a_name_with_its_folder_is_the_file_there(
    client: Client, place: Place, folder: str
) -> None:
    names: dict[str, str] = {}
    await client.upload("cat.png", graphs.png((1, 2, 3)))
    names["input"] = "cat.png"
    graph = {**framed(), "4": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}}
    entry = await client.run(graph)
    names["output"] = entry["outputs"]["3"]["images"][0]["filename"]
    names["temp"] = entry["outputs"]["4"]["images"][0]["filename"]
    entry = await client.run(stamped(f"{names[folder]} [{folder}]", prefix="again"))
    assert entry["status"]["status_str"] == "success"
    gold = (212, 175, 55, 255)
    wanted = (1, 2, 3, 255) if folder == "input" else gold
    assert first_pixel(content_of(place, asset_of(place))) == wanted


async def test_load_image_output_takes_an_output_of_the_proxy(client: Client, place: Place) -> None:
    item = await saved(client, prefix="sub/pic")
    graph = framed(prefix="again")
    name = f"{item['subfolder']}/{item['filename']} [output]"
    graph["1"] = {"class_type": "LoadImageOutput", "inputs": {"image": name}}
    entry = await client.run(graph)
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert content_of(place, asset_of(place, "1", "image")) == await client.view(item)


@pytest.mark.parametrize("named", ["clipspace/painted.png [input]", "clipspace/painted.png"])
async def test_a_mask_is_composed_here_and_the_result_is_uploaded(
    client: Client, place: Place, named: str
) -> None:
    uploaded = await client.upload("cat.png", graphs.png((1, 2, 3)))
    mask = io.BytesIO()
    Image.new("RGBA", (32, 32), (0, 0, 0, 77)).save(mask, "PNG")
    original = {"filename": uploaded["name"], "type": "input", "subfolder": ""}
    form = aiohttp.FormData(
        {"original_ref": json.dumps(original), "type": "input", "subfolder": "clipspace"}
    )
    form.add_field("image", mask.getvalue(), filename="painted.png", content_type="image/png")
    async with client.session.post(client.url / "upload/mask", data=form) as answer:
        assert answer.status == 200
    graph = framed()
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": named}}
    entry = await client.run(graph)
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert first_pixel(content_of(place, asset_of(place, "1", "image"))) == (1, 2, 3, 77)


async def test_a_model_of_ones_own_cannot_be_uploaded(place: Place) -> None:
    form = aiohttp.FormData({"tags": json.dumps(["models", "loras"])})
    form.add_field("file", b"weights", filename="mine.safetensors")
    async with (
        place.proxy(cloud=False) as (client, _),
        client.session.post(client.url / "api/assets", data=form) as answer,
    ):
        assert 400 <= answer.status < 500
        assert "model" in await answer.text()
    assert place.deployment.calls[UPLOAD] == 0


# --- outputs -------------------------------------------------------------------------------


async def test_the_folder_of_an_output_is_that_of_its_prefix(client: Client) -> None:
    item = await saved(client, prefix="a/b/pic")
    assert item == {"filename": "pic_00001_.png", "subfolder": "a/b", "type": "output"}


async def test_outputs_are_here_when_the_deployment_has_them_no_longer(
    client: Client, place: Place
) -> None:
    item = await saved(client)
    await until(lambda: fetched(place))
    place.deployment.workers.assets.clear()
    assert (await client.view(item)).startswith(b"\x89PNG")


def fetched(place: Place) -> bool:
    """Whether the proxy has fetched a picture before a client has asked for it."""
    found = (path for path in (place.folder / "data").rglob("*") if path.is_file())
    return any(path.read_bytes()[:4] == b"\x89PNG" for path in found)


async def test_what_is_deleted_here_stays_on_the_deployment(client: Client, place: Place) -> None:
    entry = await client.run(framed())
    assets = set(place.deployment.workers.assets)
    await client.post("history", {"delete": [entry["prompt"][1]]})
    await client.post("history", {"clear": True})
    assert (await client.get("history"))[1] == {}
    assert set(place.deployment.workers.assets) == assets
    assert "DELETE" not in {request.method for request in place.deployment.requests}


@pytest.mark.parametrize("class_type", ["SaveAnimatedWEBP", "SaveAnimatedPNG"])
async def test_animations_are_shown_as_such(client: Client, class_type: str) -> None:
    graph = framed()
    graph["3"] = {
        "class_type": class_type,
        "inputs": {"images": ["2", 0], "filename_prefix": "x", "fps": 6.0, "compress_level": 4},
    }
    if class_type == "SaveAnimatedWEBP":
        graph["3"]["inputs"] |= {"lossless": True, "quality": 80, "method": "default"}
        del graph["3"]["inputs"]["compress_level"]
    entry = await client.run(graph)
    shown = entry["outputs"]["3"]
    assert shown["animated"] == [True]
    assert len(shown["images"]) == 1


async def test_a_video_stays_as_the_deployment_has_written_it(client: Client, place: Place) -> None:
    graph: dict[str, Any] = {name: framed()[name] for name in "12"}
    graph["3"] = {"class_type": "CreateVideo", "inputs": {"images": ["2", 0], "fps": 8.0}}
    video = {"video": ["3", 0], "filename_prefix": "x", "format": "auto", "codec": "auto"}
    graph["4"] = {"class_type": "SaveVideo", "inputs": video}
    workflow = {"extra_pnginfo": {"workflow": {"id": "w"}}}
    entry = await client.run(graph, extra_data=workflow)
    shown = entry["outputs"]["4"]
    assert shown["animated"] == [True]
    (output,) = last_job(place).outputs
    stored = content_of(place, place.deployment.workers.assets[output["id"]])
    assert await client.view(bare(shown["images"][0])) == stored
