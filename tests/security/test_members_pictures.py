"""A member has the largest pictures that there may be converted."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os

import aiohttp
import pytest
from PIL import Image
from security.attack import MEMBER, Target

from proxy.files.pictures import MAX_PIXELS


def largest(mode: str, color: tuple[int, ...]) -> bytes:
    """A picture of the most pixels, and few bytes."""
    buffer = io.BytesIO()
    side = math.isqrt(MAX_PIXELS)
    Image.new(mode, (side, side), color).save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def noise(side: int) -> bytes:
    """A picture that takes the encoder of WebP as much memory as any."""
    buffer = io.BytesIO()
    picture = Image.frombytes("RGBA", (side, side), os.urandom(4 * side * side))
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


async def upload(target: Target, picture: bytes, path: str = "upload/image", **fields: str) -> int:
    form = aiohttp.FormData()
    form.add_field("image", io.BytesIO(picture), filename="a.png", content_type="image/png")
    for name, value in fields.items():
        form.add_field(name, value)
    return await target.request("POST", path, data=form)


async def test_the_largest_picture_is_made_small(target: Target) -> None:
    assert await upload(target, await asyncio.to_thread(largest, "RGB", (0, 0, 0))) == 200
    small = [{"filename": "a.png", "type": "input", "res": str(side)} for side in range(256, 262)]
    async with target.attacked_by(MEMBER):
        statuses = await asyncio.gather(
            *(target.request("GET", "view", params=query) for query in small)
        )
    assert set(statuses) == {200}


async def test_the_largest_picture_gets_a_mask(target: Target) -> None:
    picture = await asyncio.to_thread(largest, "RGB", (0, 0, 0))
    mask = await asyncio.to_thread(largest, "RGBA", (0, 0, 0, 99))
    assert await upload(target, picture) == 200
    original = json.dumps({"filename": "a.png", "type": "input"})
    async with target.attacked_by(MEMBER):
        assert await upload(target, mask, "upload/mask", original_ref=original) == 200


@pytest.mark.parametrize("query", ["preview=webp;90", "preview=jpeg;90", "channel=rgb"])
async def test_a_large_picture_is_converted(target: Target, query: str) -> None:
    assert await upload(target, await asyncio.to_thread(noise, 2800)) == 200
    name, _, value = query.partition("=")
    view = {"filename": "a.png", "type": "input", name: value}
    async with target.attacked_by(MEMBER):
        assert await target.request("GET", "view", params=view) == 200
