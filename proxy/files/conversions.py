"""Conversions of pictures as in ComfyUI: for `GET /view`, thumbnails, and masks."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from proxy.files.pictures import NotAPictureError, opened, pillow, size_of
from proxy.files.workflow_names import Rename
from proxy.translate.errors import Kind, LocalError
from proxy.translate.names import TYPES, Place, resolve, split_annotated

if TYPE_CHECKING:
    from PIL.Image import Image

#: Modes of pictures without alpha, which are made smaller without a copy.
_OPAQUE = frozenset({"1", "CMYK", "L", "P", "RGB", "YCbCr"})
#: The EXIF tag of the orientation.
_ORIENTATION = 0x0112


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


def convert_picture(path: Path, wanted: Conversion) -> bytes:
    """Return the converted picture. Raises `NotAPictureError`; blocks."""
    target = io.BytesIO()
    with opened(path) as picture:
        if wanted.upright:
            result = _upright_on_black(picture, wanted.side)
            result.save(target, format=wanted.format, quality=wanted.quality)
            return target.getvalue()
        if wanted.side:
            picture.thumbnail((wanted.side, wanted.side))
        if wanted.format == "jpeg" or wanted.channel == "rgb":
            result = picture.convert("RGB")
        else:
            result = _alpha_alone(picture) if wanted.channel == "a" else picture
        result.save(target, format=wanted.format, quality=wanted.quality)
    return target.getvalue()


def _alpha_alone(picture: Image) -> Image:
    """Return a black picture with the alpha of another: its own, or that of a transparent
    colour; else opaque."""
    result: Image = pillow().new("RGBA", picture.size)
    result.putalpha(_with_alpha(picture).getchannel("A"))
    return result


def _with_alpha(picture: Image) -> Image:
    """Return the picture as RGBA, opaque where it says nothing else (W3C PNG, 11.3.2.1: tRNS)."""
    if not picture.mode.startswith("I;16"):
        return picture.convert("RGBA")
    key = picture.info.get("transparency")
    grey = picture.convert("I")
    levels = grey.point([value // 256 for value in range(65536)], "L")
    result = levels.convert("RGBA")
    if isinstance(key, int):
        result.putalpha(grey.point([255 * (value != key) for value in range(65536)], "L"))
    return result


def _upright_on_black(picture: Image, side: int) -> Image:
    """Return the picture as RGB, fitted into a square of `side` pixels and never enlarged."""
    from PIL import ImageOps

    orientation = picture.getexif().get(_ORIENTATION)
    if picture.format == "JPEG":
        picture.draft("RGB", (2 * side, 2 * side))
    if picture.mode in _OPAQUE and "transparency" not in picture.info:
        bands = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
        bands.thumbnail((side, side))
        result: Image = bands.convert("RGB")
    else:
        # Premultiplied, so that a colour under alpha 0 is not mixed into its neighbours.
        bands = _with_alpha(picture).convert("RGBa")
        bands.thumbnail((side, side))
        result = pillow().merge("RGB", bands.split()[:3])
    if orientation is not None:
        result.getexif()[_ORIENTATION] = orientation
        result = ImageOps.exif_transpose(result)
    return result


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


def compose(original: Path, mask: Path, target: Path, filename: str, rename: Rename) -> None:
    """Write the original with the mask's alpha to `target`, in the format of `filename`.

    The text chunks of a PNG original (its workflow) are kept in a PNG result, renamed. Raises
    `NotAPictureError`, also where the sizes differ, which the headers tell; blocks.
    """
    from PIL.PngImagePlugin import PngInfo

    extension = posixpath.splitext(filename)[1].lower()
    format_ = pillow().registered_extensions().get(extension)
    if format_ is None:
        raise NotAPictureError(f"a mask cannot be saved as {extension or 'a file of no kind'}")
    wanted, got = size_of(original), size_of(mask)
    if wanted != got:
        raise NotAPictureError(
            f"the mask has {got[0]} x {got[1]} pixels but its picture {wanted[0]} x {wanted[1]}"
        )
    with opened(original) as picture:
        notes = PngInfo()
        for key, text in getattr(picture, "text", {}).items():
            notes.add_text(key, rename(text.encode()).decode())
        composed = picture.convert("RGBA")
    with opened(mask) as picture:
        rgba = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        alpha = rgba.getchannel("A")
    try:
        composed.putalpha(alpha)
        composed.save(target, format=format_, compress_level=4, pnginfo=notes)
    except (OSError, ValueError, KeyError) as error:
        raise NotAPictureError(f"the mask cannot be applied to its picture: {error}") from error
