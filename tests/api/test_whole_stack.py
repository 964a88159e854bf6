"""The local API above the real rooms and the simulator: what no stand-in can promise."""

from __future__ import annotations

import io

import aiohttp
import graphs
import pytest
from PIL import Image
from stack import Client, Proxy


@pytest.fixture
def program(proxy: Proxy, session: aiohttp.ClientSession) -> Client:
    return Client(session, proxy.url)


async def test_an_upload_is_seen_like_a_file_on_disk(program: Client) -> None:
    data = graphs.png((10, 20, 30))
    await program.upload("cat.png", data)
    url = (program.url / "view").with_query(filename="cat.png", type="input")
    async with program.session.get(url) as whole:
        assert (await whole.read(), whole.headers["Content-Type"]) == (data, "image/png")
        tag = whole.headers["Etag"]
    async with program.session.get(url, headers={"Range": "bytes=1-3"}) as part:
        assert (part.status, await part.read()) == (206, b"PNG")
    async with program.session.get(url, headers={"If-None-Match": tag}) as unchanged:
        assert unchanged.status == 304
    async with program.session.head(url) as head:
        assert head.headers["Content-Length"] == str(len(data))
    async with program.session.get(url.update_query(preview="webp;90")) as preview:
        assert Image.open(io.BytesIO(await preview.read())).format == "WEBP"


async def test_an_upload_is_a_choice_of_load_image_at_once(program: Client) -> None:
    await program.upload("cat.png", graphs.png((10, 20, 30)))
    for path in ("object_info/LoadImage", "object_info"):
        _, info = await program.get(path)
        choices = info["LoadImage"]["input"]["required"]["image"][0]
        assert "cat.png" in choices


async def test_models_come_from_the_cloud(program: Client) -> None:
    _, folders = await program.get("models")
    _, models = await program.get("models/checkpoints")
    _, detailed = await program.get("experiment/models/checkpoints")
    assert "checkpoints" in folders
    assert sorted(model["name"] for model in detailed) == models
