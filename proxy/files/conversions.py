"""What clients want of pictures: the queries of `GET /view`, thumbnails, and masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from proxy.translate.errors import Kind, LocalError
from proxy.translate.names import TYPES, Place, resolve, split_annotated


class Conversion(Struct, frozen=True):
    """A conversion by `preview` and `channel`. `format` is `webp`, `jpeg` or `png`.

    `side` is the maximum width and height in pixels. With `upright` the EXIF orientation is
    applied, and transparent pixels become black.
    """

    format: str
    channel: str
    quality: int = 0
    side: int = 0
    upright: bool = False

    @property
    def media_type(self) -> str:
        """The media type of the result."""
        return f"image/{self.format}"

    @property
    def key(self) -> str:
        """The key that distinguishes conversions of one content."""
        words = (self.format, self.quality, self.channel, self.side or "", self.upright or "")
        return " ".join(map(str, words)).rstrip()


#: The thumbnail of a picture in a list.
THUMBNAIL = Conversion("webp", "", quality=80, side=512)


def conversion(preview: str | None, channel: str | None) -> Conversion | None:
    """Return the conversion that a query asks for, `None` if it asks for the file itself.

    `preview` is `FORMAT;QUALITY`: anything but `jpeg` is WebP, and so is `jpeg` with a channel
    that has an `a` in it; a quality that is not a number is 90. Without `preview` only the
    channels `rgb` and `a` convert. Raises `LocalError` (400) for a WebP quality above 100, with
    which ComfyUI fails.
    """
    if preview is None:
        return Conversion("png", channel) if channel in ("rgb", "a") else None
    parts = preview.split(";")
    format_ = "jpeg" if parts[0] == "jpeg" and "a" not in (channel or "") else "webp"
    quality = _quality(parts[-1])
    if format_ == "webp" and quality > 100:
        raise LocalError(
            "invalid_preview", "The quality of a WebP preview is at most 100: preview=webp;90."
        )
    return Conversion(format_, "rgb" if channel == "rgb" else "", min(quality, 100))


#: Extensions of files that `res` makes smaller, ignoring case.
_SMALL_OF = (".png", ".jpg", ".jpeg")


def small(res: str | None, filename: str) -> Conversion | None:
    """Return the conversion that `res=N` asks for, `None` if it asks for the file itself.

    N is a positive number of pixels; anything else is ignored, as by ComfyUI since 0.40.
    """
    if res is None or not filename.lower().endswith(_SMALL_OF):
        return None
    if not (res.isascii() and res.isdigit() and len(res) <= 9 and int(res) > 0):
        return None
    return Conversion("jpeg", "", quality=85, side=int(res), upright=True)


def _quality(text: str) -> int:
    if not text.isdigit():
        return 90
    try:
        return int(text)
    except ValueError:
        raise LocalError(
            "invalid_preview", "The quality of a preview is a number: preview=webp;90."
        ) from None


def original_place(original: Mapping[str, Any]) -> Place:
    """Return where `original_ref` says that the picture is.

    Its fields are `filename` (annotated or not), `subfolder` and `type` (`output` if absent).
    Raises `LocalError`: 403 for a folder that leads out, 404 for a name that leads to none, and 400
    for what is no name, as ComfyUI since 0.46.
    """
    filename, subfolder = original.get("filename"), original.get("subfolder", "")
    if not isinstance(filename, str) or not isinstance(subfolder, str):
        raise LocalError(
            "invalid_original_ref",
            'original_ref needs a filename: {"filename": "cat.png", "subfolder": "", '
            '"type": "input"}.',
        )
    name, annotated = split_annotated(filename)
    type_ = annotated or original.get("type", "output")
    if not name or name.startswith("/") or ".." in name or type_ not in TYPES:
        raise _refused_original("invalid")
    folder = resolve(type_, subfolder)
    if folder is None:
        raise _refused_original("forbidden")
    path = resolve(type_, folder, name)
    if not path:
        raise _refused_original("not_found")
    return Place(type_, path)


def _refused_original(kind: Kind) -> LocalError:
    return LocalError("invalid_original_ref", "original_ref does not name a picture.", kind=kind)


def missing_original() -> LocalError:
    """Return the refusal of a mask whose picture is not there."""
    return LocalError(
        "invalid_original_ref",
        "The picture that original_ref names does not exist; upload it first.",
        kind="not_found",
    )
