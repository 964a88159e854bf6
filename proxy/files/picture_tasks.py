"""What is done with pictures, in the process for them: sizes, conversions and masks.

The conversions are those of ComfyUI, for `GET /view`, thumbnails, and masks. Imported by the
process, so that it imports little.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from math import ceil, floor
from typing import IO, TYPE_CHECKING, Any

from proxy.files import workflow_names
from proxy.files.opened_pictures import (
    MAX_PIXELS,
    NotAPictureError,
    TooManyPixelsError,
    opened,
    pillow,
)
from proxy.files.picture_parts import png_size, webp_size
from proxy.files.picture_worker import TaskFiles

if TYPE_CHECKING:
    from PIL.Image import Image

#: Modes of pictures without alpha, which are made smaller without a copy.
_OPAQUE = frozenset({"1", "CMYK", "L", "P", "RGB", "YCbCr"})
#: Pixels of a picture that are made smaller at once.
_STRIP_PIXELS = 1 << 20
#: The EXIF tag of the orientation.
_ORIENTATION = 0x0112
#: The slowest method of WebP that keeps no tokens, and so takes a third of the memory.
_WEBP_FAST_METHOD = 2


def size(files: TaskFiles) -> tuple[int, int]:
    """Return width and height in pixels from the header.

    For that of a WebP Pillow asks for the memory of all its pixels, and of a PNG it reads all
    chunks before these.
    """
    source = files.sources[0]
    head = source.read(33)
    found = png_size(head) or webp_size(head)
    if found is not None:
        if found[0] * found[1] > MAX_PIXELS:
            raise TooManyPixelsError
        return found
    source.seek(0)
    with opened(source) as picture:
        return picture.size


def convert(
    files: TaskFiles,
    *,
    format: str,  # noqa: A002
    channel: str,
    quality: int,
    side: int,
    upright: bool,
) -> None:
    """Write the converted picture; a `Conversion` says what the options are."""
    with opened(files.sources[0]) as picture:
        files.begin(picture.width * picture.height)
        if upright:
            result = _upright_on_black(picture, side)
        elif side:
            result = _made_small(picture, side)
        elif channel == "a":
            result = _alpha_alone(picture)
        elif format == "jpeg" or channel == "rgb":
            result = _in_mode(picture, "RGB")
        else:
            result = picture
        save(result, files.targets[0], format, quality=quality)


def save(picture: Image, target: IO[bytes], format_: str, **options: Any) -> None:
    """Write a picture in a format of Pillow's.

    As WebP one that takes too much memory is encoded by a faster method, which makes a larger file.
    """
    picture.load()  # else Pillow copies it before it is saved
    if format_.upper() != "WEBP":
        picture.save(target, format=format_, **options)
        return
    try:
        picture.save(target, format=format_, **options)
    except (MemoryError, ValueError):
        picture.save(target, format=format_, **options, method=_WEBP_FAST_METHOD)


def _in_mode(picture: Image, mode: str) -> Image:
    picture.load()
    return picture if picture.mode == mode else picture.convert(mode)


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
        return picture.getchannel("A")
    if not picture.has_transparency_data:
        picture.load()
        opaque: Image = pillow().new("L", picture.size, 255)
        return opaque
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
    factor = max(1, max(picture.size) // (2 * side))
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


def compose(files: TaskFiles, *, filename: str, names: Mapping[str, str]) -> None:
    """Write the first picture with the alpha of the second one, in the format of `filename`.

    The text chunks of a PNG (its workflow) are kept in a PNG result, with the local `names` of the
    cloud's files. Raises `NotAPictureError` also where the sizes differ, which the headers tell.
    """
    from PIL.PngImagePlugin import PngInfo

    extension = posixpath.splitext(filename)[1].lower()
    format_ = pillow().registered_extensions().get(extension)
    if format_ is None:
        raise NotAPictureError(
            f"a mask cannot be saved as {extension or 'a file without an extension'}"
        )
    original, mask = files.sources
    with opened(original) as picture:
        wanted = picture.size
    with opened(mask) as picture:
        got = picture.size
        if wanted != got:
            raise NotAPictureError(
                f"the mask has {got[0]} x {got[1]} pixels but its picture {wanted[0]} x {wanted[1]}"
            )
        files.begin(got[0] * got[1])
        alpha = _alpha_of(picture)
    original.seek(0)
    with opened(original) as picture:
        notes, rename = PngInfo(), workflow_names.renaming(names)
        for key, text in getattr(picture, "text", {}).items():
            notes.add_text(key, rename(text.encode()).decode())
        picture.load()
        composed = picture
        if picture.mode not in ("RGB", "RGBA") or "transparency" in picture.info:
            composed = picture.convert("RGBA")
            picture.close()
        composed.putalpha(alpha)
        del alpha
        try:
            save(composed, files.targets[0], format_, compress_level=4, pnginfo=notes)
        except (OSError, ValueError, KeyError) as error:
            raise NotAPictureError(f"the mask cannot be applied to its picture: {error}") from error
