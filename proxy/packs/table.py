"""The table of pack nodes: the classes of all installed packs."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from proxy.packs.discovery import installed
from proxy.packs.nodes import PackNode
from proxy.translate.shapes import section

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
