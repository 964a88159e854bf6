"""The node classes that a member sees, parsed when they are read."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from functools import lru_cache
from typing import Any

from proxy.catalog.bodies import Whole
from proxy.catalog.file_lists import Listing, Slot, Template, fill, lists_files, template
from proxy.catalog.owners import Owners, hidden_from, split_owners, without
from proxy.translate import NODE_FIELDS, codec
from proxy.translate.shapes import Shape, shape_of

#: Returns the classes to add to the cloud's, of which some accounts lack those of the container.
Offer = Callable[[Mapping[str, Any], Container[str]], Mapping[str, Any]]

#: Maximum number of classes whose parsed entry, or whose shape, is cached.
_MAX_CACHED = 512


class Nodes(Mapping[str, dict[str, Any]]):
    """All node classes; a class is parsed when it is asked for.

    `whole` builds the bodies of `GET /object_info`. `pack_classes` are those of node packs, which
    the proxy adds to the cloud's or which replace them. `owners` says what not every account has.
    """

    def __init__(
        self,
        classes: Mapping[str, Any],
        pack_classes: Mapping[str, Any] | None = None,
        owners: Owners | None = None,
    ) -> None:
        self.pack_classes = frozenset(pack_classes or ())
        self.owners = owners or {}
        self._json: dict[str, bytes] = {}
        self._templates: dict[str, Template] = {}
        for name, info in {**classes, **(pack_classes or {})}.items():
            if isinstance(info, dict):
                missing = {field: NODE_FIELDS[field] for field in NODE_FIELDS if field not in info}
                self._json[name] = codec.dump_bytes({**info, **missing})
                if lists_files(info):
                    self._templates[name] = template(self._json[name])
        self.whole = Whole(self._parts())
        entries, cached = self._json, lru_cache(_MAX_CACHED)
        parsed: Callable[[str], dict[str, Any]] = cached(lambda name: codec.loads(entries[name]))
        self._parsed = parsed
        self._shapes = cached(lambda name: shape_of(name, parsed(name)))

    def seen_by(self, accounts: frozenset[str]) -> Nodes:
        """Return the classes and choices that at least one of these accounts has.

        Takes about 100 ms if much is left out.
        """
        hidden = hidden_from(self.owners, accounts)
        if not hidden:
            return self
        shown: dict[str, Any] = {}
        for name in self:
            if "" not in hidden.get(name, {}):
                info = self[name]
                shown[name] = without(info, hidden[name]) if name in hidden else info
        seen = Nodes(shown)
        seen.pack_classes = self.pack_classes
        return seen

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._parsed(name)

    def shape(self, name: str) -> Shape | None:
        """Return what a graph is checked against, `None` for an unknown class."""
        return self._shapes(name) if name in self._json else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._json)

    def __len__(self) -> int:
        return len(self._json)

    def __contains__(self, name: object) -> bool:
        return name in self._json

    def one_json(self, name: str, files: Listing) -> bytes:
        """Return the body of `GET /object_info/{class}`: `{}` for an unknown class."""
        if name not in self._json:
            return b"{}"
        return b"{" + _key(name) + fill(self._template(name), files) + b"}"

    def _template(self, name: str) -> Template:
        return self._templates.get(name) or (self._json[name],)

    def _parts(self) -> Iterator[bytes | Slot]:
        before = b"{"
        for name in self._json:
            yield before + _key(name)
            yield from self._template(name)
            before = b", "
        yield b"}" if self._json else b"{}"


def read(
    body: bytes,
    pack_classes: Offer | None = None,
    parse: Callable[[bytes], tuple[dict[str, Any], Owners]] = split_owners,
) -> Nodes:
    """Parse the cloud's `object_info`. Raises `ValueError` if it is not one.

    `pack_classes` returns the classes of node packs to add to the cloud's.
    """
    classes, owners = parse(body)
    if pack_classes is None:
        return Nodes(classes, None, owners)
    partly = {name for name, inputs in owners.items() if "" in inputs}
    return Nodes(classes, pack_classes(classes, partly), owners)


def _key(name: str) -> bytes:
    return codec.dump_bytes(name) + b": "
