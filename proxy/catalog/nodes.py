"""The node classes of the cloud as a local ComfyUI would list them. Pure, apart from a memory.

The cloud's answer is about 9 MB. It is taken apart once, into the JSON of every class, so that an
answer is put together from ready pieces; only lists of files are written anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from proxy.catalog import uploads
from proxy.catalog.whole import Whole
from proxy.translate import codec

#: Fields that the newest ComfyUI always has and the cloud's OpenAPI does not name.
_ALWAYS: dict[str, Any] = {
    "is_input_list": False,
    "has_intermediate_output": False,
    "search_aliases": [],
}

#: Parsed classes that are remembered.
_REMEMBERED = 512


class Nodes(Mapping[str, dict[str, Any]]):
    """All node classes; a class is parsed when it is asked for.

    `whole` gives the bodies of `GET /object_info`.
    """

    def __init__(self, classes: Mapping[str, Any]) -> None:
        self._json: dict[str, bytes] = {}
        self._templates: dict[str, uploads.Template] = {}
        self._parsed: dict[str, dict[str, Any]] = {}
        for name, info in classes.items():
            if isinstance(info, dict):
                missing = {field: _ALWAYS[field] for field in _ALWAYS if field not in info}
                self._json[name] = codec.dump_bytes({**info, **missing})
                if uploads.lists_files(info):
                    self._templates[name] = uploads.template(self._json[name])
        self.whole = Whole(self._parts())

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
        return b"{" + _key(name) + uploads.fill(self._template(name), files) + b"}"

    def _template(self, name: str) -> uploads.Template:
        return self._templates.get(name) or (self._json[name],)

    def _parts(self) -> Iterator[bytes | uploads.Slot]:
        before = b"{"
        for name in self._json:
            yield before + _key(name)
            yield from self._template(name)
            before = b", "
        yield b"}" if self._json else b"{}"


def read(body: bytes) -> Nodes:
    """Take the cloud's `object_info` apart. Raises `ValueError` when it is none."""
    classes = codec.loads(body)
    if not isinstance(classes, dict) or not classes:
        raise ValueError("object_info is not an object of node classes")
    return Nodes(classes)


def _key(name: str) -> bytes:
    return codec.dump_bytes(name) + b": "
