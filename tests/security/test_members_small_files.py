"""Members whose pictures are a few kilobytes on the wire and very large when they are unpacked."""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections.abc import Callable

import pytest
from files.test_hostile_pictures import png_of_texts, tiff
from security.attack import MEMBER, Target

HEADERS = {"Content-Encoding": "gzip", "Content-Type": "multipart/form-data; boundary=b"}


def upload(name: str, content: bytes) -> bytes:
    """The packed body of an upload."""
    head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    return gzip.compress(head.encode() + content + b"\r\n--b--\r\n")


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: tiff((322, 2, b"a" * 2_000_000), (323, 3, struct.pack("<H", 60_000))), 4),
        (lambda: png_of_texts(3_000_000), 8),
    ],
    ids=["a tile width of text", "empty texts"],
)
async def test_pictures(target: Target, make: Callable[[], bytes], count: int) -> None:
    content = await asyncio.to_thread(make)
    names = [f"{number}.png" for number in range(count)]
    bodies = [await asyncio.to_thread(upload, name, content) for name in names]
    assert max(map(len, bodies)) < 100_000
    async with target.attacked_by(MEMBER):
        uploads = (
            target.request("POST", "upload/image", data=body, headers=HEADERS) for body in bodies
        )
        assert set(await asyncio.gather(*uploads)) <= {200, 429}
        views = (
            target.request("GET", "view", params={"filename": name, "type": "input", **query})
            for name in names
            for query in ({"preview": "webp;90"}, {"res": "256"})
        )
        assert 500 not in await asyncio.gather(*views)
