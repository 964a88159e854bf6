"""A member attacks with helper nodes: with their pictures, workflows and notes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import time
import zlib
from functools import cache
from typing import Any

import pytest
from aiohttp import web
from PIL import Image
from security.attack import MEMBER, Target
from security.conftest import Start

MB = 1024 * 1024


def noise(side: int, seed: int = 0, format_: str = "PNG") -> bytes:
    """A picture that nothing compresses, of `3 * side * side` bytes."""
    buffer = io.BytesIO()
    pixels = random.Random(seed).randbytes(3 * side * side)
    Image.frombytes("RGB", (side, side), pixels).save(buffer, format_, compress_level=0)
    return buffer.getvalue()


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def loading(class_type: str, name: str, values: list[str]) -> dict[str, Any]:
    """A workflow whose nodes each load a picture, and preview it."""
    graph: dict[str, Any] = {}
    for number, value in enumerate(values):
        graph[f"load{number}"] = node(class_type, **{name: value})
        graph[f"show{number}"] = node("PreviewImage", images=[f"load{number}", 0])
    return graph


class Packed(bytes):
    """JSON that is packed."""


def packed(value: Any) -> Packed:
    return Packed(zlib.compress(json.dumps(value).encode(), 1))


async def send(target: Target, method: str, path: str, body: Any, *, member: str = "eve") -> int:
    """The status of the answer to a large body, which is JSON unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    is_json = data is not body or isinstance(body, Packed)
    headers = {"Content-Type": "application/json" if is_json else "application/octet-stream"}
    if isinstance(body, Packed):
        headers["Content-Encoding"] = "deflate"
    return await target.request(method, path, data=io.BytesIO(data), headers=headers, member=member)


@pytest.mark.parametrize("part", [1.0, 0.9], ids=["whole", "broken"])
async def test_pictures_from_addresses(aiohttp_server: Any, start: Start, part: float) -> None:
    """Sixty of 48 MB each, of which six are different."""
    side = 4000
    pixels = await asyncio.to_thread(random.Random(0).randbytes, 3 * side * side)

    @cache
    def made(first: str) -> bytes:
        buffer = io.BytesIO()
        picture = Image.frombytes("RGB", (side, side), first.encode() + pixels[1:])
        picture.save(buffer, "PNG", compress_level=0)
        return buffer.getvalue()

    async def serve(request: web.Request) -> web.Response:
        data = await asyncio.to_thread(made, request.match_info["name"][0])
        picture = io.BytesIO(data[: int(part * len(data))])
        return web.Response(body=picture, content_type="image/png")

    pages = web.Application()
    pages.router.add_get("/{name}", serve)
    server = await aiohttp_server(pages)
    through = {"http_proxy": str(server.make_url("")), "no_proxy": "127.0.0.1"}
    addresses = [f"http://pictures.example/{number}.png" for number in range(60)]
    async with start("--url-hosts", "pictures.example", environment=through) as target:
        graph = loading("LoadImageFromUrl", "image", addresses)
        async with target.attacked_by(MEMBER):
            assert await target.request("POST", "prompt", json={"prompt": graph}) == 200


async def test_large_pictures_with_a_palette(target: Target) -> None:
    """37 million pixels in a small file, whose colours are made for a mask."""
    side, buffer = 6_100, io.BytesIO()
    picture = Image.new("P", (side, side))
    picture.putpalette(bytes(range(256)) * 3)
    picture.save(buffer, "PNG", transparency=bytes(256))
    texts = [base64.b64encode(buffer.getvalue() + bytes([number])).decode() for number in range(3)]
    async with target.attacked_by(MEMBER) as figures:
        graph = loading("ETN_LoadImageBase64", "image", texts)
        assert await target.request("POST", "prompt", json={"prompt": graph}) == 200
    assert figures.growth < 330


async def test_pictures_of_nodes_are_turned_by_member(target: Target) -> None:
    """Bob's own workflow with a picture goes in between those of Eve."""
    pictures = await asyncio.to_thread(lambda: [noise(1830, seed) for seed in range(20)])
    for number, picture in enumerate(pictures):
        path = f"api/etn/image/{number}"
        assert await send(target, "PUT", path, picture) == 201
    numbers = [str(number) for number in range(len(pictures))]
    graph = loading("ETN_LoadImageCache", "id", numbers)
    small = noise(32)
    assert await send(target, "PUT", "api/etn/image/small", small, member="bob") == 201
    async with target.attacked_by(MEMBER):
        attack = asyncio.create_task(target.request("POST", "prompt", json={"prompt": graph}))
        await asyncio.sleep(0.3)
        began = time.monotonic()
        mine = loading("ETN_LoadImageCache", "id", ["small"])
        status = await target.request("POST", "prompt", json={"prompt": mine}, member="bob")
        waited = time.monotonic() - began
        assert not attack.done()
        assert await attack == 200
    assert status == 200
    assert waited < MEMBER.served


async def test_pictures_that_are_put(target: Target) -> None:
    pictures = await asyncio.to_thread(lambda: [noise(1830, seed) for seed in range(20)])
    async with target.attacked_by(MEMBER):
        statuses = await asyncio.gather(
            *(
                send(target, "PUT", f"api/etn/image/{number}", picture)
                for number, picture in enumerate(pictures)
            )
        )
    assert set(statuses) <= {201, 429}
    assert 201 in statuses


async def test_unread_pictures(target: Target) -> None:
    picture = await asyncio.to_thread(noise, 4000)
    assert await send(target, "PUT", "api/etn/image/large", picture) == 201
    request = (
        b"GET /api/etn/image/large HTTP/1.1\r\nHost: localhost\r\n"
        + f"Authorization: {target.bearer()['Authorization']}\r\n\r\n".encode()
    )
    writers = []
    async with target.attacked_by(MEMBER):
        for _ in range(20):
            _, writer = await target.connect(request)
            writers.append(writer)
        await asyncio.sleep(2)
        for writer in writers:
            writer.close()


async def test_notes(target: Target) -> None:
    large = packed({"image": "x" * (8 * MB)})
    small = {"image": "x" * (15 * 1024)}
    path = "sidefx_houdini/command/refresh_image"
    async with target.attacked_by(MEMBER):
        for _ in range(60):
            assert await send(target, "POST", path, large) == 413
        for _ in range(200):
            assert await send(target, "POST", path, small) == 200


async def test_published_workflows(target: Target) -> None:
    workflow = {"1": {"inputs": {"text": "x" * (4 * MB - 1000)}}}
    path = "api/etn/workflow/publish"

    def published(number: int, workflow: Any) -> Packed:
        return packed({"name": "a", "client_id": f"publisher {number}", "workflow": workflow})

    bodies = await asyncio.to_thread(lambda: [published(n, workflow) for n in range(120)])
    too_large = published(0, {"1": "x" * (8 * MB)})
    async with target.attacked_by(MEMBER):
        for body in bodies:
            assert await send(target, "POST", path, body) == 200
        for _ in range(60):
            assert await send(target, "POST", path, too_large) == 413


async def test_long_ids_of_subscribers(target: Target) -> None:
    async with target.attacked_by(MEMBER):
        for number in range(40):
            body = {"client_id": f"{number}" + "x" * (8 * MB)}
            assert await send(target, "POST", "api/etn/workflow/subscribe", body) == 400


async def test_a_workflow_of_very_many_nodes(target: Target) -> None:
    """All are rewritten; the first one fails, so that no cloud has to run the others."""
    graph: dict[str, Any] = {}
    for number in range(15_000):
        graph[f"text{number}"] = node("ETN_Translate", text="a" if number else "lang:de a")
        inputs = {"value": [f"text{number}", 0], "name": "a", "type": "text"}
        graph[f"send{number}"] = node("ETN_KritaSendText", **inputs)
    async with target.attacked_by(MEMBER):
        assert await send(target, "POST", "prompt", {"prompt": graph}) == 200
