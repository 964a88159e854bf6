"""Graphs that tests validate, and what is found in them."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from catalog_graphs import shapes

from proxy.simulator.nodes import object_info, standard_nodes
from proxy.translate.validation import Validation, validate

CORE = {"python_module": "comfy_extras.nodes_test", "output_node": False, "output": []}
PACK = {"python_module": "custom_nodes.pack", "output_node": False, "output": []}

IMAGE = {"input": {}, **CORE, "output": ["IMAGE"]}
EMPTY = {
    "class_type": "EmptyImage",
    "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
}


def classes_with(name: str, info: dict[str, Any]) -> dict[str, Any]:
    return {**object_info(standard_nodes()), "GiveImage": IMAGE, name: info}


def save(source: object = None, **inputs: Any) -> dict[str, Any]:
    images = ["1", 0] if source is None else source
    return {
        "class_type": "SaveImage",
        "inputs": {"images": images, "filename_prefix": "x"} | inputs,
    }


def check(
    graph: Any,
    targets: list[str] | None = None,
    *,
    classes: dict[str, Any] | None = None,
    files: Collection[str] = (),
) -> Validation:
    before = copy.deepcopy(graph)
    known = object_info(standard_nodes()) if classes is None else classes
    found = validate(graph, targets, shapes(known), has_file=files.__contains__)
    assert graph == before
    return found


def types(found: Validation, node_id: str = "1") -> list[str]:
    return [error["type"] for error in found.node_errors.get(node_id, {"errors": []})["errors"]]
