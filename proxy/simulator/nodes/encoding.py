"""Pictures as files, and files as pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageOps, ImageSequence
from PIL.PngImagePlugin import PngInfo

#: The larger side of a preview is at most this many pixels, as with ComfyUI's default.
PREVIEW_SIZE = 512


def png(
    picture: Image.Image, metadata: Mapping[str, Any] | None = None, compress_level: int = 4
) -> bytes:
    """Return a PNG with each of `metadata` as JSON in a `tEXt` chunk of its own.

    Raises `ValueError` or `UnicodeEncodeError` for a key that is no PNG keyword.
    """
    info = PngInfo()
    for key, value in (metadata or {}).items():
        info.add_text(key, json.dumps(value))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=info, compress_level=compress_level)
    return buffer.getvalue()


def workflow(prompt: object, extra_pnginfo: object) -> dict[str, Any]:
    """Return what ComfyUI writes into the files that it saves: the graph, and what the client
    added."""
    found = {} if prompt is None else {"prompt": prompt}
    if isinstance(extra_pnginfo, Mapping):
        found.update(extra_pnginfo)
    return found


def jpeg(picture: Image.Image, quality: int = 95) -> bytes:
    """Return a JPEG of a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def fitted(picture: Image.Image, side: int = PREVIEW_SIZE) -> Image.Image:
    """Return the picture, made smaller where its larger side exceeds `side`."""
    if max(picture.size) <= side:
        return picture
    return ImageOps.contain(picture, (side, side), Image.Resampling.BILINEAR)


def frames(data: bytes) -> list[Image.Image]:
    """Return every frame of a picture file, upright, in its own colour mode.

    Raises `OSError` where the bytes are no picture, or a broken one.
    """
    with Image.open(io.BytesIO(data)) as source:
        source.load()
        return [ImageOps.exif_transpose(frame).copy() for frame in ImageSequence.Iterator(source)]


def rgb(picture: Image.Image) -> Image.Image:
    """Return the picture without alpha, the colours under it kept, and 16-bit greys brought to
    8."""
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda level: level / 256).convert("L")
    return picture.convert("RGB")


def alpha(picture: Image.Image) -> Image.Image | None:
    """Return the alpha channel as "L", or `None` where the picture has none."""
    if "A" in picture.getbands():
        return picture.getchannel("A")
    if "transparency" in picture.info:
        return picture.convert("RGBA").getchannel("A")
    return None


def animation(pictures: list[Image.Image], format_: str, fps: float, **options: Any) -> bytes:
    """Return an animated file in a format of Pillow's: "WEBP", "PNG", "GIF"."""
    buffer = io.BytesIO()
    first, *others = pictures
    first.save(
        buffer,
        format=format_,
        save_all=True,
        append_images=others,
        duration=max(1, round(1000 / fps)),
        loop=0,
        **options,
    )
    return buffer.getvalue()
