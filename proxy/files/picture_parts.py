"""Parts of pictures that are replaced: chunks of PNG files, and the EXIF of WebP files.

All other bytes of a file stay as they are.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

#: Reads up to this many bytes from an offset on.
Read = Callable[[int, int], bytes]

#: The first bytes of a PNG.
PNG = b"\x89PNG\r\n\x1a\n"


class Edit(NamedTuple):
    """A replacement of the bytes from `start` to `stop` (excluded) by `data`."""

    start: int
    stop: int
    data: bytes


class Slice(NamedTuple):
    """The bytes of the file from `start` to `stop` (excluded; the end if `None`)."""

    start: int
    stop: int | None


class Edits(NamedTuple):
    """The replacements in a file, in order and without overlap."""

    edits: tuple[Edit, ...] = ()

    @property
    def added(self) -> int:
        """The number of bytes by which the file grows."""
        return sum(len(edit.data) - (edit.stop - edit.start) for edit in self.edits)

    @property
    def weight(self) -> int:
        """The approximate bytes of memory, with the record that they are cached by."""
        return 2048 + sum(len(edit.data) for edit in self.edits)

    @property
    def tag(self) -> str:
        """A tag that distinguishes edits of one file; empty without any."""
        checksum = 0
        for edit in self.edits:
            checksum = zlib.crc32(edit.data, checksum)
        return f"{checksum:x}" if self.edits else ""

    def pieces(self, start: int, stop: int | None) -> Iterator[bytes | Slice]:
        """Yield the edited file from `start` to `stop`, as bytes and slices of the unedited one."""
        at, shift = (
            start,
            0,
        )  # the position in the edited file, and its distance to the unedited one
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


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a whole chunk of a PNG (W3C PNG, 5.3)."""
    chunk = kind + data
    return struct.pack(">I", len(data)) + chunk + struct.pack(">I", zlib.crc32(chunk))


class WebpExif(NamedTuple):
    """The EXIF chunk of a WebP of so many bytes, from `start` to `stop` (excluded)."""

    start: int
    stop: int
    data: bytes
    size: int

    def replaced(self, data: bytes) -> tuple[Edit, ...]:
        """Return what replaces the EXIF."""
        chunk = b"EXIF" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        riff = struct.pack("<I", self.size - 8 + len(chunk) - (self.stop - self.start))
        return Edit(4, 8, riff), Edit(self.start, self.stop, chunk)


def webp_exif(read: Read, size: int, *, max_bytes: int) -> WebpExif | None:
    """Return the EXIF chunk of a complete WebP of `size` bytes, `None` without one of at most
    `max_bytes`."""
    offset = 12
    while len(header := read(offset, 8)) == 8:
        kind, length = struct.unpack("<4sI", header)
        stop = offset + 8 + length + length % 2
        if kind == b"EXIF" and length <= max_bytes and stop <= size:
            return WebpExif(offset, stop, read(offset + 8, length), size)
        offset = stop
    return None


def png_size(head: bytes) -> tuple[int, int] | None:
    """Return width and height of a PNG from its first 33 bytes, `None` for another file (W3C PNG,
    11.2.1)."""
    if head[:16] != PNG + struct.pack(">I", 13) + b"IHDR" or len(head) < 33:
        return None
    width, height, checksum = struct.unpack(">II5xI", head[16:33])
    return (width, height) if zlib.crc32(head[12:29]) == checksum and width and height else None


def webp_size(head: bytes) -> tuple[int, int] | None:
    """Return width and height of a WebP from its first 30 bytes, `None` for another file (RFC 9649,
    2.5 to 2.7)."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    match head[12:16]:
        case b"VP8X":
            return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(
                head[27:30], "little"
            ) + 1
        case b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", head, 26)
            return width & 0x3FFF, height & 0x3FFF
    return None
