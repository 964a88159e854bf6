"""The node classes of the simulator, in the form of ComfyUI's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from proxy.simulator.nodes.node_class import (
    Context,
    Files,
    InputSpec,
    NodeClass,
    NodeClasses,
    Output,
)

__all__ = [
    "Context",
    "Files",
    "InputSpec",
    "NodeClass",
    "NodeClasses",
    "Output",
    "object_info",
    "standard_nodes",
]


def standard_nodes() -> dict[str, NodeClass]:
    """The built-in classes by name."""
    return {}


def object_info(nodes: NodeClasses | Iterable[NodeClass]) -> dict[str, Any]:
    """The answer of `GET /api/object_info`."""
    classes = nodes.values() if isinstance(nodes, dict) else nodes
    return {node.name: node.object_info() for node in classes if isinstance(node, NodeClass)}
