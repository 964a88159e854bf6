"""Untrusted pictures, opened by Pillow with limits. Imported by the process that decodes them.

Only known formats are opened, and none with more pixels than the cloud takes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING

from proxy.files.picture_parts import webp_size

if TYPE_CHECKING:
    from PIL.Image import Image

#: Maximum pixels of a decoded picture: the cloud's limit for uploads.
MAX_PIXELS = 67_108_864

#: Formats that are opened. Others, such as PostScript, would start programs.
FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"),
    *("JPEG2000", "PPM", "TGA", "ICO", "DDS", "QOI"),
)


class NotAPictureError(Exception):
    """Raised for bytes that are not a picture that can be opened. The text says why.

    `kind` and `reason` are the name and the text of Pillow's own error, where there was one.
    """

    def __init__(self, text: str, kind: str = "", reason: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.reason = reason


class TooManyPixelsError(NotAPictureError):
    """Raised for a picture with more pixels than there may be for what is wanted of it."""

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(f"it has more than {max_pixels} pixels")
        self.max_pixels = max_pixels


@cache
def pillow() -> ModuleType:
    """Return `PIL.Image`, which is imported with the first picture: it takes 3 MB."""
    from PIL import Image

    # Pillow refuses more than twice as many pixels, also if a picture is larger than its header
    # says. It warns from half of that on, and of damaged tags: Python would remember each text.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    warnings.filterwarnings("ignore", module="PIL")
    return Image


#: How Pillow's decoders and encoders say that there is no memory.
_NO_MEMORY = ("encoding error 1", "out of memory")
#: Pixels of a WebP for which there may be none.
_LARGE_WEBP = 1 << 24


@contextmanager
def opened(file: Path | IO[bytes]) -> Iterator[Image]:
    """Open the picture in a file, without decoding it. Raises `NotAPictureError` for all errors,
    also those in the block, `MemoryError`."""
    images = pillow()
    try:
        with images.open(file, formats=FORMATS) as picture:
            yield picture
    except images.DecompressionBombError:
        raise TooManyPixelsError from None
    except images.UnidentifiedImageError as error:
        raise _not_a_picture("it is not a picture in a known format", error) from error
    except (OSError, ValueError, SyntaxError, OverflowError, TypeError, EOFError) as error:
        if _lacks_memory(file, str(error)):
            raise MemoryError from error
        raise _not_a_picture(f"it cannot be read as a picture: {error}", error) from error


def _lacks_memory(file: Path | IO[bytes], reason: str) -> bool:
    """Return whether Pillow failed because there is no memory, which it says of a large WebP as of
    a damaged one."""
    if isinstance(file, Path) or not reason.startswith("could not create decoder object"):
        return reason.startswith(_NO_MEMORY)
    file.seek(0)
    width, height = webp_size(file.read(30)) or (0, 0)
    return width * height > _LARGE_WEBP


def _not_a_picture(text: str, error: Exception) -> NotAPictureError:
    return NotAPictureError(text, type(error).__name__, str(error))
