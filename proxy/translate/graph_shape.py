"""The shape of a graph: what stays the same when only its values change."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from itertools import islice
from typing import Any

from proxy.translate.jobs import inputs_of, is_link

#: Graphs of more nodes have no shape, and so no estimate.
MAX_NODES = 500

#: Inputs of a node that belong to the shape, and characters of a name.
_MAX_INPUTS, _MAX_NAME = 64, 200


def shape_of(graph: Mapping[str, Any]) -> str | None:
    """Return a digest of the nodes of a graph, their classes and their links, whatever their values
    are; `None` for a graph of more than `MAX_NODES` nodes."""
    if len(graph) > MAX_NODES:
        return None
    digest = blake2b(digest_size=16)
    for node_id in sorted(graph):
        inputs, links = inputs_of(graph[node_id]), []
        for name in islice(sorted(inputs), _MAX_INPUTS):
            if is_link(inputs[name]):
                source, slot = inputs[name]
                links.append((name[:_MAX_NAME], source[:_MAX_NAME], slot))
        words = node_id[:_MAX_NAME], class_of(graph[node_id]), links
        digest.update(repr(words).encode(errors="replace"))
    return digest.hexdigest()


def class_of(node: object) -> str:
    """Return the class of a node of a graph, cut if it is long."""
    return str(node.get("class_type", ""))[:_MAX_NAME] if isinstance(node, Mapping) else ""
