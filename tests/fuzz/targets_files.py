"""Targets: names of files, and what pictures carry."""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from fuzz import seeds
from fuzz.harness import of_bytes, of_text
from graphs import plain
from PIL import Image, PngImagePlugin

from proxy.api.content import content_headers, filename_parameter
from proxy.cli.common import CommandError
from proxy.cli.workflows import load_workflow
from proxy.files import workflow_names
from proxy.files.picture_parts import png_size, webp_size
from proxy.packs.nodes import PackNodeError
from proxy.packs.picture_tasks import without_texts
from proxy.packs.pictures import from_base64
from proxy.translate import media_types, names
from proxy.userdata.entries import BadNameError, LeadsOutError, parts_of

_NAMES = (
    *("cat.png", "sub/cat.png [output]", "blake3:" + "0a" * 32, "0a" * 32 + ".png [input]"),
    *(
        "../../x",
        "C:\\x\\y.png",
        "ComfyUI_00042_.png",
        "clip_00001-audio.mp4",
        "a.tar.gz",
        "%2e%2e",
    ),
)
_LOCAL_NAME = "cat.png"
_CLOUD_NAME = "0a" * 32 + ".png"


@of_text(seeds=["ComfyUI", "video/clip", "%year%-%month%/%width%x%height%", "../a", "x/" * 40])
def prefix(text: str) -> None:
    """Make names of a `filename_prefix`."""
    names.needs_size(text)
    expanded = names.expand(text, time.gmtime(0), width=8, height=8)
    subfolder, stem = names.split_prefix(expanded)
    names.resolve("output", subfolder)
    names.is_storable(names.counted(stem, 1, "_.png"))


@of_text(LeadsOutError, BadNameError, seeds=_NAMES)
def file_name(text: str) -> None:
    """Find the place of a name, as routes, graphs and folders do."""
    names.view_place(text, text, None)
    names.upload_refusal(text, text, "input")
    names.upload_place(text, text, "input")
    names.written_place(text)
    names.hash_address(text)
    names.is_hash_name(text)
    names.split_counted(text)
    names.temp_stem(text)
    names.numbered(text, 1)
    list(names.counters(text))
    media_types.kind(text)
    content_headers(
        media_types.media_type(text), disposition="inline", name=filename_parameter(text)
    )
    parts_of(text)


def _pictures() -> Iterator[bytes]:
    """Yield small pictures with a graph in them, in the formats that ComfyUI writes."""
    graph = json.dumps(plain() | {"3": {"inputs": {"image": _CLOUD_NAME}}})
    picture = Image.new("RGBA", (4, 4))
    texts = PngImagePlugin.PngInfo()
    texts.add_text("prompt", graph)
    texts.add_text("workflow", graph, zip=True)
    exif = Image.Exif()
    exif[0x0110] = f"prompt:{graph}"
    for format_, more in (("PNG", {"pnginfo": texts}), ("WEBP", {"exif": exif}), ("TIFF", {})):
        target = io.BytesIO()
        picture.save(target, format_, **more)  # type: ignore[arg-type]
        yield target.getvalue()
    for format_ in ("JPEG", "GIF", "BMP", "ICO", "TGA", "PPM"):
        target = io.BytesIO()
        options = {"exif": exif} if format_ == "JPEG" else {}
        picture.convert("RGB").save(target, format_, **options)
        yield target.getvalue()
    yield b"RIFF\x10\0\0\0WEBPVP8X" + bytes(4)


@cache
def _file(suffix: str) -> Path:
    """Return the file that a target writes its input to."""
    return Path(tempfile.mkdtemp(prefix="fuzz-")) / f"input{suffix}"


@of_bytes(seeds=_pictures)
def picture_metadata(data: bytes) -> None:
    """Write the client's names in place of the cloud's."""

    def read(start: int, size: int) -> bytes:
        return data[start : start + size]

    workflow_names.texts(read, len(data), whole=False)
    found = workflow_names.texts(read, len(data), whole=True) or []
    names_ = workflow_names.names_in(found)
    rename = workflow_names.renaming(dict.fromkeys(names_, _LOCAL_NAME))
    edits = workflow_names.edits(found, rename)
    list(edits.pieces(0, None))
    without_texts(data)
    png_size(data[:33])
    webp_size(data[:30])


@of_bytes(CommandError, seeds=_pictures)
def picture_with_workflow(data: bytes) -> None:
    """Read the workflow of a picture."""
    _file(".png").write_bytes(data)
    load_workflow(_file(".png"))


@of_bytes(CommandError, seeds=lambda: (json.dumps(graph).encode() for graph in seeds.graphs()))
def workflow_file(data: bytes) -> None:
    """Read a file with a workflow."""
    _file(".json").write_bytes(data)
    load_workflow(_file(".json"))


@of_text(PackNodeError, seeds=["aGVsbG8=", "data:image/png;base64,aGVsbG8="])
def base64_text(text: str) -> None:
    """Decode a picture of a node."""
    from_base64(text)
