"""What is told of a job names its files as its graph did, whatever has the same bytes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from PIL import Image
from stack import Client, running_proxy

from proxy.simulator import Simulator

PICTURE = graphs.png((10, 20, 30))


async def prompt_in(client: Client, item: dict[str, str]) -> Any:
    """Return the graph that a picture holds."""
    return json.loads(Image.open(io.BytesIO(await client.view(item))).text["prompt"])  # type: ignore[attr-defined]


def shown(name: str) -> dict[str, Any]:
    """A graph that loads a picture, and shows the text that names it."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": "named"},
        },
        "3": {"class_type": "PreviewAny", "inputs": {"source": name}},
    }


@pytest.mark.parametrize("name", ["cat.png", "pets/dog.png", "cat.png [input]"])
async def test_a_picture_and_a_text_have_the_name_of_the_graph(client: Client, name: str) -> None:
    await client.upload("cat.png", PICTURE)
    await client.upload("dog.png", PICTURE, subfolder="pets")
    await client.upload("bird.png", PICTURE, type="output")
    entry = await client.run(shown(name))
    assert entry["outputs"]["3"]["text"] == [name]
    (item,) = entry["outputs"]["2"]["images"]
    graph = await prompt_in(client, item)
    assert graph["1"]["inputs"]["image"] == name
    assert (await client.post("prompt", {"prompt": graph}))[0] == 200


async def test_a_text_that_is_the_name_of_an_equal_file_stays(client: Client) -> None:
    await client.upload("cat.png", PICTURE)
    await client.upload("dog.png", PICTURE, subfolder="pets")
    graph = shown("cat.png")
    graph["3"]["inputs"]["source"] = "pets/dog.png"
    async with client.listening() as listener:
        prompt_id = await client.submit(graph)
        await listener.until_end(prompt_id)
    entry = await client.history(prompt_id)
    assert entry["outputs"]["3"]["text"] == ["pets/dog.png"]
    assert {"text": ["pets/dog.png"]} in [data["output"] for data in listener.of("executed")]


async def test_an_error_has_the_name_of_the_graph(client: Client) -> None:
    await client.upload("cat.png", PICTURE)
    await client.upload("dog.png", PICTURE, subfolder="pets")
    raised = {"value": "cat.png", "kind": "RuntimeError", "message": "no"}
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
        "2": {"class_type": "SimulatorRaise", "inputs": raised},
    }
    entry = await client.run(graph)
    error = entry["status"]["messages"][-1][1]
    assert error["current_inputs"]["value"] == ["cat.png"]


async def test_a_picture_stays_the_same_after_other_uploads_and_a_restart(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    served = []
    item: dict[str, str] = {}
    for turn in range(3):
        async with running_proxy(simulator, tmp_path) as proxy:
            client = Client(session, proxy.url)
            if not turn:
                await client.upload("cat.png", PICTURE)
                (item,) = (await client.run(shown("cat.png")))["outputs"]["2"]["images"]
            url = (client.url / "view").with_query(item)
            async with session.get(url) as answer:
                served.append((await answer.read(), answer.headers["ETag"]))
            await client.upload(f"dog{turn}.png", PICTURE, subfolder="pets")
    assert served[1:] == served[:1] * 2
    assert b"cat.png" in served[0][0]
