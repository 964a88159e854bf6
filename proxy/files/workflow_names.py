"""The names of files in the workflow in a picture: the member's instead of the cloud's.

ComfyUI writes the graph into the pictures that it saves, as JSON in ASCII: in PNG `tEXt` chunks
before the pixels, in `comf` chunks after the pixels of an animated PNG (W3C PNG, 11.3.3), and in
EXIF tags of WebP. All other bytes are unchanged.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from typing import NamedTuple

from proxy.files.picture_parts import PNG, Edit, Edits, Read, png_chunk, webp_exif

#: Maximum bytes of a text, and of its offset in the file; others are not changed.
MAX_BYTES = 8 * 1024 * 1024

#: Returns a text with other names.
Rename = Callable[[bytes], bytes]

_NAME = re.compile(rb"(?<![\w.:-])(?:blake3:)?[0-9a-f]{64}(?:\.\w+)?(?![\w-])")
_PNG_TEXTS = (b"tEXt", b"iTXt", b"comf")
#: The flag of VP8X for an EXIF chunk (WebP container, "Extended File Format").
_WEBP_EXIF = 0x08
#: TIFF 6.0, section 2: the type of a text.
_ASCII = 2


class MetadataText(NamedTuple):
    """A part of a picture with a name of the cloud; `edited` returns its replacements."""

    data: bytes
    edited: Callable[[Rename], tuple[Edit, ...]]


def texts(read: Read, available: int, *, whole: bool) -> list[MetadataText] | None:
    """Return the texts of a picture that contain the cloud's names, `None` if bytes are missing.

    `available` is the number of bytes so far; with `whole` these are all.
    """
    head = read(0, 32)
    if not whole and len(head) < 32:
        return None
    if head.startswith(PNG):
        return _png_texts(read, available, whole=whole)
    if (
        head[:4] == b"RIFF"
        and head[8:16] == b"WEBPVP8X"
        and len(head) > 20
        and head[20] & _WEBP_EXIF
    ):
        return _webp_texts(read, available) if whole else None
    return []


def names_in(found: Iterable[MetadataText]) -> set[str]:
    """Return the cloud's names in texts."""
    return {name.decode() for text in found for name in _NAME.findall(text.data)}


def renaming(local_names: Mapping[str, str]) -> Rename:
    """Return a function that replaces the cloud's names by local ones, as JSON in ASCII."""

    def replace(match: re.Match[bytes]) -> bytes:
        local = local_names.get(match[0].decode())
        return match[0] if local is None else json.dumps(local)[1:-1].encode()

    return lambda text: _NAME.sub(replace, text)


def edits(found: Iterable[MetadataText], rename: Rename) -> Edits:
    """Return the replacements in a picture with these texts."""
    changed = (text.edited(rename) for text in found if rename(text.data) != text.data)
    return Edits(tuple(sorted(chain.from_iterable(changed))))


def _png_texts(read: Read, available: int, *, whole: bool) -> list[MetadataText] | None:
    """Return the texts before the pixels, and those after them of a complete animated picture."""
    found: list[MetadataText] = []
    offset, animated = len(PNG), False
    while animated or offset < MAX_BYTES:
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
        if kind in _PNG_TEXTS and length <= MAX_BYTES:
            data = read(offset + 8, length)
            if _NAME.search(data):
                found.append(MetadataText(data, partial(_png_edits, kind, offset, stop, data)))
        offset = stop
    return found


def _png_edits(kind: bytes, start: int, stop: int, old: bytes, rename: Rename) -> tuple[Edit, ...]:
    return (Edit(start, stop, png_chunk(kind, rename(old))),)


def _webp_texts(read: Read, available: int) -> list[MetadataText]:
    exif = webp_exif(read, available, max_bytes=MAX_BYTES)
    if exif is None or not _NAME.search(exif.data):
        return []

    def edited(rename: Rename) -> tuple[Edit, ...]:
        return exif.replaced(_renamed_exif(exif.data, rename))

    return [MetadataText(exif.data, edited)]


def _renamed_exif(exif: bytes, rename: Rename) -> bytes:
    """Return EXIF with renamed texts in its first directory.

    Changed texts are appended and leave zeros in their place, so that no other offset changes (TIFF
    6.0, section 2).
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
