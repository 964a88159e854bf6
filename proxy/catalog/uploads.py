"""Inputs that list a folder's files, cut out of the JSON of their classes. Pure.

The JSON of a class with such inputs is kept as a template: ready bytes, and slots where the lists
go. An answer for other files is then spliced, not encoded anew.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.translate import codec
from proxy.translate.names import is_hash_name, kind

#: The flags of an input that lists files of the input folder, and the media that it lists.
_FLAGS: dict[str, tuple[str, ...]] = {
    "image_upload": ("image",),
    "animated_image_upload": ("image",),
    "video_upload": ("video",),
    "audio_upload": ("audio", "video"),
}

#: Stands in for a slot while a class is encoded; no catalogue can hold it.
_MARK = secrets.token_hex(16)
_MARKED = re.compile(rb'"%s:(\d+)"' % _MARK.encode())


@dataclass(frozen=True, slots=True)
class Slot:
    """A list of files: the names that the cloud itself offers, and the media that are listed."""

    offered: tuple[str, ...]
    media: tuple[str, ...]

    def json(self, files: Iterable[str]) -> bytes:
        """The cloud's choices without hashes, and the files of the folder itself, in order."""
        names = {name for name in self.offered if not is_hash_name(name)}
        names.update(file for file in files if "/" not in file and kind(file) in self.media)
        return codec.dump_bytes(sorted(names))


Template = tuple[bytes | Slot, ...]


def lists_files(info: Mapping[str, Any]) -> bool:
    """Whether a class has an input that lists files."""
    return any(True for _ in _uploads(info))


def template(info: bytes) -> Template:
    """The JSON of a class, cut at its slots."""
    parsed = codec.loads(info)
    slots = [_cut(spec, media, number) for number, (spec, media) in enumerate(_uploads(parsed))]
    pieces = _MARKED.split(codec.dump_bytes(parsed))
    return tuple(slots[int(piece)] if odd % 2 else piece for odd, piece in enumerate(pieces))


def fill(parts: Template, files: Iterable[str]) -> bytes:
    """The JSON of a class for a folder that holds `files`."""
    listed = tuple(files)
    return b"".join(part.json(listed) if isinstance(part, Slot) else part for part in parts)


def _uploads(info: Mapping[str, Any]) -> Iterator[tuple[list[Any], tuple[str, ...]]]:
    """The specs of the inputs that list files of the input folder, with their media."""
    sections = info.get("input")
    for section in ("required", "optional"):
        inputs = sections.get(section) if isinstance(sections, dict) else None
        for spec in inputs.values() if isinstance(inputs, dict) else ():
            options = spec[1] if isinstance(spec, list) and len(spec) > 1 else None
            if not isinstance(options, dict) or options.get("image_folder", "input") != "input":
                continue
            media = tuple(
                one for flag, kinds in _FLAGS.items() if options.get(flag) for one in kinds
            )
            if media and (isinstance(spec[0], list) or spec[0] == "COMBO"):
                yield spec, media


def _cut(spec: list[Any], media: tuple[str, ...], number: int) -> Slot:
    """Put the mark in the place of a list; what the list was."""
    mark = f"{_MARK}:{number}"
    offered: object
    if isinstance(spec[0], list):
        offered, spec[0] = spec[0], mark
    else:
        offered, spec[1]["options"] = spec[1].get("options"), mark
    offers = offered if isinstance(offered, list) else []
    return Slot(tuple(name for name in offers if isinstance(name, str)), media)
