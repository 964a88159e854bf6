"""A member has the largest picture that there may be made small, many times at once."""

from __future__ import annotations

import asyncio
import io
import math

import aiohttp
from PIL import Image
from security.attack import MEMBER, Target

from proxy.files.pictures import MAX_PIXELS


def largest() -> bytes:
    """A picture of the most pixels, and few bytes."""
    buffer = io.BytesIO()
    side = math.isqrt(MAX_PIXELS)
    Image.new("RGB", (side, side)).save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


async def test_the_largest_picture_is_made_small(target: Target) -> None:
    picture = await asyncio.to_thread(largest)
    form = aiohttp.FormData()
    form.add_field("image", picture, filename="a.png", content_type="image/png")
    assert await target.request("POST", "upload/image", data=form) == 200
    small = [{"filename": "a.png", "type": "input", "res": str(side)} for side in range(256, 262)]
    async with target.attacked_by(MEMBER):
        statuses = await asyncio.gather(
            *(target.request("GET", "view", params=query) for query in small)
        )
    assert set(statuses) == {200}
