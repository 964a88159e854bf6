"""The conversions of `GET /view`, pixel by pixel as ComfyUI 0.3.64 makes them with Pillow."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from proxy.files.pictures import opened
from proxy.translate.errors import LocalError


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `preview` and `channel` ask for. `format` is `webp`, `jpeg` or `png`."""

    format: str
    channel: str
    quality: int = 0

    @property
    def media_type(self) -> str:
        """The type of the result."""
        return f"image/{self.format}"

    @property
    def key(self) -> str:
        """Tells conversions of one content apart."""
        return f"{self.format} {self.quality} {self.channel}"


def conversion(preview: str | None, channel: str | None) -> Conversion | None:
    """The conversion that the query asks for, or `None` if the file is answered as it is.

    `preview` is `FORMAT;QUALITY`: anything but `jpeg` is WebP, and so is `jpeg` with a channel
    that has an `a` in it; a quality that is not a number is 90. Without `preview` only the
    channels `rgb` and `a` convert. Raises `LocalError` (400) for a quality beyond WebP's 100,
    with which ComfyUI fails.
    """
    if preview is None:
        return Conversion("png", channel) if channel in ("rgb", "a") else None
    parts = preview.split(";")
    format_ = "jpeg" if parts[0] == "jpeg" and "a" not in (channel or "") else "webp"
    quality = _quality(parts[-1])
    if format_ == "webp" and quality > 100:
        raise LocalError(
            400, "invalid_preview", "The quality of a WebP preview is at most 100: preview=webp;90."
        )
    return Conversion(format_, "rgb" if channel == "rgb" else "", min(quality, 100))


def _quality(text: str) -> int:
    if not text.isdigit():
        return 90
    try:
        return int(text)
    except ValueError:
        raise LocalError(
            400, "invalid_preview", "The quality of a preview is a number: preview=webp;90."
        ) from None


def convert_picture(path: Path, wanted: Conversion) -> bytes:
    """The converted picture. Raises `NotAPictureError`; blocks."""
    target = io.BytesIO()
    with opened(path) as picture:
        if wanted.format != "png":
            rgb = wanted.format == "jpeg" or wanted.channel == "rgb"
            result = picture.convert("RGB") if rgb else picture
            result.save(target, format=wanted.format, quality=wanted.quality)
        elif wanted.channel == "rgb":
            picture.convert("RGB").save(target, format="PNG")
        else:
            _alpha_alone(picture).save(target, format="PNG")
    return target.getvalue()


def _alpha_alone(picture: Image.Image) -> Image.Image:
    """Black with the picture's alpha; opaque where the picture is not RGBA."""
    opaque = Image.new("L", picture.size, 255)
    alpha = picture.getchannel("A") if picture.mode == "RGBA" else opaque
    result = Image.new("RGBA", picture.size)
    result.putalpha(alpha)
    return result
