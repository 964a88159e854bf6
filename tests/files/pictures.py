"""Pictures, and what a ComfyUI makes of them for `GET /view`."""

from __future__ import annotations

import io
from functools import cache

from PIL import Image, ImageChops


@cache
def picture(mode: str = "RGBA", edge: int = 16) -> bytes:
    """Every pixel another one, also in its alpha, as PNG."""
    image = Image.new("RGBA", (edge, edge))
    image.putdata([(x * 9, y * 9, x * y, x + 10 * y) for y in range(edge) for x in range(edge)])
    target = io.BytesIO()
    image.convert(mode).save(target, "PNG")
    return target.getvalue()


def decoded(data: bytes) -> tuple[str | None, str, tuple[int, int], bytes]:
    """Format, mode, size and pixels of a picture."""
    with Image.open(io.BytesIO(data)) as image:
        return image.format, image.mode, image.size, image.tobytes()


def loaded(data: bytes, *, inverted: bool = False) -> bytes:
    """The pixels that `LoadImage` gives, as they are or behind `ImageInvert`."""
    with Image.open(io.BytesIO(data)) as image:
        rgb = image.convert("RGB")
    return (ImageChops.invert(rgb) if inverted else rgb).tobytes()


def converted(data: bytes, preview: str | None, channel: str | None) -> bytes:
    """The answer to `preview` and `channel`."""
    target = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        if preview is not None:
            form, _, quality = preview.partition(";")
            jpeg = form == "jpeg" and "a" not in (channel or "")
            result = image.convert("RGB") if jpeg or channel == "rgb" else image
            number = int(quality) if quality.isdigit() else 90
            result.save(target, "JPEG" if jpeg else "WEBP", quality=number)
        elif channel == "rgb":
            image.convert("RGB").save(target, "PNG")
        elif channel == "a":
            opaque = Image.new("L", image.size, 255)
            result = Image.new("RGBA", image.size)
            result.putalpha(image.getchannel("A") if image.mode == "RGBA" else opaque)
            result.save(target, "PNG")
        else:
            return data
    return target.getvalue()
