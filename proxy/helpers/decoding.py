"""Pictures of helper nodes: decoded as their packs do, and encoded as their clients want them."""

from __future__ import annotations

import base64
import binascii
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.files.pictures import FORMATS, MAX_PIXELS, pillow
from proxy.translate.helper_nodes import HelperFailedError, Mask

if TYPE_CHECKING:
    from PIL.Image import Image

#: Modes whose 8-bit values core's loader takes as they are.
_PLAIN = frozenset({"RGB", "RGBA", "L"})
_AS_THEY_ARE = frozenset({"PNG", "JPEG", "WEBP"})

_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture for the cloud: its bytes with their extension, its mask as a grey PNG, its size."""

    data: bytes
    extension: str
    mask: bytes | None
    width: int
    height: int


def from_base64(text: str) -> bytes:
    """What a text holds; letters that are not of the alphabet are passed over.

    Raises `HelperFailedError`.
    """
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise HelperFailedError("binascii.Error", str(error)) from error


def decode(data: bytes, mask: Mask) -> Decoded:
    """A picture as a pack reads it, in a form that core's loaders read alike; takes a while.

    Raises `HelperFailedError` in the words of Pillow.
    """
    images = pillow()
    source = io.BytesIO(data)
    try:
        with images.open(source, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise HelperFailedError("ValueError", f"it has more than {MAX_PIXELS} pixels")
            picture.load()
            if mask is Mask.CORE:
                return Decoded(data, f".{(picture.format or 'png').lower()}", None, width, height)
            return _decoded(picture, data, mask)
    except images.UnidentifiedImageError as error:
        raise HelperFailedError("PIL.UnidentifiedImageError", str(error)) from error
    except images.DecompressionBombError as error:
        raise HelperFailedError("PIL.Image.DecompressionBombError", str(error)) from error
    except (OSError, ValueError, SyntaxError, OverflowError, TypeError, EOFError) as error:
        message = re.sub(r" \(\d+ bytes not processed\)$", "", str(error))
        raise HelperFailedError(type(error).__name__, message) from error


def _decoded(picture: Image, data: bytes, mask: Mask) -> Decoded:
    width, height = picture.size
    colours = _rgb(picture)
    plain = (
        picture.format in _AS_THEY_ARE
        and picture.mode in _PLAIN
        and getattr(picture, "n_frames", 1) == 1
        and picture.getexif().get(_EXIF_ORIENTATION, 1) == 1
        and "transparency" not in picture.info
    )
    shown = data if plain else encoded_as(colours, "PNG")
    extension = f".{(picture.format or '').lower()}" if plain else ".png"
    alpha = picture.getchannel("A") if "A" in picture.getbands() else None
    if mask is Mask.RED:
        alpha = None
    elif alpha is None and mask is Mask.ALPHA_OR_RED:
        alpha = colours.getchannel("R")
    grey = None if alpha is None else encoded_as(alpha, "PNG")
    return Decoded(shown, extension, grey, width, height)


def _rgb(picture: Image) -> Image:
    """The colours in 8 bits, without alpha; those below alpha 0 are kept."""
    if isinstance(picture.info.get("transparency"), bytes):
        picture = picture.convert("RGBA")
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda level: level / 256).convert("L")
    return picture.convert("RGB")


def encode(data: bytes, format_: str | None) -> bytes:
    """A picture of the cloud in a format, without texts; `None` leaves the file as it is.

    Raises `HelperFailedError` in the words of Pillow.
    """
    if format_ is None:
        return data
    if format_ == "PNG" and (bare := without_texts(data)) is not None:
        return bare
    try:
        with pillow().open(io.BytesIO(data), formats=FORMATS) as picture:
            picture.load()
            return encoded_as(picture, format_)
    except KeyError as error:
        raise HelperFailedError("KeyError", str(error)) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise HelperFailedError(type(error).__name__, str(error)) from error


def encoded_as(picture: Image, format_: str) -> bytes:
    """A picture in a format of Pillow's, JPEG with quality 95."""
    buffer = io.BytesIO()
    bare = pillow().frombytes(picture.mode, picture.size, picture.tobytes())
    bare.save(buffer, format=format_, quality=95, compress_level=1)
    return buffer.getvalue()


#: Bytes and pixels of a preview that is re-encoded on the way; a larger one is left out.
_PREVIEW_BYTES, _PREVIEW_PIXELS = 1 << 20, 1 << 22


def jpeg(png: bytes) -> bytes | None:
    """A preview as JPEG, `None` for one that is too large or no PNG; takes a while."""
    if len(png) > _PREVIEW_BYTES:
        return None
    images = pillow()
    try:
        with images.open(io.BytesIO(png), formats=("PNG",)) as picture:
            if picture.width * picture.height > _PREVIEW_PIXELS:
                return None
            return encoded_as(picture.convert("RGB"), "JPEG")
    except (images.DecompressionBombError, OSError, ValueError, SyntaxError):
        return None


_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf"})


def without_texts(png: bytes) -> bytes | None:
    """A PNG without its texts, which hold the graph that ran; `None` for another file."""
    if not png.startswith(_PNG):
        return None
    pieces, at = [_PNG], len(_PNG)
    while at + 8 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] not in _TEXTS:
            pieces.append(png[at:end])
        at = end
    return b"".join(pieces)
