"""Opening pictures of strangers: known formats only, and none that unpacks without end."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from proxy.translate.errors import LocalError

T = TypeVar("T")

# Pillow warns from half of the size on at which it refuses; the refusal is what counts here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

#: Formats that are looked into. Others, such as PostScript, would start programs.
FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "AVIF",
    "JPEG2000",
    "PPM",
    "TGA",
    "ICO",
    "DDS",
    "QOI",
)


class NotAPictureError(Exception):
    """The bytes are not a picture that can be opened; the message says why."""


class TooManyPixelsError(NotAPictureError):
    """The picture would unpack to more pixels than anyone needs."""


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture in a file. Raises `NotAPictureError` for whatever goes wrong with it."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            yield picture
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError("it has too many pixels to be unpacked") from error
    except UnidentifiedImageError as error:
        raise NotAPictureError("it is not a picture in a known format") from error
    except (OSError, ValueError, SyntaxError, OverflowError, TypeError, EOFError) as error:
        raise NotAPictureError(f"it cannot be read as a picture: {error}") from error


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in pixels by the header. Raises `NotAPictureError`."""
    with opened(path) as picture:
        return picture.size


def unreadable(filename: str, error: NotAPictureError) -> LocalError:
    """The answer to a request that needs a picture and got another thing."""
    return LocalError(
        400, "invalid_image", f"{filename} cannot be used as a picture: {error}; send a whole one."
    )


class Workshop:
    """Does the work of Pillow in a few threads, so that many requests do not unpack at once."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="pictures")

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """The result of the work, when its turn has come."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def close(self) -> None:
        """Give up what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)
