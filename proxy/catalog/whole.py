"""The body of `GET /object_info`, spliced from what is the same for everybody. Pure.

Between the slots lies what never changes; it is compressed once, when the catalogue is read. With
gzip an answer for other files is spliced of compressed pieces: each one ends at a full flush, so
that it stands on a byte and refers to nothing before it (RFC 1951, 3.2.4; zlib's Z_FULL_FLUSH).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from blake3 import blake3

from proxy.catalog.uploads import Slot

if TYPE_CHECKING or sys.version_info < (3, 14):
    from backports import zstd
else:
    from compression import zstd

Coding = Literal["identity", "gzip", "zstd"]

_GZIP_LEVEL = 6
#: Level 3 takes about as long as one answer; this body gains little from more.
_ZSTD_LEVEL = 3

#: RFC 1952, 2.3.1: deflate, no flags, no time, unknown system.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
#: An empty last block with fixed codes.
_DEFLATE_END = b"\x03\x00"

#: Pieces below this many bytes are joined to their neighbours.
_SMALL = 64 * 1024


@dataclass(frozen=True, slots=True)
class Body:
    """A body as it is sent: its bytes in pieces, their number and a strong entity tag."""

    coding: Coding
    pieces: tuple[bytes, ...]
    length: int
    etag: str


class Whole:
    """All classes, as parts in order: JSON, and slots for lists of files."""

    def __init__(self, parts: Iterable[bytes | Slot]) -> None:
        self._between: list[bytes] = []
        self._slots: list[Slot] = []
        run: list[bytes] = []
        for part in parts:
            if isinstance(part, Slot):
                self._between.append(b"".join(run))
                self._slots.append(part)
                run = []
            else:
                run.append(part)
        self._between.append(b"".join(run))
        self._deflated = [_deflate(piece) for piece in self._between]

    def body(self, files: Iterable[str], coding: Coding) -> Body:
        """The body for a member whose input folder holds `files`. Takes some milliseconds."""
        listed = tuple(files)
        lists = {slot: slot.json(listed) for slot in set(self._slots)}
        plain = self._spliced(self._between, lists)
        if coding == "gzip":
            deflated = {slot: _deflate(json) for slot, json in lists.items()}
            return _body(coding, _gzip(self._spliced(self._deflated, deflated), plain))
        if coding == "zstd":
            return _body(coding, _zstd(plain))
        return _body(coding, plain)

    def _spliced(self, between: Sequence[bytes], lists: Mapping[Slot, bytes]) -> list[bytes]:
        pieces = [between[0]]
        for slot, piece in zip(self._slots, between[1:], strict=True):
            pieces += lists[slot], piece
        return pieces


def _deflate(data: bytes) -> bytes:
    deflate = zlib.compressobj(_GZIP_LEVEL, wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush(zlib.Z_FULL_FLUSH)


def _gzip(deflated: Iterable[bytes], plain: Iterable[bytes]) -> Iterator[bytes]:
    checksum = length = 0
    for piece in plain:
        checksum = zlib.crc32(piece, checksum)
        length += len(piece)
    yield _GZIP_HEADER
    yield from deflated
    yield _DEFLATE_END
    yield checksum.to_bytes(4, "little") + (length % 2**32).to_bytes(4, "little")


def _zstd(plain: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zstd.ZstdCompressor(_ZSTD_LEVEL)
    for piece in plain:
        yield compressor.compress(piece)
    yield compressor.flush()


def _body(coding: Coding, pieces: Iterable[bytes]) -> Body:
    joined = tuple(_joined(pieces))
    digest = blake3()
    for piece in joined:
        digest.update(piece)
    return Body(coding, joined, sum(map(len, joined)), digest.hexdigest(length=16))


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces, the small ones joined; a large one is passed on without a copy."""
    small: list[bytes] = []
    for piece in pieces:
        if len(piece) < _SMALL:
            small.append(piece)
            continue
        if small:
            yield b"".join(small)
            small = []
        yield piece
    if small:
        yield b"".join(small)
