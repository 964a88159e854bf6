"""Graphs with helper nodes: what the cloud runs in their place, and its word on it back again.

The cloud's graph keeps the member's ids; nodes that are added have ids that no graph of the member
has and belong to one node each, whose life they live: nobody hears of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from proxy.packs.nodes import Failure, Helper, HelperFailedError, Node, Picture, constant
from proxy.packs.table import HELPERS
from proxy.translate import codec
from proxy.translate.events import CloudFrame
from proxy.translate.jobs import Snapshot, inputs_of, is_link, links_of, section, sources

#: The catalog's word on a class, or `None`.
Choices = Callable[[str], Mapping[str, Any] | None]


class Telling(msgspec.Struct, frozen=True):
    """A node whose result is told in the words of its pack: its inputs as far as they are known,
    and a digest of all that its result depends on."""

    inputs: dict[str, Any]
    signature: str


class Rewriting(msgspec.Struct):
    """A graph for the cloud and the way back.

    `owners` has the member's node of each added one; the `silent` ones run before the node that
    stands in its place. `names` are the member's names of inputs by node. `before` has the nodes
    that the cloud does not get, by the nodes that they ran for. With a `failure` the job fails
    without the cloud.
    """

    graph: dict[str, Any]
    owners: dict[str, str] = {}
    silent: list[str] = []
    names: dict[str, dict[str, str]] = {}
    tells: dict[str, Telling] = {}
    before: dict[str, list[str]] = {}
    failure: Failure | None = None


def wanted(
    graph: Mapping[str, Any], outputs: Collection[str] | None, emulated: Collection[str]
) -> dict[str, Helper]:
    """The helper nodes that run, in the graph's order. `outputs` are the output nodes that run,
    `None` for all."""
    live = reachable(graph, outputs)
    return {
        node_id: HELPERS[node["class_type"]]
        for node_id, node in graph.items()
        if node_id in live and isinstance(node, Mapping) and node.get("class_type") in emulated
    }


def rewrite(
    graph: Mapping[str, Any],
    outputs: Collection[str] | None,
    emulated: Collection[str],
    pictures: Mapping[str, Picture],
    choices: Choices,
) -> Rewriting:
    """Put core nodes instead of helper nodes.

    `pictures` has the files of the nodes that load some. What no output depends on is left out.
    """
    mark = _mark(graph)
    helpers = wanted(graph, outputs, emulated)
    live = reachable(graph, outputs)
    made: dict[str, Node] = {}
    failure: Failure | None = None
    for node_id, helper in helpers.items():
        inputs = graph[node_id].get("inputs") or {}
        node = made[node_id] = Node(node_id, inputs, graph, mark, pictures)
        try:
            helper.becomes(node)
        except HelperFailedError as error:
            failure = failure or failed(node_id, graph, error)
    gives = {
        (one.id, output): source for one in made.values() for output, source in one.gives.items()
    }
    whole: dict[str, Any] = {}
    for node_id, given in graph.items():
        if node_id not in live or not isinstance(given, Mapping):
            continue
        about = {
            name: value for name, value in given.items() if name not in ("class_type", "inputs")
        }
        nodes = made[node_id].nodes if node_id in made else {node_id: given}
        for id_, one in nodes.items():
            inputs, lacking = _linked(inputs_of(one), gives)
            declared = (choices(str(one.get("class_type"))) or {}).get("input")
            if failure is None and not lacking <= section(declared, "optional").keys():
                failure = _nothing(node_id, given, graph)
            whole[id_] = {**(about if id_ == node_id else {}), **one, "inputs": inputs}
    told = [
        node_id
        for node_id, helper in helpers.items()
        if helper.tells and helper.tells.when(known_inputs(graph, made[node_id].inputs))
    ]
    kept = whole
    if outputs is not None:
        needed = reachable(whole, outputs)
        kept = {node_id: node for node_id, node in whole.items() if node_id in needed}
    return Rewriting(
        graph=kept,
        owners={id_: one.id for one in made.values() for id_ in one.nodes if id_ != one.id},
        silent=[id_ for one in made.values() for id_ in one.silent],
        names={one.id: one.names for one in made.values() if one.names},
        tells={
            node_id: Telling(known_inputs(graph, made[node_id].inputs), signature)
            for node_id, signature in _signatures(graph, told).items()
        },
        before=_before(graph, live, made, kept),
        failure=failure,
    )


def reachable(graph: Mapping[str, Any], outputs: Collection[str] | None) -> set[str]:
    """The nodes that outputs depend on, and they themselves; all without `outputs`."""
    if outputs is None:
        return set(graph)
    return (set(outputs) | sources(graph, *outputs)) & graph.keys()


def _mark(graph: Mapping[str, Any]) -> str:
    """What no id of the graph holds."""
    mark = "~"
    while any(mark in node_id for node_id in graph):
        mark += "~"
    return mark


def _linked(
    inputs: Mapping[str, Any], gives: Mapping[tuple[str, int], Any]
) -> tuple[dict[str, Any], set[str]]:
    """The inputs with links to what gives an output now, and the names of those that get none."""
    found = {
        name: gives.get((value[0], value[1]), value) if is_link(value) else value
        for name, value in inputs.items()
    }
    lacking = {name for name, value in found.items() if value is None and is_link(inputs[name])}
    return {name: value for name, value in found.items() if name not in lacking}, lacking


#: What a node of a class asks of a mask that is none, where it is not its shape.
_ASKED = {"MaskToImage": "reshape", "ETN_ApplyMaskToImage": "ndim"}


def _nothing(node_id: str, node: Mapping[str, Any], graph: Mapping[str, Any]) -> Failure:
    """The failure of a node that gets no mask where it needs one."""
    attribute = _ASKED.get(str(node.get("class_type")), "shape")
    message = f"'NoneType' object has no attribute '{attribute}'"
    return Failure(node_id, "AttributeError", message, shown_inputs(node, graph))


def failed(node_id: str, graph: Mapping[str, Any], error: HelperFailedError) -> Failure:
    """What a node of the graph has failed with."""
    inputs = shown_inputs(graph[node_id], graph)
    return Failure(node_id, error.exception_type, error.message, inputs)


def shown_inputs(node: Mapping[str, Any], graph: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The inputs that are known before the run, as `current_inputs` shows them."""
    known = known_inputs(graph, inputs_of(node))
    return {name: [value] for name, value in known.items() if not is_link(value)}


def known_inputs(graph: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with their values where those are known before the run, else links."""
    return {name: constant(graph, value) for name, value in inputs.items()}


def _before(
    graph: Mapping[str, Any],
    live: Collection[str],
    made: Mapping[str, Node],
    kept: Mapping[str, Any],
) -> dict[str, list[str]]:
    """The nodes of the member that the cloud does not get, by those that they ran for."""
    owners = {id_ for id_, one in made.items() if not kept.keys().isdisjoint(one.nodes)}
    gone = {node_id for node_id in live if node_id not in kept and node_id not in owners}
    found = {
        node_id: [source for source in dict.fromkeys(links_of(graph[node_id])) if source in gone]
        for node_id in live
        if gone
    }
    return {node_id: sources for node_id, sources in found.items() if sources}


def _signatures(graph: Mapping[str, Any], wanted: Iterable[str]) -> dict[str, str]:
    """A digest of each node's class and inputs and of those of all that it depends on."""
    known: dict[str, str] = {}
    for first in (wanted := list(wanted)):
        way = [first]
        while way:
            node_id = way[-1]
            node = graph.get(node_id)
            waiting = [
                one
                for one in links_of(node)
                if one in graph and one not in known and one not in way
            ]
            if waiting and node_id not in known:
                way.append(waiting[0])
                continue
            way.pop()
            if node_id not in known:
                known[node_id] = _digest(node, known)
    return {node_id: known[node_id] for node_id in wanted}


def _digest(node: Any, known: Mapping[str, str]) -> str:
    values = {
        name: [known.get(value[0], value[0]), value[1]] if is_link(value) else value
        for name, value in sorted(inputs_of(node).items())
    }
    text = codec.dump_bytes([node.get("class_type") if isinstance(node, Mapping) else None, values])
    return hashlib.sha256(text).hexdigest()


# --- back ----------------------------------------------------------------------------------


class MemberView:
    """The cloud's words on a job in terms of the member's graph."""

    def __init__(self, rewriting: Rewriting, graph: Mapping[str, Any]) -> None:
        self._rewriting = rewriting
        self._graph = graph
        self._owners = rewriting.owners
        self._silent = frozenset(rewriting.silent)
        self._due = {node: list(ids) for node, ids in rewriting.before.items()}
        self._told: set[str] = set()

    def owner(self, node_id: object) -> str:
        """The member's node that a node of the cloud belongs to."""
        return self._owners.get(str(node_id), str(node_id))

    def event(self, type_: str, data: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
        """An event as the member's, with those that are due before it; none if it is nobody's."""
        node = data.get("node")
        match type_:
            case "execution_cached":
                return [(type_, {**data, "nodes": self._cached(data.get("nodes"))})]
            case "progress_state":
                nodes = self._states(data.get("nodes"))
                first = [one for node_id in nodes for one in self._first(node_id)]
                return [*first, (type_, {**data, "nodes": nodes})] if nodes else []
            case "executing" | "progress" if node is not None:
                if str(node) in self._silent:
                    return []
                return [*self._first(self.owner(node)), (type_, self._renamed(data))]
            case "executed":
                return [] if str(node) in self._owners else [(type_, data)]
            case "execution_error" | "execution_interrupted":
                return [(type_, self._failed(data))]
        return [(type_, data)]

    def frame(self, frame: CloudFrame) -> CloudFrame | None:
        """A frame of a node; an added one shows nothing."""
        return None if frame.node_id is not None and frame.node_id in self._owners else frame

    def snapshot(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot with the member's nodes alone."""
        status = snapshot.execution_status
        messages = status.get("messages") if status is not None else None
        if status is not None and isinstance(messages, list):
            status = {**status, "messages": [self._message(one) for one in messages]}
        error = snapshot.execution_error
        return replace(
            snapshot,
            outputs=self._mine(snapshot.outputs),
            meta=self._mine(snapshot.meta),
            execution_status=status,
            execution_error=None if error is None else self._failed(error),
        )

    def node_errors(self, errors: Mapping[str, Any]) -> dict[str, Any]:
        """Node errors of the cloud, told of the member's nodes, classes and inputs."""
        found: dict[str, Any] = {}
        for node_id, about in errors.items():
            owner = self.owner(node_id)
            names = self._rewriting.names.get(node_id, {})
            told = {
                **about,
                "class_type": self._class(owner) or about.get("class_type"),
                "dependent_outputs": self._ids(about.get("dependent_outputs")),
                "errors": [_named(one, names) for one in about.get("errors") or []],
            }
            if owner in found:
                told["errors"] = [*found[owner]["errors"], *told["errors"]]
            found[owner] = told
        return found

    def _mine(self, by_node: dict[str, Any] | None) -> dict[str, Any] | None:
        if by_node is None:
            return None
        return {node: about for node, about in by_node.items() if node not in self._owners}

    def _message(self, message: Any) -> Any:
        if isinstance(message, list) and len(message) == 2 and isinstance(message[1], dict):
            told = self.event(str(message[0]), message[1])
            return [message[0], dict(told[-1][1]) if told else message[1]]
        return message

    def _class(self, node_id: str) -> str | None:
        node = self._graph.get(node_id)
        return str(node.get("class_type")) if isinstance(node, Mapping) else None

    def _first(self, node_id: str) -> list[tuple[str, Mapping[str, Any]]]:
        """The runs of nodes before this one that the cloud has not got, once each."""
        found: list[tuple[str, Mapping[str, Any]]] = []
        for gone in self._due.pop(node_id, ()):
            found += self._first(gone)
            if gone not in self._told:
                self._told.add(gone)
                found.append(("executing", {"node": gone, "display_node": gone}))
        return found

    def _cached(self, nodes: object) -> list[str]:
        """A node is cached when all that stands in its place is."""
        cached = {str(node) for node in nodes} if isinstance(nodes, list) else set()
        lives: dict[str, list[str]] = {}
        for node_id in self._rewriting.graph:
            if node_id not in self._silent:
                lives.setdefault(self.owner(node_id), []).append(node_id)
        found = [owner for owner, ids in lives.items() if cached.issuperset(ids)]
        order = [self.owner(node) for node in nodes] if isinstance(nodes, list) else []
        told = [one for one in dict.fromkeys(order) if one in set(found)]
        for node_id in list(told):
            told += self._gone_with(node_id, told)
        return told

    def _gone_with(self, node_id: str, told: list[str]) -> list[str]:
        found: list[str] = []
        for gone in self._due.pop(node_id, ()):
            if gone not in told and gone not in found:
                found += [gone, *self._gone_with(gone, told)]
        return found

    def _states(self, nodes: object) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for node_id, state in nodes.items() if isinstance(nodes, dict) else ():
            if node_id in self._silent or not isinstance(state, dict):
                continue
            owner = self.owner(node_id)
            ids = () if owner == node_id else ("node_id", "display_node_id", "real_node_id")
            told = {**state, **{name: owner for name in ids if name in state}}
            if owner not in found or told.get("state") == "running":
                found[owner] = told
        return found

    def _renamed(self, data: Mapping[str, Any]) -> dict[str, Any]:
        ids = {name: self.owner(data[name]) for name in ("node", "display_node") if data.get(name)}
        return {**data, **ids}

    def _failed(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The end of a run in a node, told of the member's."""
        told = dict(data)
        for name in ("executed", "current_outputs"):
            if isinstance(data.get(name), list | dict):
                told[name] = self._ids(data[name])
        if data.get("node_id") is None:
            return told
        cloud_node = str(data["node_id"])
        owner = self.owner(cloud_node)
        given, mine = self._rewriting.graph.get(cloud_node), self._graph.get(owner)
        told["node_id"] = owner
        if isinstance(mine, Mapping) and isinstance(given, Mapping):
            helps = owner != cloud_node or given.get("class_type") != mine.get("class_type")
            if helps:
                told["node_type"] = str(mine.get("class_type"))
            if helps and "current_inputs" in data:
                told["current_inputs"] = shown_inputs(mine, self._graph)
        return told

    def _ids(self, nodes: Any) -> list[str]:
        known = [str(node) for node in nodes or () if str(node) not in self._silent]
        return list(dict.fromkeys(self.owner(node) for node in known))


def _named(error: Any, names: Mapping[str, str]) -> Any:
    """An error of an input under the member's name of it."""
    info = error.get("extra_info") if isinstance(error, Mapping) else None
    if not isinstance(info, Mapping):
        return error
    name = info.get("input_name")
    if not isinstance(name, str) or names.get(name, name) == name:
        return error
    own = names[name]
    details = str(error.get("details", ""))
    if details == name or details.startswith((f"{name},", f"{name} ", f"{name}:")):
        details = own + details[len(name) :]
    return {**error, "details": details, "extra_info": {**info, "input_name": own}}
