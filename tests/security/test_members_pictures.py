"""A member has the largest pictures that there may be converted."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import time

import aiohttp
import pytest
from files.helpers import progressive
from PIL import Image
from security.attack import MEMBER, Target, busy

from proxy.files.opened_pictures import MAX_PIXELS
from proxy.files.picture_worker import HEADER_SECONDS
from proxy.files.pictures import WORKERS

#: Seconds of processor time in which a decoder starts.
START_SECONDS = 0.4


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


async def upload(
    target: Target,
    picture: bytes,
    path: str = "upload/image",
    *,
    member: str = "eve",
    name: str = "a.png",
    **fields: str,
) -> int:
    form = aiohttp.FormData()
    form.add_field("image", io.BytesIO(picture), filename=name, content_type="image/png")
    for field, value in fields.items():
        form.add_field(field, value)
    return await target.request("POST", path, data=form, member=member)


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


async def test_pictures_of_thousands_of_scans(target: Target) -> None:
    """Each of which is enough to hold a decoder for minutes, of two members. Bob waits at most for
    one that both usual decoders gave up, while another one and his own want a processor too."""
    hostile = await asyncio.to_thread(progressive, 8000, 6000)
    small = await asyncio.to_thread(progressive, 1400, 60_000)
    usual = await asyncio.to_thread(noise, 64)
    attackers = ("eve", "ann")
    for member in attackers:
        for name, picture in (("a.png", hostile), ("b.png", small)):
            assert await upload(target, picture, member=member, name=name) == 200
    waits = []

    async def look(number: int) -> None:
        """Upload a picture and see it, as Bob."""
        began = time.monotonic()
        assert await upload(target, usual, member="bob", name=f"{number}.png") == 200
        view = {"filename": f"{number}.png", "type": "input", "preview": f"webp;{number + 50}"}
        assert await target.request("GET", "view", params=view, member="bob") == 200
        waits.append(time.monotonic() - began)

    async with target.attacked_by(MEMBER):
        views = [{"filename": f"{name}.png", "type": "input", "channel": "rgb"} for name in "ab"]
        attacks = asyncio.gather(
            *(
                target.request("GET", "view", member=member, params=view)
                for member in attackers
                for view in views
            )
        )
        for number in range(30):
            await look(number)
        statuses = await attacks
    assert statuses == [400] * 4
    shared = max(1.0, (WORKERS + 2) / (os.cpu_count() or 1))
    assert max(waits) < (HEADER_SECONDS + START_SECONDS) * shared * busy(), waits
