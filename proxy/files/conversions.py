"""Conversions of pictures as in ComfyUI: for `GET /view`, thumbnails, and masks."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Mapping
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from proxy.files.pictures import (
    MAX_MEMORY,
    NotAPictureError,
    TooManyPixelsError,
    check_memory,
    encoding,
    memory_of,
    opened,
    pillow,
    size_of,
)
from proxy.files.workflow_names import Rename
from proxy.translate.errors import Kind, LocalError
from proxy.translate.names import TYPES, Place, resolve, split_annotated

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from PIL.Image import Image

#: Modes of pictures without alpha, which are made smaller without a copy.
_OPAQUE = frozenset({"1", "CMYK", "L", "P", "RGB", "YCbCr"})
#: Pixels of a picture that are made smaller at once.
_STRIP_PIXELS = 1 << 20
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


class _Result(io.BytesIO):
    """The bytes of a converted picture. They take what its pixels leave of `MAX_MEMORY`."""

    def __init__(self, picture: Image) -> None:
        super().__init__()
        self._max_pixels = picture.width * picture.height - 1
        # Its buffer is an eighth larger than what is in it.
        self._left = (MAX_MEMORY - memory_of(picture)) * 8 // 9

    def write(self, data: ReadableBuffer, /) -> int:
        """Write bytes. Raises `TooManyPixelsError` if there is no memory for them."""
        written = super().write(data)
        if self.tell() > self._left:
            raise TooManyPixelsError(self._max_pixels)
        return written


def convert_picture(path: Path, wanted: Conversion) -> bytes:
    """Return the converted picture. Raises `NotAPictureError`; blocks."""
    with opened(path) as picture:
        options: dict[str, int] = {}
        if wanted.upright:
            result = _upright_on_black(picture, wanted.side)
        elif wanted.side:
            result = _made_small(picture, wanted.side)
        elif wanted.channel == "a":
            result = _alpha_alone(picture)
        else:
            result, options = _of_full_size(picture, wanted)
        target = _Result(result)
        result.save(target, format=wanted.format, quality=wanted.quality, **options)
    return target.getvalue()


def _of_full_size(picture: Image, wanted: Conversion) -> tuple[Image, dict[str, int]]:
    """Return the picture in the colors that are wanted, and the options to encode it."""
    is_rgb = wanted.format == "jpeg" or wanted.channel == "rgb"
    if picture.mode in (("RGB",) if is_rgb else ("RGB", "RGBA")):
        options = encoding(picture, wanted.format)
        picture.load()  # else Pillow copies it before it is saved
        return picture, options
    options = encoding(picture, wanted.format, 4)
    return picture.convert("RGB") if is_rgb else picture, options


def _alpha_alone(picture: Image) -> Image:
    """Return a black picture with the alpha of another: its own, or that of a transparent color;
    else opaque."""
    alpha = _alpha_of(picture)
    picture.close()
    result: Image = pillow().new("RGBA", alpha.size)
    result.putalpha(alpha)
    return result


def _alpha_of(picture: Image) -> Image:
    if "A" in picture.getbands():
        check_memory(picture, 1)
        return picture.getchannel("A")
    if not picture.has_transparency_data:
        check_memory(picture, 1)
        picture.load()
        opaque: Image = pillow().new("L", picture.size, 255)
        return opaque
    check_memory(picture, 10 if picture.mode.startswith("I;16") else 5)
    return _with_alpha(picture).getchannel("A")


def _with_alpha(picture: Image) -> Image:
    """Return the picture as RGBA, opaque where it says nothing else (W3C PNG, 11.3.2.1: tRNS)."""
    if picture.mode == "RGBA":
        return picture
    if not picture.mode.startswith("I;16"):
        return picture.convert("RGBA")
    key = picture.info.get("transparency")
    grey = picture.convert("I")
    levels = grey.point([value // 256 for value in range(65536)], "L")
    result = levels.convert("RGBA")
    if isinstance(key, int):
        result.putalpha(grey.point([255 * (value != key) for value in range(65536)], "L"))
    return result


def _made_small(picture: Image, side: int) -> Image:
    """Return the picture, fitted into a square of `side` pixels and never enlarged.

    It is RGB, or RGBA if it may be transparent. Strips of it are converted and reduced, one after
    another, to a picture of at least twice the size, which is what Pillow does with a whole one.
    """
    if picture.format == "JPEG":
        picture.draft("RGB", (2 * side, 2 * side))
    is_opaque = picture.mode in _OPAQUE and "transparency" not in picture.info
    larger = max(picture.size)
    factor = max(1, larger // (2 * side))
    check_memory(picture, 4 / factor**2 + 8 * min(1, side / larger) ** 2)
    picture.load()
    width, height = picture.size
    strip = factor * max(1, _STRIP_PIXELS // (width * factor))
    # Premultiplied, so that a color under alpha 0 is not mixed into its neighbors.
    reduced: Image = pillow().new(
        "RGB" if is_opaque else "RGBa", (-(-width // factor), -(-height // factor))
    )
    for top in range(0, height, strip):
        part = picture.crop((0, top, width, min(top + strip, height)))
        part = part.convert("RGB") if is_opaque else _with_alpha(part).convert("RGBa")
        reduced.paste(part.reduce(factor), (0, top // factor))
    picture.close()
    box = (0, 0, width / factor, height / factor)
    fitted = reduced.resize(fitted_size(width, height, side), box=box)
    return fitted if is_opaque else fitted.convert("RGBA")


def fitted_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the size of a picture, fitted into a square, with the aspect that is nearest to its
    own: as Pillow's `thumbnail`."""
    if max(width, height) <= side:
        return width, height
    aspect = width / height
    if aspect <= 1:
        exact = side * aspect
        return max(1, min(floor(exact), ceil(exact), key=lambda x: abs(aspect - x / side))), side
    exact = side / aspect
    return side, max(1, min(floor(exact), ceil(exact), key=lambda y: y and abs(aspect - side / y)))


def _upright_on_black(picture: Image, side: int) -> Image:
    """Return the picture as RGB on black, fitted into a square, turned as its EXIF says."""
    from PIL import ImageOps

    orientation = picture.getexif().get(_ORIENTATION)
    result = _made_small(picture, side)
    if result.mode == "RGBA":
        result = pillow().merge("RGB", result.convert("RGBa").split()[:3])
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
        raise NotAPictureError(
            f"a mask cannot be saved as {extension or 'a file without an extension'}"
        )
    wanted, got = size_of(original), size_of(mask)
    if wanted != got:
        raise NotAPictureError(
            f"the mask has {got[0]} x {got[1]} pixels but its picture {wanted[0]} x {wanted[1]}"
        )
    with opened(mask) as picture:
        alpha = _alpha_of(picture)
        picture.close()
    with opened(original) as picture:
        notes = PngInfo()
        for key, text in getattr(picture, "text", {}).items():
            notes.add_text(key, rename(text.encode()).decode())
        if picture.mode in ("RGB", "RGBA") and "transparency" not in picture.info:
            check_memory(picture, 1)
            picture.load()  # else Pillow copies it before it is changed
            composed = picture
        else:
            check_memory(picture, 5)
            composed = picture.convert("RGBA")
            picture.close()
        composed.putalpha(alpha)
        del alpha
        options: dict[str, Any] = encoding(composed, format_)
        _save_composed(
            composed, target, format_, {"compress_level": 4, "pnginfo": notes, **options}
        )


def _save_composed(picture: Image, target: Path, format_: str, options: Mapping[str, Any]) -> None:
    try:
        picture.save(target, format=format_, **options)
    except (OSError, ValueError, KeyError) as error:
        raise NotAPictureError(f"the mask cannot be applied to its picture: {error}") from error
