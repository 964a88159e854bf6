"""What of a graph stays the same when only its values change, and which nodes compute the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b, sha256
from itertools import islice
from typing import Any

from proxy.translate import codec
from proxy.translate.jobs import inputs_of, is_link, links_of
from proxy.translate.reading import field_of

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


def outer_node(graph: Mapping[str, Any], node_id: str) -> str:
    """Return the node of a graph that a node is of: itself, or the one that has expanded into it,
    whose id is the longest prefix. `node_id` if the graph has none."""
    outer = node_id
    while outer and outer not in graph:
        outer = outer.rpartition(".")[0]
    return outer or node_id


def signatures_of(
    graph: Mapping[str, Any], node_ids: Iterable[str], known: dict[str, str] | None = None
) -> dict[str, str]:
    """Return a digest of each node's class and inputs and of those of all that it depends on.

    Nodes with the same digest compute the same. `known` keeps the digests between calls.
    """
    known = {} if known is None else known
    wanted_ids = list(node_ids)
    for first in wanted_ids:
        path = {} if first in known else {first: iter(links_of(graph.get(first)))}
        while path:
            node_id, links = next(reversed(path.items()))
            source = next(
                (id_ for id_ in links if id_ in graph and id_ not in known and id_ not in path),
                None,
            )
            if source is None:
                del path[node_id]
                known[node_id] = _digest(graph.get(node_id), known)
            else:
                path[source] = iter(links_of(graph.get(source)))
    return {node_id: known[node_id] for node_id in wanted_ids}


def _digest(node: Any, known: Mapping[str, str]) -> str:
    values = {
        name: [known.get(value[0], value[0]), value[1]] if is_link(value) else value
        for name, value in sorted(inputs_of(node).items())
    }
    text = codec.dump_bytes([field_of(node, "class_type"), values])
    return sha256(text).hexdigest()
