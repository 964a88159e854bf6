"""The names of files in the workflow that a picture carries."""

from __future__ import annotations

import io
import json
import random
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from proxy.files.picture_parts import Edits, Slice
from proxy.files.workflow_names import edits, names_in, renaming, texts

HASH = "0" * 63 + "1.png"
OTHER = "f" * 64
GRAPH = {"1": {"class_type": "LoadImage", "inputs": {"image": HASH, "b": f"{OTHER} [output]"}}}
LOCAL = {HASH: 'fö"to.png', OTHER: "sub/x.png"}
RENAMED = {
    "1": {"class_type": "LoadImage", "inputs": {"image": 'fö"to.png', "b": "sub/x.png [output]"}}
}


def noise(count: int = 1) -> list[Image.Image]:
    chance = random.Random(1)
    return [Image.frombytes("RGB", (64, 48), chance.randbytes(64 * 48 * 3)) for _ in range(count)]


def png(graph: Any = GRAPH, name: str = HASH) -> bytes:
    """As SaveImage writes it."""
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", json.dumps(graph))
    info.add_text("workflow", json.dumps({"nodes": [], "about": f"from {name}."}))
    return saved("PNG", noise(), pnginfo=info, compress_level=4)


def animated_png(graph: Any = GRAPH) -> bytes:
    """As SaveAnimatedPNG writes it."""
    info = PngImagePlugin.PngInfo()
    text = b"prompt\0" + json.dumps(graph).encode()
    info.add(b"comf", text, after_idat=True)
    return saved("PNG", noise(3), pnginfo=info, save_all=True)


def webp(graph: Any = GRAPH) -> bytes:
    """As SaveAnimatedWEBP writes it."""
    exif = noise()[0].getexif()
    exif[0x0110] = f"prompt:{json.dumps(graph)}"
    exif[0x010F] = 'workflow:{"nodes": []}'
    return saved("WEBP", noise(3), exif=exif, save_all=True)


def saved(format_: str, frames: list[Image.Image], **options: Any) -> bytes:
    target = io.BytesIO()
    if "save_all" in options:
        options["append_images"] = frames[1:]
    frames[0].save(target, format=format_, **options)
    return target.getvalue()


def edited(data: bytes, local: dict[str, str] = LOCAL) -> tuple[bytes, Edits]:
    found = texts(lambda at, count: data[at : at + count], len(data), whole=True)
    assert found is not None
    made = edits(found, renaming(local))
    return joined(data, made, 0, None), made


def joined(data: bytes, made: Edits, start: int, stop: int | None) -> bytes:
    pieces = made.pieces(start, stop)
    return b"".join(
        data[piece.start : piece.stop] if isinstance(piece, Slice) else piece for piece in pieces
    )


def test_it_becomes_the_file_that_a_local_comfyui_would_have_written() -> None:
    assert edited(png())[0] == png(RENAMED, LOCAL[HASH])
    assert edited(animated_png())[0] == animated_png(RENAMED)


@pytest.mark.parametrize("make", [png, animated_png, webp])
def test_no_pixel_is_touched(make: Any) -> None:
    data, made = edited(make())
    assert made.added == len(data) - len(make())
    with Image.open(io.BytesIO(data)) as after, Image.open(io.BytesIO(make())) as before:
        for frame in range(1 if make is png else 3):
            after.seek(frame)
            before.seek(frame)
            assert after.tobytes() == before.tobytes()


def test_a_local_name_in_a_png() -> None:
    data, _ = edited(png())
    with Image.open(io.BytesIO(data)) as picture:
        assert isinstance(picture, PngImagePlugin.PngImageFile)
        assert json.loads(str(picture.text["prompt"])) == RENAMED
        assert json.loads(str(picture.text["workflow"]))["about"] == 'from fö"to.png.'


def test_a_local_name_in_a_webp() -> None:
    data, _ = edited(webp())
    assert HASH.encode() not in data
    with Image.open(io.BytesIO(data)) as picture:
        exif = picture.getexif()
    assert json.loads(exif[0x0110].removeprefix("prompt:")) == RENAMED
    assert exif[0x010F] == 'workflow:{"nodes": []}'


@pytest.mark.parametrize("make", [png, animated_png, webp])
def test_every_part_of_it_is_that_of_the_whole(make: Any) -> None:
    whole, made = edited(make())
    chance = random.Random(2)
    for _ in range(300):
        start, stop = sorted((chance.randrange(len(whole)), chance.randrange(len(whole) + 1)))
        assert joined(make(), made, start, stop) == whole[start:stop]
        assert joined(make(), made, start, None) == whole[start:]


def test_names_that_nobody_knows_stay() -> None:
    data, made = edited(png(), {})
    assert data == png()
    assert (made.edits, made.added, made.tag) == ((), 0, "")
    assert edited(png(), {HASH: "a"})[1].tag != edited(png(), {HASH: "b"})[1].tag


def test_the_names_in_texts() -> None:
    data = png()
    found = texts(lambda at, count: data[at : at + count], len(data), whole=True)
    assert found is not None
    assert names_in(found) == {HASH, OTHER}


def test_of_a_png_that_is_arriving_the_part_before_the_pixels_is_enough() -> None:
    data = png()
    pixels = data.index(b"IDAT") - 4
    for there in (0, 20, 40, pixels - 1, pixels + 7):
        part = data[:there]
        assert texts(lambda at, count: part[at : at + count], there, whole=False) is None  # noqa: B023
    part = data[: pixels + 8]
    found = texts(lambda at, count: part[at : at + count], len(part), whole=False)
    assert found is not None
    assert len(found) == 2


@pytest.mark.parametrize("make", [animated_png, webp])
def test_others_have_to_be_whole(make: Any) -> None:
    data = make()[:-1]
    assert texts(lambda at, count: data[at : at + count], len(data), whole=False) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 100,
        png()[:50],
        webp()[:40],
        b"RIFF1234WEBPVP8X" + b"\xff" * 40,
        b"RIFF1234WEBPVP8X",
        webp()[:-9],
    ],
)
def test_what_is_no_whole_picture_stays(data: bytes) -> None:
    assert edited(data)[0] == data


@pytest.mark.parametrize("seed", range(20))
def test_damaged_pictures_are_edited_or_left_but_never_fail(seed: int) -> None:
    chance = random.Random(seed)
    for make in (png, animated_png, webp):
        data = bytearray(make())
        for _ in range(8):
            data[chance.randrange(len(data))] = chance.randrange(256)
            data[chance.randrange(64)] = chance.randrange(256)
        edited(bytes(data))
