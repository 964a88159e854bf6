"""What bytes are, and the little that the cloud does to pictures."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from blake3 import blake3
from PIL import Image, UnidentifiedImageError

#: Limits of uploaded pictures, from the notes at the cloud's upload routes.
MAX_PICTURE_BYTES = 50 * 1024 * 1024
MAX_EDGE = 16384
MAX_PIXELS = 67_108_864
#: Limit of a body with a file.
MAX_BODY = 200_000_000

#: Media types by extension, of everything that nodes write or uploads bring.
MEDIA_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tiff": "image/tiff",
    "avif": "image/avif",
    "svg": "image/svg+xml",
    "mp4": "video/mp4",
    "webm": "video/webm",
    "mkv": "video/x-matroska",
    "mov": "video/quicktime",
    "avi": "video/x-msvideo",
    "flac": "audio/flac",
    "wav": "audio/x-wav",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "m4a": "audio/mp4",
    "glb": "model/gltf-binary",
    "txt": "text/plain",
    "json": "application/json",
}

_PICTURES = {
    "PNG": "png",
    "JPEG": "jpg",
    "MPO": "jpg",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tiff",
    "AVIF": "avif",
}


class TooLargeError(ValueError):
    """A picture over a limit; the text names the limit."""


@dataclass(frozen=True, slots=True)
class Medium:
    """`family` is "image", "video", "audio", "3d" or "other"; `extension` without its dot."""

    family: str
    extension: str
    media_type: str


def media_type(extension: str) -> str:
    """Return the media type for an extension without dot."""
    return MEDIA_TYPES.get(extension.lower(), "application/octet-stream")


def family(extension: str) -> str:
    """Return what kind of output a file is, in the words of `output_type` of `GET /api/jobs`."""
    if extension.lower() in ("glb", "gltf", "obj", "ply", "splat"):
        return "3d"
    kind = media_type(extension).split("/")[0]
    return kind if kind in ("image", "video", "audio") else "other"


def identify(data: bytes, filename: str) -> Medium:
    """Return what an upload is: pictures and streams by their bytes, the rest by the name's ending.

    Raises `TooLargeError` for a picture over the limits.
    """
    picture = _picture(data)
    if picture is not None:
        if len(data) > MAX_PICTURE_BYTES:
            raise TooLargeError(f"the picture has {len(data)} bytes; the most is 50 MB")
        return Medium("image", picture, media_type(picture))
    extension = _stream(data)
    if extension is None:
        ending = filename.rpartition(".")[2].lower() if "." in filename else ""
        extension = ending if ending.isalnum() and len(ending) <= 8 else "bin"
        kind = family(extension)
        if kind in ("image", "video", "audio"):
            kind = "other"  # the name promises what the bytes do not hold
        return Medium(kind, extension, media_type(extension))
    return Medium(family(extension), extension, media_type(extension))


def _picture(data: bytes) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                extension = _PICTURES.get(image.format or "")
        except Image.DecompressionBombError:
            raise TooLargeError(f"the picture has more than {MAX_PIXELS} pixels") from None
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
            return None
    if width > MAX_EDGE or height > MAX_EDGE:
        raise TooLargeError(f"the picture is {width}x{height}; an edge may have {MAX_EDGE} pixels")
    if width * height > MAX_PIXELS:
        raise TooLargeError(f"the picture has {width * height} pixels; the most is {MAX_PIXELS}")
    return extension


def _stream(data: bytes) -> str | None:
    """Return the extension of an audio or video container, by its first bytes."""
    head = data[:16]
    if head[:4] == b"RIFF" and head[8:12] in (b"WAVE", b"AVI "):
        return "wav" if head[8:12] == b"WAVE" else "avi"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    if head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2):
        return "mp3"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "webm" if b"webm" in data[:64] else "mkv"
    if head[4:8] == b"ftyp":
        return {b"qt  ": "mov", b"M4A ": "m4a"}.get(head[8:12], "mp4")
    return None


def opaque(data: bytes) -> bytes:
    """Return the picture of `channel=rgb`: a PNG with an opaque alpha. Raises `OSError`."""
    with Image.open(io.BytesIO(data)) as image:
        rgba = image.convert("RGBA")
    rgba.putalpha(255)
    return png(rgba)


def alpha(data: bytes) -> bytes:
    """Return the picture of `channel=a`: a grey PNG of the alpha. Raises `OSError`."""
    with Image.open(io.BytesIO(data)) as image:
        return png(image.convert("RGBA").getchannel("A"))


def fitted(data: bytes, box: int) -> bytes:
    """Return the picture of `res=`: a JPEG that fits in `box` times `box` pixels. Raises
    `OSError`."""
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB")
    small.thumbnail((box, box))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return out.getvalue()


def masked(original: bytes, mask: bytes) -> bytes:
    """Return the original with the alpha of the mask, as PNG. Raises `OSError`."""
    with Image.open(io.BytesIO(original)) as image:
        result = image.convert("RGBA")
    with Image.open(io.BytesIO(mask)) as image:
        new_alpha = image.convert("RGBA").getchannel("A")
    result.putalpha(new_alpha.resize(result.size))
    return png(result)


def reencoded(data: bytes, form: str) -> bytes:
    """Return a preview in another format ("jpeg", "png", "webp")."""
    with Image.open(io.BytesIO(data)) as image:
        out = io.BytesIO()
        image.convert("RGB").save(out, form.upper())
    return out.getvalue()


def png(image: Image.Image) -> bytes:
    """Return the picture as PNG, encoded quickly rather than small."""
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def swatch(name: str) -> bytes:
    """Return a small WebP of one colour, which the name decides: the preview picture of a model."""
    colour = tuple(blake3(name.encode()).digest()[:3])
    out = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(out, "WEBP")
    return out.getvalue()
