"""Untrusted pictures: opened with limits, and processed in threads.

Pillow does the work. Only known formats are opened, and the header is checked before a picture is
decoded, so that none with too many pixels ever is.
"""

from __future__ import annotations

import asyncio
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from proxy import threads
from proxy.members.member import LOCAL
from proxy.translate.assets import picture_metadata
from proxy.translate.errors import LocalError
from proxy.turns import Turns

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

#: Maximum pixels of a decoded picture: the cloud's limit for uploads.
MAX_PIXELS = 67_108_864
#: Maximum bytes of memory that work on one picture takes.
MAX_MEMORY = 340_000_000
#: Bytes of a decoded pixel by Pillow's mode, where they are not four.
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
#: Bytes a pixel that its decoder takes beside them by Pillow's format, where there are any
#: (measured with noise, Pillow 12).
_DECODER_BYTES = {"WEBP": 16, "AVIF": 8, "JPEG2000": 21, "TIFF": 8, "QOI": 4, "DDS": 4}
#: Formats whose encoders take no memory, and bytes a pixel that others take.
_STREAMED = frozenset({"PNG", "JPEG", "BMP", "TIFF", "TGA", "PPM"})
_ENCODER_BYTES = 60
#: Bytes a pixel that the encoder of WebP takes: with alpha, without, and with the method that
#: keeps no tokens (measured with noise, libwebp 1.6).
_WEBP_ALPHA_BYTES, _WEBP_BYTES, _WEBP_FAST_BYTES = 39, 32, 10
#: The slowest method of WebP that keeps no tokens; 4 is what it does otherwise.
_WEBP_FAST_METHOD = 2
#: Pixels from which pictures are decoded one at a time, for all members together. Any work on one
#: with fewer takes at most 68 MB, so that the two workers never take 400 MiB.
LARGE_PIXELS = 1_572_864
#: Maximum number of pictures that are processed concurrently.
WORKERS = 2

#: Formats that are opened. Others, such as PostScript, would start programs.
FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"),
    *("JPEG2000", "PPM", "TGA", "ICO", "DDS", "QOI"),
)
#: TIFF 6.0, section 15: the tags of the size of tiles.
_TILE_WIDTH, _TILE_LENGTH = 322, 323

#: Maximum reads of a file's header, and bytes of it, fewer for the tags of a TIFF, which take more
#: memory as numbers.
_MAX_HEADER_READS, _MAX_HEADER_BYTES, _MAX_TAG_BYTES = 2048, 16 * 1024 * 1024, 2 * 1024 * 1024
#: Maximum reads of all of its pixels.
_MAX_READS = 200_000


class NotAPictureError(Exception):
    """Raised for bytes that are not a picture that can be opened. The text says why."""


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


class _CountedFile(io.BufferedReader):
    """A file with limited reads.

    Pillow reads all parts of a file one by one, and keeps numbers and texts of some: a small file
    can have millions of them.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        is_tiff = self.peek(2)[:2] in (b"II", b"MM")
        self.begin(_MAX_HEADER_READS, _MAX_TAG_BYTES if is_tiff else _MAX_HEADER_BYTES)

    def begin(self, reads: int, size: int) -> None:
        """Allow this many more reads, and bytes of those with a size."""
        self._reads, self._size = reads, size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes. Raises `OSError` after too many reads."""
        self._reads -= 1
        self._size -= max(0, size or 0)
        if self._reads < 0 or self._size < 0:
            raise OSError("it has too many parts")
        return super().read(size)


@contextmanager
def opened(path: Path) -> Iterator[Image]:
    """Open the picture in a file, without decoding it. Raises `NotAPictureError` for all errors,
    also those in the block."""
    images = pillow()
    try:
        with _CountedFile(path) as file, images.open(file, formats=FORMATS) as picture:
            tags = getattr(picture, "tag_v2", {})
            width, length = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
            if not isinstance(width, int) or not isinstance(length, int):
                raise ValueError("the size of its tiles is not a number")
            if width * length > MAX_PIXELS:
                raise images.DecompressionBombError
            file.begin(_MAX_READS, sys.maxsize)
            yield picture
    except images.DecompressionBombError as error:
        raise TooManyPixelsError from error
    except images.UnidentifiedImageError as error:
        raise NotAPictureError("it is not a picture in a known format") from error
    except (OSError, ValueError, SyntaxError, OverflowError, TypeError, EOFError) as error:
        raise NotAPictureError(f"it cannot be read as a picture: {error}") from error


def size_of(path: Path) -> tuple[int, int]:
    """Return width and height in pixels from the header. Raises `NotAPictureError`."""
    with opened(path) as picture:
        return picture.size


def metadata_of(path: Path) -> bytes | None:
    """Return the metadata of a picture's record from its header, or `None`; blocks."""
    try:
        return picture_metadata(*size_of(path))
    except NotAPictureError:
        return None


def pixels_of(*paths: Path) -> int:
    """Return the number of pixels of the largest picture, from the headers.

    An icon may contain a larger picture than its header says. Raises `NotAPictureError`.
    """
    largest = 0
    for path in paths:
        with opened(path) as picture:
            width, height = picture.size
            largest = max(largest, MAX_PIXELS if picture.format == "ICO" else width * height)
    return largest


def memory_of(picture: Image) -> int:
    """Return how many bytes the pixels of a picture take, decoded."""
    return picture.width * picture.height * _MODE_BYTES.get(picture.mode, 4)


def _max_pixels(picture: Image, more: float) -> int:
    decoded = _MODE_BYTES.get(picture.mode, 4) + _DECODER_BYTES.get(picture.format or "", 0)
    return int(MAX_MEMORY / (decoded + more))


def check_memory(picture: Image, more: float = 0.0) -> None:
    """Check that there is memory for a decoded picture, and `more` bytes for each of its pixels.

    An icon is decoded first: it may contain a larger picture than its header says. Raises
    `TooManyPixelsError`.
    """
    if picture.format == "ICO":
        picture.load()
    max_pixels = _max_pixels(picture, more)
    if picture.width * picture.height > max_pixels:
        raise TooManyPixelsError(max_pixels)


def encoding(picture: Image, format_: str, more: float = 0.0) -> dict[str, int]:
    """Return the options with which there is memory to encode a picture beside `more` bytes for
    each of its pixels. Raises `TooManyPixelsError`.

    As WebP a large one is encoded by a faster method, which makes a larger file.
    """
    format_ = format_.upper()
    if format_ != "WEBP":
        check_memory(picture, more + (0 if format_ in _STREAMED else _ENCODER_BYTES))
    elif picture.has_transparency_data:
        check_memory(picture, more + _WEBP_ALPHA_BYTES)
    elif picture.width * picture.height > _max_pixels(picture, more + _WEBP_BYTES):
        check_memory(picture, more + _WEBP_FAST_BYTES)
        return {"method": _WEBP_FAST_METHOD}
    return {}


def unreadable(filename: str, error: NotAPictureError) -> LocalError:
    """Return the error of a file that is not a picture, or has too many pixels."""
    if isinstance(error, TooManyPixelsError):
        return LocalError(
            "image_too_large",
            f"{filename} has more than {error.max_pixels} pixels, the maximum for this request; "
            "use a smaller picture.",
            extra_info={"max_pixels": error.max_pixels},
        )
    return LocalError(
        "invalid_image", f"{filename} cannot be used as a picture: {error}; send a complete file."
    )


def _pixels_or_zero(*paths: Path) -> int:
    try:
        return pixels_of(*paths)
    except NotAPictureError:
        return 0


class PictureWorkers:
    """Processes pictures in a few threads.

    A member has one picture at a time, so that nobody occupies all threads; the only member of a
    proxy without tokens may. Large pictures are processed one at a time, for all members together.
    """

    def __init__(self) -> None:
        self._threads = threads.pool(WORKERS, "pictures")
        self._turns = Turns(1, WORKERS, limits={LOCAL: WORKERS})
        self._large = asyncio.Semaphore(1)

    async def run(self, member: str, work: Callable[[], T], *sources: Path) -> T:
        """Wait for the member's turn, run `work` on the pictures `sources`, and return its result.

        A file that is not a picture reaches `work`, which raises its error. A cancellation does not
        stop work that has begun; it keeps its turn until it ends.
        """
        pixels = 0
        if sources:
            measure = partial(_pixels_or_zero, *sources)
            pixels = await self._turns.run(member, measure, threads=self._threads)
        large = (self._large,) if pixels > LARGE_PIXELS else ()
        return await self._turns.run(member, work, within=large, threads=self._threads)

    def close(self) -> None:
        """Cancel the work that has not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)
