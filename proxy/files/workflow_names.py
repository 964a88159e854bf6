"""The names of files in the workflow that a picture carries: the member's instead of the cloud's.

ComfyUI writes the graph into what it saves, as JSON with ASCII characters alone: PNG in `tEXt`
chunks before the pixels, animated PNG in `comf` chunks behind them (W3C PNG, 11.3.3), WebP in tags
of its EXIF chunk. No other byte of a picture is touched.
"""

from __future__ import annotations

import json
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import NamedTuple

from msgspec import Struct

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
