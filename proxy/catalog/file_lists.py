"""Inputs of node classes that list files: the member's uploads take the place of the cloud's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from proxy.runtime import randomness
from proxy.translate import codec
from proxy.translate.media_types import kind
from proxy.translate.names import is_hash_name
from proxy.translate.reading import list_of
from proxy.translate.shapes import options_of, specs_of

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
_MARK = randomness.token_hex(16)
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
        """Return the sorted JSON list: the cloud's choices without hashes, and the files."""
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
    """Yield the folders below the input folder that contain a file, the innermost first."""
    while file := file.rpartition("/")[0]:
        yield file


Template = tuple[bytes | Slot, ...]


def lists_files(info: Mapping[str, Any]) -> bool:
    """Return whether a class has an input that lists files."""
    return any(_uploads(info))


def template(info: bytes) -> Template:
    """Return the JSON of a class, cut at its slots."""
    parsed = codec.loads(info)
    slots = [_cut(number, spec, slot) for number, (spec, slot) in enumerate(_uploads(parsed))]
    pieces = _MARKED.split(codec.dump_bytes(parsed))  # JSON and slot numbers by turns
    return tuple(slots[int(piece)] if index % 2 else piece for index, piece in enumerate(pieces))


def fill(parts: Template, files: Listing) -> bytes:
    """Return the JSON of a class for an input folder that contains `files`."""
    return b"".join(part.json(files) if isinstance(part, Slot) else part for part in parts)


def _uploads(info: Mapping[str, Any]) -> Iterator[tuple[list[Any], Slot]]:
    """Yield the specs of the inputs that list files of the input folder, each with its slot."""
    name = str(info.get("name"))
    for key, spec in specs_of(info).items():
        if not isinstance(spec, list) or not spec:
            continue
        options = options_of(spec)
        if not isinstance(spec[0], list) and (spec[0] != "COMBO" or not options):
            continue
        if options.get("image_folder", "input") != "input":
            continue
        flags = (kinds for flag, kinds in _FLAGS.items() if options.get(flag))
        media = _LISTS.get((name, key)) or tuple(kind for kinds in flags for kind in kinds)
        if media:
            yield spec, Slot((), media, _BELOW.get(name, ""), _LIMITS.get(name, math.inf))


def _cut(number: int, spec: list[Any], slot: Slot) -> Slot:
    """Replace a list by the mark. Return the slot with the choices of the list."""
    mark = f"{_MARK}:{number}"
    offered: object
    if isinstance(spec[0], list):
        offered, spec[0] = spec[0], mark
    else:
        offered, spec[1]["options"] = spec[1].get("options"), mark
    names = tuple(name for name in list_of(offered) if isinstance(name, str))
    return replace(slot, offered=names)
