"""The JSON of node classes: one of them or all in one body, with the member's uploads in them."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import secrets
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from cachetools import LRUCache
from msgspec import Struct
from msgspec.structs import replace

from proxy.translate import codec
from proxy.translate.jobs import section
from proxy.translate.names import is_hash_name, kind

#: The flags of an input that lists files of the input folder, and the media that it lists.
_FLAGS: dict[str, tuple[str, ...]] = {
    "image_upload": ("image",),
    "animated_image_upload": ("image",),
    "video_upload": ("video",),
    "audio_upload": ("audio", "video"),
}

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".jpe", ".apng", ".tif", ".tiff")
_TEXTS = (".txt", ".pdf")

#: The inputs of ComfyUI's classes that list something else: every file, files with these endings
#: (below a folder), or the folders. A list says so by the first letter of what it has.
_ALL, _FOLDERS = ("*",), ("/",)
_LISTS: dict[tuple[str, str], tuple[str, ...]] = {
    ("LoadImageMask", "image"): _ALL,
    ("LoadImageSetNode", "images"): _PICTURES,
    ("LoadLatent", "latent"): (".latent",),
    ("GeminiInputFiles", "file"): _TEXTS,
    ("OpenAIInputFiles", "file"): _TEXTS,
    ("Load3D", "model_file"): (".gltf", ".glb", ".obj", ".fbx", ".stl"),
    ("LoadImageSetFromFolderNode", "folder"): _FOLDERS,
    ("LoadImageTextSetFromFolderNode", "folder"): _FOLDERS,
    ("LoadImageDataSetFromFolder", "folder"): _FOLDERS,
    ("LoadImageTextDataSetFromFolder", "folder"): _FOLDERS,
    ("LoadVideoDataSetFromFolder", "folder"): _FOLDERS,
    ("LoadVideoTextDataSetFromFolder", "folder"): _FOLDERS,
}
#: The folder below the input folder in which a class looks.
_BELOW = {"Load3D": "3d/"}
#: Bytes that a class lists no file of: partner nodes send the files inside a request.
_LIMITS = {"GeminiInputFiles": 20 * 1024 * 1024, "OpenAIInputFiles": 32 * 1024 * 1024}

#: Stands in for a slot while a class is encoded; no catalog can hold it.
_MARK = secrets.token_hex(16)
_MARKED = re.compile(rb'"%s:(\d+)"' % _MARK.encode())


#: Sizes of files in bytes by path, as far as they are known.
Listing: TypeAlias = Mapping[str, int | None]


class Slot(Struct, frozen=True):
    """A list of files: the names that the cloud itself offers, and what is listed.

    `media` are kinds of media, endings, `*` for all files or `/` for the folders. Files are those
    of the input folder itself, or all that are `below` a folder in it, of less than `limit` bytes.
    """

    offered: tuple[str, ...]
    media: tuple[str, ...]
    below: str = ""
    limit: float = math.inf

    def json(self, files: Listing) -> bytes:
        """The cloud's choices without hashes, and the files of the folder itself, in order."""
        names = {name for name in self.offered if not is_hash_name(name)}
        if self.media == _FOLDERS:
            names.update(folder for file in files for folder in _folders(file))
        else:
            names.update(file for file, size in files.items() if self._lists(file, size or 0))
        return codec.dump_bytes(sorted(names))

    def _lists(self, file: str, size: int) -> bool:
        if size >= self.limit:
            return False
        if not file.startswith(self.below) if self.below else "/" in file:
            return False
        if self.media[0].startswith("."):
            return (file.lower() if self.below else file).endswith(self.media)
        return self.media == _ALL or kind(file) in self.media


def _folders(file: str) -> Iterator[str]:
    """The folders that a file is in, those below the input folder."""
    while file := file.rpartition("/")[0]:
        yield file


Template = tuple[bytes | Slot, ...]


def lists_files(info: Mapping[str, Any]) -> bool:
    """Whether a class has an input that lists files."""
    return any(_uploads(info))


def template(info: bytes) -> Template:
    """The JSON of a class, cut at its slots."""
    parsed = codec.loads(info)
    slots = [_cut(number, *one) for number, one in enumerate(_uploads(parsed))]
    pieces = _MARKED.split(codec.dump_bytes(parsed))
    return tuple(slots[int(piece)] if odd % 2 else piece for odd, piece in enumerate(pieces))


def fill(parts: Template, files: Listing) -> bytes:
    """The JSON of a class for a folder that holds `files`."""
    return b"".join(part.json(files) if isinstance(part, Slot) else part for part in parts)


def _uploads(info: Mapping[str, Any]) -> Iterator[tuple[list[Any], Slot]]:
    """The specs of the inputs that list files of the input folder, and what is listed there."""
    name = str(info.get("name"))
    for group in ("required", "optional"):
        for key, spec in section(info.get("input"), group).items():
            if not isinstance(spec, list) or not spec:
                continue
            options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
            if not isinstance(spec[0], list) and (spec[0] != "COMBO" or not options):
                continue
            if options.get("image_folder", "input") != "input":
                continue
            flags = (kinds for flag, kinds in _FLAGS.items() if options.get(flag))
            media = _LISTS.get((name, key)) or tuple(one for kinds in flags for one in kinds)
            if media:
                yield spec, Slot((), media, _BELOW.get(name, ""), _LIMITS.get(name, math.inf))


def _cut(number: int, spec: list[Any], slot: Slot) -> Slot:
    """Put the mark instead of a list; what the list was."""
    mark = f"{_MARK}:{number}"
    offered: object
    if isinstance(spec[0], list):
        offered, spec[0] = spec[0], mark
    else:
        offered, spec[1]["options"] = spec[1].get("options"), mark
    offers = offered if isinstance(offered, list) else []
    return replace(slot, offered=tuple(name for name in offers if isinstance(name, str)))


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
        """The body for a member whose input folder holds `files`. Takes some milliseconds."""
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
    """The pieces, the small ones joined; a large one is passed on without a copy."""
    for is_small, run in groupby(pieces, lambda piece: len(piece) < _SMALL):
        if is_small:
            yield b"".join(run)
        else:
            yield from run


#: Bodies that are kept. They share what is the same for all members, unless it is zstd.
MAX_BODIES = 64


class Bodies:
    """The bodies of catalogs by list of files and coding; those of former ones give way."""

    def __init__(self) -> None:
        self._made: LRUCache[object, asyncio.Task[Body]] = LRUCache(MAX_BODIES)

    async def get(self, whole: Whole, files: Listing, coding: Coding) -> Body:
        """The body of `whole`; who waits together gets the same."""
        key = whole, tuple(files.items()), coding
        making = self._made.get(key)
        if making is None or (making.done() and (making.cancelled() or making.exception())):
            making = asyncio.create_task(asyncio.to_thread(whole.body, files, coding))
            self._made[key] = making
        return making.result() if making.done() else await asyncio.shield(making)

    async def close(self) -> None:
        """Wait for what is being made."""
        await asyncio.gather(*self._made.values(), return_exceptions=True)
        self._made.clear()
