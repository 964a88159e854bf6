"""Pictures of strangers: looked at, converted for `GET /view`, and given masks, as by ComfyUI; and
the names of files in the workflows that they carry, the member's instead of the cloud's.

Pillow does the work in threads. Known formats only are opened, how large a picture is its header
tells, and what would unpack to too many pixels is never unpacked.

ComfyUI writes the graph into what it saves, as JSON with ASCII characters alone: PNG in `tEXt`
chunks before the pixels, animated PNG in `comf` chunks behind them (W3C PNG, 11.3.3), WebP in tags
of its EXIF chunk. No other byte of a picture is touched.
"""

from __future__ import annotations

import asyncio
import io
import json
import posixpath
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from msgspec import Struct

from proxy.members.member import LOCAL
from proxy.translate.assets import picture_metadata
from proxy.translate.errors import Kind, LocalError
from proxy.translate.names import TYPES, Place, resolve, split_annotated

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

#: The tag of EXIF that says how a picture is turned.
_ORIENTATION = 0x0112

#: Reads of a file's header, and bytes of it: those with numbers of a TIFF take much more as Python
#: has them.
_MAX_HEADER_READS, _MAX_HEADER_BYTES, _MAX_TAG_BYTES = 4096, 16 * 1024 * 1024, 2 * 1024 * 1024
#: Reads of all of its pixels.
_MAX_READS = 200_000

#: Texts beyond this many bytes, and what lies so far behind a picture's start, stay as they are.
MOST_BYTES = 8 * 1024 * 1024

#: Reads up to this many bytes from an offset on.
Read = Callable[[int, int], bytes]
#: A text with other names in it.
Rename = Callable[[bytes], bytes]

_NAME = re.compile(rb"(?<![\w.:-])(?:blake3:)?[0-9a-f]{64}(?:\.\w+)?(?![\w-])")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"iTXt", b"comf")
#: The flag of VP8X for an EXIF chunk (WebP container, "Extended File Format").
_WEBP_EXIF = 0x08
#: TIFF 6.0, section 2: the type of a text.
_ASCII = 2


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


class Conversion(Struct, frozen=True):
    """What `preview` and `channel` ask for. `format` is `webp`, `jpeg` or `png`.

    With `side` it is no wider and no higher than this many pixels. With `upright` it is turned as
    its EXIF orientation says, and what is transparent lies on black.
    """

    format: str
    channel: str
    quality: int = 0
    side: int = 0
    upright: bool = False

    @property
    def media_type(self) -> str:
        """The type of the result."""
        return f"image/{self.format}"

    @property
    def key(self) -> str:
        """Tells conversions of one content apart."""
        words = (self.format, self.quality, self.channel, self.side or "", self.upright or "")
        return " ".join(map(str, words)).rstrip()


#: A picture that stands for its file in a list.
THUMBNAIL = Conversion("webp", "", quality=80, side=512)


def conversion(preview: str | None, channel: str | None) -> Conversion | None:
    """The conversion that the query asks for, or `None` if the file is answered as it is.

    `preview` is `FORMAT;QUALITY`: anything but `jpeg` is WebP, and so is `jpeg` with a channel
    that has an `a` in it; a quality that is not a number is 90. Without `preview` only the
    channels `rgb` and `a` convert. Raises `LocalError` (400) for a quality beyond WebP's 100,
    with which ComfyUI fails.
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


#: Extensions of the files of which `res` makes a small picture, in any case of letters.
_SMALL_OF = (".png", ".jpg", ".jpeg")


def small(res: str | None, filename: str) -> Conversion | None:
    """Return the conversion that `res=N` asks for, or `None` if the file is answered as it is.

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
    """The converted picture. Raises `NotAPictureError`; blocks."""
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
    """Black with the picture's alpha: its own, or that of a transparent colour; else opaque."""
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
    # Premultiplied, so that a colour under alpha 0 is not mixed into its neighbours.
    bands = _with_alpha(picture).convert("RGBa")
    bands.thumbnail((side, side))
    result: Image = pillow().merge("RGB", bands.split()[:3])
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


# --- names in the workflow that a picture carries ---------------------------------------------


class Edit(NamedTuple):
    """The bytes from `start` to `stop` (excluded) give way to `data`."""

    start: int
    stop: int
    data: bytes


class Slice(NamedTuple):
    """The bytes of the file from `start` to `stop` (excluded; the end if `None`)."""

    start: int
    stop: int | None


class Edits(Struct, frozen=True):
    """What is replaced in a file, in order and apart from each other."""

    edits: tuple[Edit, ...] = ()

    @property
    def added(self) -> int:
        """By how many bytes the file becomes longer."""
        return sum(len(edit.data) - (edit.stop - edit.start) for edit in self.edits)

    @property
    def weight(self) -> int:
        """About how many bytes this takes in memory."""
        return 512 + sum(len(edit.data) for edit in self.edits)

    @property
    def tag(self) -> str:
        """Tells the edits of one file apart; empty without any."""
        checksum = 0
        for edit in self.edits:
            checksum = zlib.crc32(edit.data, checksum)
        return f"{checksum:x}" if self.edits else ""

    def pieces(self, start: int, stop: int | None) -> Iterator[bytes | Slice]:
        """What the bytes from `start` to `stop` of the edited file are made of."""
        at, shift = start, 0  # where we are in the edited file, and what it is ahead by
        last = sys.maxsize if stop is None else stop
        for edit in self.edits:
            begin = edit.start + shift
            end = begin + len(edit.data)
            if at < (until := min(begin, last)):
                yield Slice(at - shift, until - shift)
                at = until
            if begin <= at < (until := min(end, last)):
                yield edit.data[at - begin : until - begin]
                at = until
            shift += len(edit.data) - (edit.stop - edit.start)
        if stop is None or at < stop:
            yield Slice(at - shift, None if stop is None else stop - shift)


class MetadataText(NamedTuple):
    """A part of a picture with a name of the cloud's; `edited` puts renamed texts in its place."""

    data: bytes
    edited: Callable[[Rename], tuple[Edit, ...]]


def texts(read: Read, available: int, *, whole: bool) -> list[MetadataText] | None:
    """The texts of a picture that name files as the cloud does; `None` if more has to be there.

    `available` bytes are there, which are all if it is `whole`.
    """
    head = read(0, 32)
    if not whole and len(head) < 32:
        return None
    if head.startswith(_PNG):
        return _png_texts(read, available, whole=whole)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20] & _WEBP_EXIF:
        return _webp_texts(read, available) if whole else None
    return []


def names_in(found: Iterable[MetadataText]) -> set[str]:
    """The cloud's names in texts."""
    return {name.decode() for text in found for name in _NAME.findall(text.data)}


def renaming(local_names: Mapping[str, str]) -> Rename:
    """Puts the local names that are known instead of the cloud's, as JSON in ASCII has them."""

    def replace(match: re.Match[bytes]) -> bytes:
        local = local_names.get(match[0].decode())
        return match[0] if local is None else json.dumps(local)[1:-1].encode()

    return lambda text: _NAME.sub(replace, text)


def edits(found: Iterable[MetadataText], rename: Rename) -> Edits:
    """What is to be replaced in a picture with these texts."""
    changed = (text.edited(rename) for text in found if rename(text.data) != text.data)
    return Edits(tuple(sorted(chain.from_iterable(changed))))


def _png_texts(read: Read, available: int, *, whole: bool) -> list[MetadataText] | None:
    """Those before the pixels; of an animated picture, which is to be whole, those behind too."""
    found: list[MetadataText] = []
    offset, animated = len(_PNG), False
    while animated or offset < MOST_BYTES:
        header = read(offset, 8)
        if len(header) < 8:
            return found if whole else None
        length, kind = struct.unpack(">I4s", header)
        stop = offset + 12 + length
        if kind == b"IEND" or (kind == b"IDAT" and not animated):
            break
        if kind == b"acTL":
            animated = True
            if not whole:
                return None
        if stop > available:
            return found if whole else None
        if kind in _PNG_TEXTS and length <= MOST_BYTES:
            data = read(offset + 8, length)
            if _NAME.search(data):
                found.append(MetadataText(data, partial(_png_edits, kind, offset, stop, data)))
        offset = stop
    return found


def _png_edits(kind: bytes, start: int, stop: int, old: bytes, rename: Rename) -> tuple[Edit, ...]:
    data = rename(old)
    chunk = kind + data
    whole = struct.pack(">I", len(data)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return (Edit(start, stop, whole),)


def _webp_texts(read: Read, available: int) -> list[MetadataText]:
    offset = 12
    while len(header := read(offset, 8)) == 8:
        kind, length = struct.unpack("<4sI", header)
        stop = offset + 8 + length + length % 2
        if kind == b"EXIF" and length <= MOST_BYTES and stop <= available:
            data = read(offset + 8, length)
            edited = partial(_webp_edits, offset, stop, data, available)
            return [MetadataText(data, edited)] if _NAME.search(data) else []
        offset = stop
    return []


def _webp_edits(start: int, stop: int, old: bytes, size: int, rename: Rename) -> tuple[Edit, ...]:
    data = _renamed_exif(old, rename)
    whole = b"EXIF" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    riff = struct.pack("<I", size - 8 + len(whole) - (stop - start))
    return Edit(4, 8, riff), Edit(start, stop, whole)


def _renamed_exif(exif: bytes, rename: Rename) -> bytes:
    """EXIF in which the texts of the first directory are renamed.

    What does not fit into its place goes behind the rest and leaves zeros, so that no other
    offset changes (TIFF 6.0, section 2).
    """
    before = b"Exif\0\0" if exif.startswith(b"Exif\0\0") else b""
    tiff = bytearray(exif[len(before) :])
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (directory,) = struct.unpack_from(f"{order}4xI", tiff)
        (count,) = struct.unpack_from(f"{order}H", tiff, directory)
        for number in range(count):
            entry = directory + 2 + 12 * number
            kind, length, offset = struct.unpack_from(f"{order}2xHII", tiff, entry)
            old = bytes(tiff[offset : offset + length])
            if kind != _ASCII or len(old) != length or (new := rename(old)) == old:
                continue
            tiff[offset : offset + length] = bytes(length)
            struct.pack_into(f"{order}II", tiff, entry + 4, len(new), len(tiff))
            tiff += new
    except struct.error:
        return exif
    return before + bytes(tiff)
