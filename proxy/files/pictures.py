"""Pictures of strangers: opened, measured, and worked on in threads.

Pillow does the work. Known formats only are opened, how large a picture is its header tells, and
what would unpack to too many pixels is never unpacked.
"""

from __future__ import annotations

import asyncio
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from proxy.members.member import LOCAL
from proxy.translate.assets import picture_metadata
from proxy.translate.errors import LocalError

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

#: Pixels of a picture that is unpacked: the cloud's limit for uploads. Pillow takes up to 18 bytes
#: for each, about 1.2 GB for the largest.
MAX_PIXELS = 67_108_864
#: Pictures beyond this many pixels are unpacked one at a time, regardless of the caller.
LARGE_PIXELS = 16_777_216
#: Pictures that are unpacked at once.
WORKERS = 2

#: Formats that are looked into. Others, such as PostScript, would start programs.
FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"),
    *("JPEG2000", "PPM", "TGA", "ICO", "DDS", "QOI"),
)
#: TIFF 6.0, section 15: the size of the tiles in which a picture is unpacked.
_TILE_WIDTH, _TILE_LENGTH = 322, 323

#: Reads of a file's header, and bytes of it: those with numbers of a TIFF take much more as Python
#: has them.
_MAX_HEADER_READS, _MAX_HEADER_BYTES, _MAX_TAG_BYTES = 4096, 16 * 1024 * 1024, 2 * 1024 * 1024
#: Reads of all of its pixels.
_MAX_READS = 200_000


class NotAPictureError(Exception):
    """The bytes are not a picture that can be opened; the message says why."""


class TooManyPixelsError(NotAPictureError):
    """The picture would unpack to more than `MAX_PIXELS`."""


@cache
def pillow() -> ModuleType:
    """`PIL.Image`, loaded when the first picture is looked at: it takes 3 MB."""
    from PIL import Image

    # Pillow refuses what has more than twice as many pixels as this, also where a picture turns
    # out to be larger than its header said, and warns from half of that on.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image


class _CountedFile(io.BufferedReader):
    """A file of which Pillow reads no more than a picture needs.

    Pillow goes through all parts of a file one by one, and of some it makes numbers or texts that
    it puts together: a small file, packed well, can have millions of them.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        is_tiff = self.peek(2)[:2] in (b"II", b"MM")
        self.begin(_MAX_HEADER_READS, _MAX_TAG_BYTES if is_tiff else _MAX_HEADER_BYTES)

    def begin(self, reads: int, size: int) -> None:
        """Allow so many reads from now on, and so many bytes in those that say how many."""
        self._reads, self._size = reads, size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes. Raises `OSError` when there were too many reads."""
        self._reads -= 1
        self._size -= max(0, size or 0)
        if self._reads < 0 or self._size < 0:
            raise OSError("it has too many parts")
        return super().read(size)


@contextmanager
def opened(path: Path) -> Iterator[Image]:
    """The picture in a file, not unpacked yet. Raises `NotAPictureError` for whatever goes wrong
    with it, in the block too."""
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
        raise TooManyPixelsError(f"it has more than {MAX_PIXELS} pixels") from error
    except images.UnidentifiedImageError as error:
        raise NotAPictureError("it is not a picture in a known format") from error
    except (OSError, ValueError, SyntaxError, OverflowError, TypeError, EOFError) as error:
        raise NotAPictureError(f"it cannot be read as a picture: {error}") from error


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in pixels by the header. Raises `NotAPictureError`."""
    with opened(path) as picture:
        return picture.size


def metadata_of(path: Path) -> bytes | None:
    """The metadata of a picture's record by its header, `None` for what is no picture; blocks."""
    try:
        return picture_metadata(*size_of(path))
    except NotAPictureError:
        return None


def pixels_of(*paths: Path) -> int:
    """How many pixels the largest of some pictures may unpack to, by their headers.

    An icon may hold a larger picture than its header says. Raises `NotAPictureError`.
    """
    most = 0
    for path in paths:
        with opened(path) as picture:
            width, height = picture.size
            most = max(most, MAX_PIXELS if picture.format == "ICO" else width * height)
    return most


def unreadable(filename: str, error: NotAPictureError) -> LocalError:
    """The answer to a request that needs a picture and got another thing, or too large a one."""
    if isinstance(error, TooManyPixelsError):
        return LocalError(
            "image_too_large",
            f"{filename} has more than {MAX_PIXELS} pixels, which is the maximum; use a smaller "
            "picture, or request the file without preview and channel.",
            extra_info={"max_pixels": MAX_PIXELS},
        )
    return LocalError(
        "invalid_image", f"{filename} cannot be used as a picture: {error}; send a complete file."
    )


class PictureWorkers:
    """Does the work of Pillow in a few threads, so that many requests do not unpack at once.

    A member has one picture in work at a time, so that nobody takes all threads; the lone member
    of a proxy without tokens may. Of large pictures one is in work, for all members together.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="pictures")
        self._large = asyncio.Semaphore(1)
        self._turn = asyncio.Semaphore(WORKERS)
        self._places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def run(self, member: str, pixels: int, work: Callable[[], T]) -> T:
        """The result of a member's work on a picture, when its turn has come.

        Who is cancelled does not end work that has begun, and keeps its place until it is done.
        """
        places = asyncio.Semaphore(WORKERS if member == LOCAL else 1)
        place = self._places.setdefault(member, places)
        large = [self._large] if pixels > LARGE_PIXELS else []
        with ExitStack() as held:
            for turn in (place, *large, self._turn):
                await turn.acquire()
                held.callback(turn.release)
            working = asyncio.get_running_loop().run_in_executor(self._pool, work)
            try:
                return await asyncio.shield(working)
            except asyncio.CancelledError:
                kept = held.pop_all()
                working.add_done_callback(lambda _: kept.close())
                raise

    def close(self) -> None:
        """Give up what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)
