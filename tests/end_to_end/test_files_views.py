"""Outputs and views over HTTP: names that stay, parts, conversions, a cache with a bound."""

from __future__ import annotations

import io
import json
import random
import struct
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import aiohttp
import graphs
import pytest
from blake3 import blake3
from files.pictures import decoded, loaded, picture
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from stack import Client, bare, running_proxy

from proxy.simulator import Simulator, Switches


async def test_a_picture_that_is_too_large_for_a_preview_is_sent_as_it_is(client: Client) -> None:
    target = io.BytesIO()
    Image.new("RGBA", (8192, 8192)).save(target, "PNG")
    large = target.getvalue()
    await client.upload("cat.png", large)
    item = {"filename": "cat.png", "type": "input"}
    assert await client.view(item, preview="webp;75") == large
    assert await client.get("view", **item, channel="rgb") == (400, ANY)


async def test_a_conversion_is_made_once(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with running_proxy(simulator, tmp_path, prefetch="off") as proxy:
        client = Client(session, proxy.url)
        entry = await client.run(graphs.plain())
        item = entry["outputs"]["2"]["images"][0]
        first = await client.view(item, preview="webp;75")
        assert simulator.calls["GET /api/view"] == 1
    kept = list((tmp_path / "files" / "converted").iterdir())
    assert len(kept) == 1
    async with running_proxy(simulator, tmp_path, prefetch="off") as proxy:
        assert await Client(session, proxy.url).view(item, preview="webp;75") == first
    assert simulator.calls["GET /api/view"] == 1
    assert list((tmp_path / "files" / "converted").iterdir()) == kept


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"executed_names": "display", "executed_display_name": True},
        {"display_name": False},
        {"display_name": False, "output_subfolder": "nowhere"},
        {"video_keys": "both"},
        {"video_keys": "images"},
    ],
    ids=str,
)
async def test_a_name_is_the_same_wherever_it_is_sent(
    session: aiohttp.ClientSession, tmp_path: Path, switches: dict[str, Any]
) -> None:
    graph = graphs.plain(prefix="sub/x")
    graph["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    graph["4"] = {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8}}
    graph["5"] = {
        "class_type": "SaveVideo",
        "inputs": {
            "video": ["4", 0],
            "filename_prefix": "film",
            "format": "auto",
            "codec": "auto",
        },
    }
    async with Simulator(switches=Switches(**switches)) as simulator:
        async with running_proxy(simulator, tmp_path) as proxy:
            client = Client(session, proxy.url)
            async with client.listening() as listener:
                prompt_id = await client.submit(graph)
                await listener.until_end(prompt_id)
            executed = {data["node"]: data["output"] for data in listener.of("executed")}
            outputs = (await client.history(prompt_id))["outputs"]
            _, job = await client.get(f"api/jobs/{prompt_id}")
        async with running_proxy(simulator, tmp_path) as proxy:
            client = Client(session, proxy.url)
            assert (await client.history(prompt_id))["outputs"] == outputs
            for output in outputs.values():
                await client.view(output["images"][0])
    assert executed == outputs == job["outputs"]
    (saved,) = outputs["2"]["images"]
    assert bare(saved) == {"filename": "x_00001_.png", "subfolder": "sub", "type": "output"}
    (preview,) = outputs["3"]["images"]
    assert preview["type"] == "temp"
    assert preview["filename"].startswith("ComfyUI_temp_")
    (film,) = outputs["5"]["images"]
    assert bare(film) == {"filename": "film_00001_.mp4", "subfolder": "", "type": "output"}
    assert outputs["5"]["animated"] == [True]


async def test_what_the_client_sent_is_what_the_records_show(client: Client) -> None:
    await client.upload("cat.png", graphs.png(), subfolder="sub")
    graph = graphs.inverted("sub\\cat.png [input]")
    entry = await client.run(graph)
    assert entry["prompt"][2] == graph


async def test_a_text_that_is_the_name_of_a_file_reaches_the_cloud_as_it_is(
    simulator: Simulator, client: Client
) -> None:
    await client.upload("cat.png", graphs.png())
    graph = {**graphs.sampled(text="cat.png"), "20": graphs.inverted("cat.png")["1"]}
    graph["21"] = {"class_type": "PreviewImage", "inputs": {"images": ["20", 0]}}
    await client.run(graph)
    (job,) = simulator.jobs.values()
    assert job.graph["6"]["inputs"]["text"] == "cat.png"
    assert job.graph["20"]["inputs"]["image"].startswith(blake3(graphs.png()).hexdigest())


async def test_no_cloud_name_is_seen_by_a_client(client: Client) -> None:
    data = graphs.png()
    await client.upload("cat.png", data)
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.inverted("cat.png"))
        await listener.until_end(prompt_id)
    shown = [str(listener.received)]
    paths = ("queue", "history", "api/jobs", f"api/jobs/{prompt_id}", "object_info/LoadImage")
    shown += [str(await client.get(path)) for path in paths]
    assert blake3(data).hexdigest() not in "".join(shown)


def shown_as(named: dict[str, str]) -> dict[str, str]:
    """The query for what an upload was named."""
    return {"filename": named["name"], "subfolder": named["subfolder"], "type": named["type"]}


def workflow_of(data: bytes) -> dict[str, Any]:
    """The graph in a PNG."""
    with Image.open(io.BytesIO(data)) as saved:
        assert isinstance(saved, PngImageFile)
        return dict(json.loads(str(saved.text["prompt"])))


@pytest.mark.parametrize("prefetch", ["off", "images"])
async def test_a_picture_carries_the_graph_that_was_submitted(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, prefetch: str
) -> None:
    noise = Image.frombytes("RGB", (256, 256), random.Random(0).randbytes(3 * 256 * 256))
    target = io.BytesIO()
    noise.save(target, "PNG")
    graph = graphs.inverted("photo.png")
    async with running_proxy(simulator, tmp_path, prefetch=prefetch) as proxy:
        client = Client(session, proxy.url)
        await client.upload("photo.png", target.getvalue())
        item = (await client.run(graph))["outputs"]["4"]["images"][0]
        shown = await client.view(item)
        assert workflow_of(shown) == graph
        assert decoded(shown)[3] == loaded(target.getvalue(), inverted=True)
        assert await client.view(item) == shown  # now at the latest it is in the cache
        url = (client.url / "view").with_query(item)
        async with session.head(url) as head:
            assert int(head.headers["Content-Length"]) == len(shown)
            tag = head.headers["Etag"]
        async with session.get(url, headers={"Range": "bytes=50-2000"}) as part:
            assert (part.status, await part.read()) == (206, shown[50:2001])
            assert part.headers["Content-Range"] == f"bytes 50-2000/{len(shown)}"
        async with session.get(url, headers={"If-None-Match": tag}) as known:
            assert known.status == 304
        again = await client.upload(item["filename"], shown, type="output")
        assert again["name"] == item["filename"]  # the same bytes, as on a disk
        mask = {"original_ref": json.dumps(item), "type": "input"}
        form = aiohttp.FormData(mask)
        form.add_field("image", target.getvalue(), filename="m.png", content_type="image/png")
        async with session.post(client.url / "upload/mask", data=form) as answer:
            masked = await answer.json()
        assert workflow_of(await client.view(shown_as(masked))) == graph
    async with running_proxy(simulator, tmp_path, prefetch=prefetch) as proxy:
        assert await Client(session, proxy.url).view(item) == shown


async def test_what_was_uploaded_stays_as_it_was(client: Client) -> None:
    first = await client.upload("a.png", picture("RGB"))
    item = (await client.run(graphs.inverted(first["name"])))["outputs"]["4"]["images"][0]
    info = PngInfo()
    info.add_text("prompt", f'"{blake3(picture("RGB")).hexdigest()}.png"')
    target = io.BytesIO()
    Image.new("RGB", (9, 9)).save(target, "PNG", pnginfo=info)
    named = await client.upload("b.png", target.getvalue())
    assert await client.view(shown_as(named)) == target.getvalue()
    assert await client.view(item) != target.getvalue()


async def test_files_go_with_the_history_that_has_no_room_for_their_job(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """As many files are kept as there are jobs to be asked about; the counter goes on."""
    async with running_proxy(simulator, tmp_path, policy={"history_size": 2}) as proxy:
        client = Client(session, proxy.url)
        items = []
        for color in range(3):
            entry = await client.run(graphs.plain(color))
            items.append(entry["outputs"]["2"]["images"][0])
            assert await client.view(items[-1])
        assert await client.get("view", **items[0]) == (404, "")
        assert [item["filename"] for item in items] == [f"ComfyUI_{n:05}_.png" for n in (1, 2, 3)]
        _, files = await client.get("internal/files/output")
        assert files == ["ComfyUI_00003_.png", "ComfyUI_00002_.png"]
        _, history = await client.get("history")
        assert len(history) == 2


def saved_mesh() -> dict[str, Any]:
    """Two shapes that are saved as 3D files."""
    return {
        "1": {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}},
        "2": {
            "class_type": "EmptyLatentHunyuan3Dv2",
            "inputs": {"resolution": 3072, "batch_size": 2},
        },
        "3": {
            "class_type": "VAEDecodeHunyuan3D",
            "inputs": {
                "samples": ["2", 0],
                "vae": ["1", 0],
                "num_chunks": 8000,
                "octree_resolution": 256,
            },
        },
        "4": {
            "class_type": "VoxelToMesh",
            "inputs": {"voxel": ["3", 0], "algorithm": "basic", "threshold": 0.6},
        },
        "5": {
            "class_type": "SaveGLB",
            "inputs": {"mesh": ["4", 0], "filename_prefix": "3d/shape"},
        },
    }


@pytest.mark.parametrize("display_name", [True, False])
async def test_a_3d_model_has_its_file_and_its_entry(
    simulator: Simulator, client: Client, display_name: bool
) -> None:
    simulator.switches.display_name = display_name
    entry = await client.run(saved_mesh())
    items = [
        {"filename": f"shape_0000{number}_.glb", "subfolder": "3d", "type": "output", "id": ANY}
        for number in (1, 2)
    ]
    assert entry["outputs"] == {"5": {"3d": items}}
    async with client.session.get(client.url / "view", params={**items[1], "id": ""}) as answer:
        data = await answer.read()
        assert answer.content_type == "model/gltf-binary"
    magic, version, length = struct.unpack_from("<3I", data)
    assert (magic, version, length) == (0x46546C67, 2, len(data))
    _, jobs = await client.get("api/jobs")
    (job,) = jobs["jobs"]
    assert job["outputs_count"] == 2
    assert job["preview_output"] == {**items[0], "nodeId": "5", "mediaType": "3d"}
