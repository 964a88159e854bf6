"""The packs that are installed, and the table of their nodes: each pack is an entry point of a
distribution, ours as well.

A pack that cannot be used is left out, and the others stay. docs/node-packs.md shows how to write
one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from msgspec import Struct

from proxy.packs.nodes import PackNode
from proxy.packs.pack import Pack
from proxy.translate.shapes import section

#: The group of entry points; the name of one is that of its pack.
GROUP = "comfy_cloud_proxy.packs"
#: The distribution of this program.
_OWN = "comfy-cloud-proxy"


class InstalledPacks(Struct, frozen=True):
    """The packs that can be used, and for each other one a sentence that says why not."""

    packs: tuple[Pack, ...]
    problems: tuple[str, ...]


def installed() -> InstalledPacks:
    """Return the packs of all distributions in this environment."""
    return usable(entry_points(group=GROUP))


def usable(points: Iterable[EntryPoint]) -> InstalledPacks:
    """Return the packs of entry points, ours first, then by distribution and name.

    A pack of another distribution replaces one of ours that has its name.
    """
    chosen: dict[str, _Registered] = {}
    packs: list[Pack] = []
    problems: list[str] = []
    for found in _registered(points):
        known = chosen.get(found.point.name)
        if known is None or known.is_ours:
            chosen[found.point.name] = found
        else:
            problems.append(f"{found} is not used: {known.source} has one of this name.")
    for found in chosen.values():
        try:
            packs.append(_loaded(found.point, packs))
        except Exception as error:  # noqa: BLE001 (it is another's code)
            problems.append(f"{found} is not used: {type(error).__name__}: {error}.")
    if not any(found.is_ours for found in chosen.values()):
        problems.append(f"The packs of {_OWN} are missing: install it, and not only its source.")
    return InstalledPacks(tuple(packs), tuple(problems))


class _Registered(Struct, frozen=True):
    """An entry point, and the name of its distribution."""

    point: EntryPoint
    source: str

    @property
    def is_ours(self) -> bool:
        return self.source == _OWN

    def __str__(self) -> str:
        return f"The pack {self.point.name} of {self.source}"


def _registered(points: Iterable[EntryPoint]) -> list[_Registered]:
    names: dict[int, str] = {}  # by distribution: a look at its name parses its whole metadata
    found = []
    for point in points:
        if point.dist is not None and id(point.dist) not in names:
            names[id(point.dist)] = point.dist.name
        found.append(_Registered(point, names.get(id(point.dist), "an unknown distribution")))
    return sorted(found, key=lambda each: (not each.is_ours, each.source, each.point.name.lower()))


def _loaded(point: EntryPoint, others: Iterable[Pack]) -> Pack:
    """Return the pack of an entry point. Raises whatever its module does, `TypeError` for what is
    no pack, `ValueError` if another one has the same class or route."""
    pack = point.load()
    if not isinstance(pack, Pack):
        raise TypeError(f"{point.value} is not a proxy.packs.pack.Pack")
    offered = {*_offers(pack)}
    for other in others:
        if both := sorted(offered.intersection(_offers(other))):
            raise ValueError(f"the pack {other.name} also has {both[0]}")
    return pack


def _offers(pack: Pack) -> Iterable[str]:
    """Yield the classes and routes of a pack."""
    for node in pack.nodes:
        yield node.name
    for route in pack.routes:
        yield f"{route.method} {route.path}"


#: The packs in this environment, which are loaded with this module.
INSTALLED = installed()

#: All nodes by their class; those of a pack stand together.
PACK_NODES: Mapping[str, PackNode] = {
    node.name: node for pack in INSTALLED.packs for node in pack.nodes
}


def offered(classes: Mapping[str, Any], partial: Container[str]) -> dict[str, dict[str, Any]]:
    """Return the entries of the pack classes that can stand beside the cloud's `classes`.

    A class that the cloud has is left to it, unless it is `partial`: only some accounts have it.
    One whose core nodes the cloud lacks cannot run. An input written as `[Class.input]` is as the
    cloud's class has it.
    """
    return {
        name: _filled(node.info, classes)
        for name, node in PACK_NODES.items()
        if (name in partial or name not in classes) and node.needs <= classes.keys()
    }


def _filled(info: Mapping[str, Any], classes: Mapping[str, Any]) -> dict[str, Any]:
    groups = {
        group: {name: _spec(spec, classes) for name, spec in specs.items()}
        for group, specs in info["input"].items()
    }
    return {**info, "input": groups}


def _spec(spec: Any, classes: Mapping[str, Any]) -> Any:
    if not (isinstance(spec, list) and len(spec) == 1 and isinstance(spec[0], str)):
        return spec
    class_type, dot, name = spec[0].partition(".")
    info = classes.get(class_type)
    if not dot or not isinstance(info, Mapping):
        return spec
    return section(info.get("input"), "required").get(name, spec)
