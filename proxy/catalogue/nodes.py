"""The node classes of the cloud as a local ComfyUI would list them. Pure, apart from a memory.

The cloud's answer is about 9 MB. It is taken apart once, into the JSON of every class, so that an
answer is put together from ready pieces; only classes that list files are written anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.translate import codec
from proxy.translate.media import kind

#: Fields that the newest ComfyUI always has and the cloud's OpenAPI does not name.
_ALWAYS: dict[str, Any] = {
    "is_input_list": False,
    "has_intermediate_output": False,
    "search_aliases": [],
}

#: The flags of an input that lists files of the input folder, and the media that it lists.
_UPLOADS: dict[str, tuple[str, ...]] = {
    "image_upload": ("image",),
    "animated_image_upload": ("image",),
    "video_upload": ("video",),
    "audio_upload": ("audio", "video"),
}

#: A content hash, by which the cloud names files.
_HASH_NAME = re.compile(r"(?:blake3:)?[0-9a-f]{64}(?:\.\w+)?(?: \[\w+\])?")

#: Parsed classes that are remembered.
_REMEMBERED = 512


@dataclass(frozen=True, slots=True)
class UploadInput:
    """An input that lists files: its section (`required`, `optional`), name and media."""

    section: str
    name: str
    media: tuple[str, ...]


class Nodes(Mapping[str, dict[str, Any]]):
    """All node classes; a class is parsed when it is asked for."""

    def __init__(self, classes: Mapping[str, Any]) -> None:
        self._json: dict[str, bytes] = {}
        self._uploads: dict[str, tuple[UploadInput, ...]] = {}
        self._parsed: dict[str, dict[str, Any]] = {}
        self._whole: tuple[tuple[str, ...], bytes] | None = None
        for name, info in classes.items():
            if isinstance(info, dict):
                missing = {field: _ALWAYS[field] for field in _ALWAYS if field not in info}
                self._json[name] = codec.dump_bytes({**info, **missing})
                uploads = tuple(_upload_inputs(info))
                if uploads:
                    self._uploads[name] = uploads

    def __getitem__(self, name: str) -> dict[str, Any]:
        parsed = self._parsed.get(name)
        if parsed is None:
            if len(self._parsed) >= _REMEMBERED:
                self._parsed.clear()
            parsed = self._parsed[name] = codec.loads(self._json[name])
        return parsed

    def __iter__(self) -> Iterator[str]:
        return iter(self._json)

    def __len__(self) -> int:
        return len(self._json)

    def __contains__(self, name: object) -> bool:
        return name in self._json

    def one_json(self, name: str, files: Iterable[str]) -> bytes:
        """The body of `GET /object_info/{class}`: `{}` for a class that there is not."""
        if name not in self._json:
            return b"{}"
        return b"{" + self._entry(name, tuple(files)) + b"}"

    def whole_json(self, files: Iterable[str]) -> bytes:
        """The body of `GET /object_info` for a member whose input folder holds `files`."""
        key = tuple(files)
        if self._whole is None or self._whole[0] != key:
            entries = [self._entry(name, key) for name in self._json]
            self._whole = key, b"{" + b", ".join(entries) + b"}"
        return self._whole[1]

    def _entry(self, name: str, files: tuple[str, ...]) -> bytes:
        uploads = self._uploads.get(name)
        info = self._json[name]
        if uploads:
            info = codec.dump_bytes(_with_files(codec.loads(info), uploads, files))
        return codec.dump_bytes(name) + b": " + info


def read(body: bytes) -> Nodes:
    """Take the cloud's `object_info` apart. Raises `ValueError` when it is none."""
    classes = codec.loads(body)
    if not isinstance(classes, dict) or not classes:
        raise ValueError("object_info is not an object of node classes")
    return Nodes(classes)


def _upload_inputs(info: Mapping[str, Any]) -> Iterator[UploadInput]:
    sections = info.get("input")
    for section in ("required", "optional"):
        inputs = sections.get(section) if isinstance(sections, dict) else None
        for name, spec in inputs.items() if isinstance(inputs, dict) else ():
            options = spec[1] if isinstance(spec, list) and len(spec) > 1 else None
            if not isinstance(options, dict) or options.get("image_folder", "input") != "input":
                continue
            media = tuple(
                one for flag, kinds in _UPLOADS.items() if options.get(flag) for one in kinds
            )
            if media and (isinstance(spec[0], list) or spec[0] == "COMBO"):
                yield UploadInput(section, name, media)


def _with_files(
    info: dict[str, Any], uploads: Iterable[UploadInput], files: Iterable[str]
) -> dict[str, Any]:
    for upload in uploads:
        spec = info["input"][upload.section][upload.name]
        if isinstance(spec[0], list):
            spec[0] = _choices(spec[0], upload.media, files)
        else:
            spec[1]["options"] = _choices(spec[1].get("options"), upload.media, files)
    return info


def _choices(offered: object, media: tuple[str, ...], files: Iterable[str]) -> list[Any]:
    """The cloud's choices without hashes, and the files of the folder itself, in order."""
    offers = offered if isinstance(offered, list) else []
    names = {one for one in offers if isinstance(one, str) and not _HASH_NAME.fullmatch(one)}
    names.update(file for file in files if "/" not in file and kind(file) in media)
    return sorted(names)
