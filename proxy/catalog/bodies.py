"""The bodies of `GET /object_info`: all node classes, with the files of a member in their lists."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from proxy.catalog.file_lists import Listing, Slot
from proxy.runtime.shared_work import SharedWork

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


class Body(Struct, frozen=True):
    """A body as it is sent: its bytes in pieces, their number and a strong entity tag."""

    coding: Coding
    pieces: tuple[bytes, ...]
    length: int
    etag: str


class Whole:
    """All classes, as parts in order: JSON, and slots for lists of files."""

    def __init__(self, parts: Iterable[bytes | Slot]) -> None:
        self._slots: list[Slot] = []
        runs: list[list[bytes]] = [[]]
        for part in parts:
            if isinstance(part, Slot):
                self._slots.append(part)
                runs.append([])
            else:
                runs[-1].append(part)
        self._between = [b"".join(run) for run in runs]
        self._deflated = [_deflate(piece) for piece in self._between]

    def body(self, files: Listing, coding: Coding) -> Body:
        """Return the body for a member whose input folder holds `files`. Takes some
        milliseconds."""
        lists = {slot: slot.json(files) for slot in set(self._slots)}
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
    digest = hashlib.blake2b(digest_size=16)
    for piece in joined:
        digest.update(piece)
    return Body(coding, joined, sum(map(len, joined)), digest.hexdigest())


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces, the small ones joined; a large one is passed on without a copy."""
    for is_small, run in groupby(pieces, lambda piece: len(piece) < _SMALL):
        if is_small:
            yield b"".join(run)
        else:
            yield from run


#: Maximum number of cached bodies. They share what is equal for all members, except zstd.
MAX_BODIES = 64


class Bodies:
    """The bodies of catalogs by list of files and coding; those of former ones give way."""

    def __init__(self) -> None:
        self._made: SharedWork[Hashable, Body] = SharedWork(MAX_BODIES)

    async def get(self, whole: Whole, files: Listing, coding: Coding) -> Body:
        """Return the body of `whole`; concurrent callers get the same one."""
        key = whole, tuple(files.items()), coding
        return await self._made.get(key, lambda: asyncio.to_thread(whole.body, files, coding))

    async def close(self) -> None:
        """Stop making bodies."""
        await self._made.close()
