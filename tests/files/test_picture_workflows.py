"""A workflow that is written into a picture is where ComfyUI writes it."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image

from proxy.files.picture_parts import Edits, Slice
from proxy.files.picture_workflows import edits_for

WORKFLOW = json.dumps({"id": "w", "nodes": []}).encode()


def edited(data: bytes, edits: Edits) -> bytes:
    pieces = edits.pieces(0, None)
    return b"".join(data[p.start : p.stop] if isinstance(p, Slice) else p for p in pieces)


def with_workflow(data: bytes) -> bytes:
    edits = edits_for(lambda offset, count: data[offset : offset + count], len(data), WORKFLOW)
    return edited(data, edits)


def written(**options: Any) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(target, **options)
    return target.getvalue()


def test_in_a_png_it_is_a_text() -> None:
    picture = Image.open(io.BytesIO(with_workflow(written(format="PNG"))))
    picture.load()
    assert picture.text["workflow"] == WORKFLOW.decode()  # type: ignore[attr-defined]
    assert picture.getpixel((7, 5)) == (255, 0, 0)


@pytest.mark.parametrize("tags", [{0x0110: "prompt:{}"}, {0x0100: 7, 0x0110: "prompt:{}"}])
def test_in_a_webp_it_is_a_tag_beside_the_others(tags: dict[int, Any]) -> None:
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    picture = Image.open(io.BytesIO(with_workflow(written(format="WEBP", exif=exif))))
    found = picture.getexif()
    assert found[0x010F] == f"workflow:{WORKFLOW.decode()}"
    assert {tag: found[tag] for tag in tags} == tags
    picture.load()


@pytest.mark.parametrize("format_", ["JPEG", "GIF", "WEBP"])
def test_other_files_stay_as_they_are(format_: str) -> None:
    data = written(format=format_)
    assert with_workflow(data) == data


@pytest.mark.parametrize("size", [12, 20, 30, 60, 100])
def test_a_picture_that_is_cut_stays_one(size: int) -> None:
    exif = Image.Exif()
    exif[0x0110] = "prompt:{}"
    data = written(format="WEBP", exif=exif)[:size]
    assert with_workflow(data)[-4:] == data[-4:]
