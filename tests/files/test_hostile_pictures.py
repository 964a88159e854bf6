"""Files that are small on the wire and take long, or much memory, to be looked at."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from proxy.files.conversions import conversion
from proxy.files.opened_pictures import NotAPictureError
from proxy.files.pictures import PictureHeader, PictureWorkers

WEBP = conversion("webp;90", None)
assert WEBP is not None


@pytest.fixture
async def workers() -> AsyncIterator[PictureWorkers]:
    shop = PictureWorkers()
    yield shop
    await shop.close()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_texts(count: int) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"tEXt") * count + pixels + chunk(b"IEND")


def png_of_texts_behind(count: int) -> bytes:
    data = png_of_texts(0)
    return data[:-12] + chunk(b"tEXt") * count + chunk(b"IEND")


def gif_of_comments(count: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
    return head + b"\x21\xfe" + (b"\xff" + b"a" * 255) * count + b"\0" + b"\x2c" + bytes(20)


def ppm_of_comments(count: int) -> bytes:
    return b"P6\n#" + b"a" * count + b"\n1 1\n255\n\0\0\0"


def jpeg_of_markers(count: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (1, 1)).save(written, "JPEG")
    data = written.getvalue()
    return data[:2] + b"\xff\xe5\0\2" * count + data[2:]


def tiff(*tags: tuple[int, int, bytes]) -> bytes:
    """A TIFF of one grey pixel with more tags: their number, type and value."""
    known = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    sizes = {2: 1, 3: 2, 4: 4}
    entries = [(tag, 3, struct.pack("<H", value)) for tag, value in known.items()]
    directory, after = b"", 8 + 4 + 2 + 12 * (len(entries) + len(tags)) + 4
    following = b""
    for tag, kind, value in sorted([*entries, *tags]):
        place = value.ljust(4, b"\0")
        if len(value) > 4:
            place = struct.pack("<I", after + len(following))
            following += value
        directory += struct.pack("<HHI", tag, kind, len(value) // sizes[kind]) + place
    count = struct.pack("<H", len(entries) + len(tags))
    return b"II*\0" + struct.pack("<I", 12) + bytes(4) + count + directory + bytes(4) + following


@pytest.mark.parametrize(
    "make",
    [
        lambda: png_of_texts(300_000),
        lambda: png_of_texts_behind(300_000),
        lambda: gif_of_comments(60_000),
        lambda: ppm_of_comments(3_000_000),
        lambda: jpeg_of_markers(300_000),
    ],
)
async def test_a_file_of_very_many_parts_is_read_or_given_up(
    tmp_path: Path, make: Callable[[], bytes], workers: PictureWorkers
) -> None:
    path = tmp_path / "a"
    path.write_bytes(make())
    await workers.header("ann", path)
    with suppress(NotAPictureError):
        await workers.convert("ann", path, tmp_path / "b", WEBP)


async def test_the_size_of_a_png_is_known_whatever_is_before_its_pixels(
    tmp_path: Path, workers: PictureWorkers
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_of_texts(3_000_000))
    assert await workers.header("ann", path) == PictureHeader(1, 1)


async def test_a_file_whose_header_takes_too_long_counts_as_no_picture(
    tmp_path: Path, workers: PictureWorkers
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_of_markers(5_000_000))
    assert await workers.header("ann", path) is None


@pytest.mark.parametrize(
    "tags",
    [
        tuple((1000 + number, 3, b"\1\0") for number in range(2100)),
        ((322, 2, b"a" * 2_000_000), (323, 3, struct.pack("<H", 60_000))),
        ((322, 2, b"aaaa"), (323, 3, struct.pack("<H", 60_000))),
        ((258, 3, b"\x00\x01" * 12_000_000),),
        ((322, 4, struct.pack("<I", 1 << 16)), (323, 4, struct.pack("<I", 1 << 16))),
    ],
    ids=["many", "long", "text", "numbers", "tiles"],
)
async def test_the_tags_of_a_tiff_take_no_more_than_there_is(
    tmp_path: Path, tags: tuple[tuple[int, int, bytes], ...], workers: PictureWorkers
) -> None:
    path = tmp_path / "a"
    path.write_bytes(tiff(*tags))
    await workers.header("ann", path)
    with suppress(NotAPictureError):
        await workers.convert("ann", path, tmp_path / "b", WEBP)


async def test_a_picture_with_a_large_workflow_is_still_one(
    tmp_path: Path, workers: PictureWorkers
) -> None:
    path = tmp_path / "a.png"
    texts = PngImagePlugin.PngInfo()
    for name in ("prompt", "workflow"):
        texts.add_text(name, "x" * 4_000_000)
    for number in range(500):
        texts.add_text(f"note {number}", "y")
    Image.new("RGB", (7, 5)).save(path, pnginfo=texts)
    assert await workers.header("ann", path) == PictureHeader(7, 5)
    await workers.convert("ann", path, tmp_path / "b", WEBP)
    assert (tmp_path / "b").stat().st_size


async def test_a_plain_tiff_is_a_picture(tmp_path: Path, workers: PictureWorkers) -> None:
    path = tmp_path / "a.tiff"
    path.write_bytes(tiff() + b"\0")
    assert await workers.header("ann", path) == PictureHeader(1, 1)
