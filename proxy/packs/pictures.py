"""Pictures as nodes of packs read them, and results as their clients want them.

Everything here blocks: it runs in the picture workers.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING

from msgspec import Struct

from proxy.files.pictures import (
    MAX_MEMORY,
    NotAPictureError,
    check_memory,
    encoding,
    opened,
    pillow,
)
from proxy.packs.nodes import Mask, PackNodeError

if TYPE_CHECKING:
    from PIL.Image import Image

#: Modes whose 8-bit values core's loader takes as they are.
_PLAIN = frozenset({"RGB", "RGBA", "L"})
_AS_THEY_ARE = frozenset({"PNG", "JPEG", "WEBP"})

_EXIF_ORIENTATION = 0x0112

#: Bytes a pixel that a mask takes, and a mask with colors that are made for it.
_MASK_BYTES, _COLORS_BYTES = 1, 8


class Decoded(Struct, frozen=True):
    """A picture for the cloud: which file has it and its extension, which has its mask (a grey
    PNG), and its size."""

    path: Path
    extension: str
    mask: Path | None
    width: int
    height: int


def from_base64(text: str) -> bytes:
    """Return the bytes of a text; characters that are not of the alphabet are skipped.

    Raises `PackNodeError`.
    """
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise PackNodeError("binascii.Error", str(error)) from error


def decode(source: Path, mask: Mask, converted: Path, converted_mask: Path) -> Decoded:
    """Read a picture as a pack does, in a form that core's loaders read alike.

    What is not taken as it is goes to the files `converted` and `converted_mask`. Raises
    `PackNodeError` in the words of Pillow.
    """
    try:
        with opened(source) as picture:
            width, height = picture.size
            is_plain = mask is Mask.CORE or _is_plain(picture)
            check_memory(picture, _MASK_BYTES if is_plain else _COLORS_BYTES)
            picture.load()
            if mask is Mask.CORE:
                extension = f".{(picture.format or 'png').lower()}"
                return Decoded(source, extension, None, width, height)
            path, extension = source, f".{(picture.format or '').lower()}"
            grey = _mask_of(picture, mask)
            if not is_plain:
                path, extension = converted, ".png"
                _save(_rgb(picture), "PNG", converted)
            if grey is not None:
                _save(grey, "PNG", converted_mask)
            return Decoded(path, extension, converted_mask if grey else None, width, height)
    except NotAPictureError as error:
        raise _in_words_of_pillow(error) from error


def _in_words_of_pillow(error: NotAPictureError) -> PackNodeError:
    images, cause = pillow(), error.__cause__
    if isinstance(cause, images.UnidentifiedImageError):
        shown = f"cannot identify image file {io.BytesIO()!r}"
        return PackNodeError("PIL.UnidentifiedImageError", shown)
    if cause is None or isinstance(cause, images.DecompressionBombError):
        return PackNodeError("PIL.Image.DecompressionBombError", str(error))
    message = re.sub(r" \(\d+ bytes not processed\)$", "", str(cause))
    return PackNodeError(type(cause).__name__, message)


def _is_plain(picture: Image) -> bool:
    """Return whether core's loader reads the file as the pack does."""
    return (
        picture.format in _AS_THEY_ARE
        and picture.mode in _PLAIN
        and getattr(picture, "n_frames", 1) == 1
        and picture.getexif().get(_EXIF_ORIENTATION, 1) == 1
        and "transparency" not in picture.info
    )


def _mask_of(picture: Image, mask: Mask) -> Image | None:
    if mask is Mask.RED:
        return None
    if "A" in picture.getbands():
        return picture.getchannel("A")
    if mask is Mask.ALPHA_OR_RED:
        return picture if picture.mode == "L" else _rgb(picture).getchannel("R")
    return None


def _rgb(picture: Image) -> Image:
    """Return the colours in 8 bits, without alpha; those below alpha 0 are kept."""
    if isinstance(picture.info.get("transparency"), bytes):
        del picture.info["transparency"]  # with it Pillow wants RGBA, a second copy of all pixels
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda level: level / 256).convert("L")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def encode(source: Path, format_: str, target: Path) -> None:
    """Write a picture of the cloud in a format to the file `target`, without texts.

    Raises `PackNodeError` in the words of Pillow.
    """
    if source.stat().st_size > MAX_MEMORY // 2:
        raise PackNodeError("MemoryError", f"the picture has more than {MAX_MEMORY // 2} bytes")
    if format_ == "PNG" and (bare := without_texts(source.read_bytes())) is not None:
        target.write_bytes(bare)
        return
    try:
        with opened(source) as picture:
            options = encoding(picture, format_)
            picture.load()
            _save(picture, format_, target, **options)
    except KeyError as error:
        raise PackNodeError("KeyError", str(error)) from error
    except NotAPictureError as error:
        raise _in_words_of_pillow(error) from error


def _save(picture: Image, format_: str, target: Path | IO[bytes], **options: int) -> None:
    """Write a picture in a format of Pillow's, JPEG with quality 95, without what it carries."""
    picture.info = {}
    picture.save(target, format=format_, quality=95, compress_level=1, **options)


#: Bytes and pixels of a preview that is re-encoded on the way; a larger one is left out.
_PREVIEW_BYTES, _PREVIEW_PIXELS = 1 << 20, 1 << 22


def jpeg(png: bytes) -> bytes | None:
    """Return a preview as JPEG, `None` for one that is too large or no PNG."""
    if len(png) > _PREVIEW_BYTES:
        return None
    images = pillow()
    try:
        with images.open(io.BytesIO(png), formats=("PNG",)) as picture:
            if picture.width * picture.height > _PREVIEW_PIXELS:
                return None
            buffer = io.BytesIO()
            _save(picture.convert("RGB"), "JPEG", buffer)
            return buffer.getvalue()
    except (images.DecompressionBombError, OSError, ValueError, SyntaxError):
        return None


_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf"})


def without_texts(png: bytes) -> bytes | None:
    """Return a PNG without its texts, which hold the graph that ran; `None` for another file."""
    if not png.startswith(_PNG):
        return None
    pieces, at = [_PNG], len(_PNG)
    while at + 8 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] not in _TEXTS:
            pieces.append(png[at:end])
        at = end
    return b"".join(pieces)
