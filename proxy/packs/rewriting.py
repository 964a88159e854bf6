"""Graphs with nodes of packs: what the cloud runs in their place.

The cloud's graph keeps the member's ids; nodes that are added have ids that no graph of the member
has and belong to one node each, whose life they live: no client sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import structlog

from proxy.packs.discovery import PACK_NODES
from proxy.packs.nodes import Node, PackFailure, PackNode, PackNodeError, Picture, constant
from proxy.translate.errors import LocalError
from proxy.translate.graph_shape import class_of, signatures_of
from proxy.translate.jobs import inputs_of, is_link, links_of, reachable
from proxy.translate.packs import Failure, ResultSource, Rewriting
from proxy.translate.shapes import section

log = structlog.get_logger(__name__)

#: The catalog's word on a class, or `None`.
Choices = Callable[[str], Mapping[str, Any] | None]


def wanted(
    graph: Mapping[str, Any], outputs: Collection[str] | None, pack_classes: Collection[str]
) -> dict[str, PackNode]:
    """Return the nodes of packs that run, in the graph's order.

    `outputs` are the output nodes that run, `None` for all.
    """
    live = reachable(graph, outputs)
    return {
        node_id: PACK_NODES[class_of(node)]
        for node_id, node in graph.items()
        if node_id in live and class_of(node) in pack_classes
    }


def rewrite(
    graph: Mapping[str, Any],
    outputs: Collection[str] | None,
    pack_classes: Collection[str],
    pictures: Mapping[str, Picture],
    choices: Choices,
) -> Rewriting:
    """Put core nodes in place of the nodes of packs.

    `pictures` has the files of the nodes that load some. What no output depends on is left out.
    """
    mark = _mark(graph)
    pack_nodes = wanted(graph, outputs, pack_classes)
    live = reachable(graph, outputs)
    made: dict[str, Node] = {}
    failure: Failure | None = None
    for node_id, pack_node in pack_nodes.items():
        inputs = graph[node_id].get("inputs") or {}
        node = made[node_id] = Node(node_id, inputs, graph, mark, pictures)
        try:
            pack_node.becomes(node)
        except PackNodeError as error:
            failure = failure or failed(node_id, graph, error)
        except LocalError:
            raise
        except Exception as error:
            log.exception("pack_failed", node=pack_node.name)
            raised = PackNodeError(type(error).__name__, str(error))
            failure = failure or failed(node_id, graph, raised)
    gives = {
        (node.id, output): source for node in made.values() for output, source in node.gives.items()
    }
    whole: dict[str, Any] = {}
    for node_id, given in graph.items():
        if node_id not in live or not isinstance(given, Mapping):
            continue
        about = {
            name: value for name, value in given.items() if name not in ("class_type", "inputs")
        }
        nodes = made[node_id].nodes if node_id in made else {node_id: given}
        for id_, cloud_node in nodes.items():
            inputs, lacking = _linked(inputs_of(cloud_node), gives)
            declared = (choices(str(cloud_node.get("class_type"))) or {}).get("input")
            if failure is None and not lacking <= section(declared, "optional").keys():
                failure = _nothing(node_id, given, graph)
            whole[id_] = {**(about if id_ == node_id else {}), **cloud_node, "inputs": inputs}
    with_messages = [
        node_id
        for node_id, pack_node in pack_nodes.items()
        if pack_node.messages and pack_node.messages.when(known_inputs(graph, made[node_id].inputs))
    ]
    kept = whole
    if outputs is not None:
        needed = reachable(whole, outputs)
        kept = {node_id: node for node_id, node in whole.items() if node_id in needed}
    return Rewriting(
        graph=kept,
        owners={id_: node.id for node in made.values() for id_ in node.nodes if id_ != node.id},
        silent=[id_ for node in made.values() for id_ in node.silent],
        names={node.id: node.names for node in made.values() if node.names},
        results={
            node_id: ResultSource(known_inputs(graph, made[node_id].inputs), signature)
            for node_id, signature in signatures_of(graph, with_messages).items()
        },
        before=_before(graph, live, made, kept),
        failure=failure,
    )


def _mark(graph: Mapping[str, Any]) -> str:
    """Return a text that no id of the graph holds."""
    mark = "~"
    while any(mark in node_id for node_id in graph):
        mark += "~"
    return mark


def _linked(
    inputs: Mapping[str, Any], gives: Mapping[tuple[str, int], Any]
) -> tuple[dict[str, Any], set[str]]:
    """Return the inputs with links to what gives an output now, and the names of inputs that get
    none."""
    found = {
        name: gives.get((value[0], value[1]), value) if is_link(value) else value
        for name, value in inputs.items()
    }
    lacking = {name for name, value in found.items() if value is None and is_link(inputs[name])}
    return {name: value for name, value in found.items() if name not in lacking}, lacking


#: What core's nodes ask of a mask, where it is not its shape.
_ASKED = {"MaskToImage": "reshape"}


def _nothing(node_id: str, node: Mapping[str, Any], graph: Mapping[str, Any]) -> Failure:
    """Return the failure of a node that gets no mask where it needs one."""
    class_type = str(node.get("class_type"))
    pack_node = PACK_NODES.get(class_type)
    attribute = pack_node.asks if pack_node else _ASKED.get(class_type, "shape")
    message = f"'NoneType' object has no attribute '{attribute}'"
    return Failure(node_id, "AttributeError", message, shown_inputs(node, graph))


def failed(node_id: str, graph: Mapping[str, Any], error: PackNodeError | PackFailure) -> Failure:
    """Return what a node of the graph has failed with."""
    inputs = shown_inputs(graph[node_id], graph)
    return Failure(node_id, error.exception_type, error.message, inputs)


def shown_inputs(node: Mapping[str, Any], graph: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the inputs that are known before the run, as `current_inputs` shows them."""
    known = known_inputs(graph, inputs_of(node))
    return {name: [value] for name, value in known.items() if not is_link(value)}


def known_inputs(graph: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs with their values where those are known before the run, else links."""
    return {name: constant(graph, value) for name, value in inputs.items()}


def _before(
    graph: Mapping[str, Any],
    live: Collection[str],
    made: Mapping[str, Node],
    kept: Mapping[str, Any],
) -> dict[str, list[str]]:
    """Return the nodes of the client that the cloud does not get, by those that they ran for."""
    owners = {id_ for id_, node in made.items() if not kept.keys().isdisjoint(node.nodes)}
    gone = {node_id for node_id in live if node_id not in kept and node_id not in owners}
    found = {
        node_id: [source for source in dict.fromkeys(links_of(graph[node_id])) if source in gone]
        for node_id in live
        if gone
    }
    return {node_id: sources for node_id, sources in found.items() if sources}
