"""What the cloud says of a job whose graph was rewritten, in terms of the client's graph.

Nodes that were added have ids that no graph of the client has, and belong to one of its nodes each,
whose life they live: the client does not see them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from proxy.packs.rewriting import shown_inputs
from proxy.translate.frames import CloudFrame
from proxy.translate.packs import Rewriting
from proxy.translate.reading import field_of, list_of, object_of
from proxy.translate.snapshots import Snapshot


class MemberView:
    """What the cloud says of a job in terms of the client's graph."""

    def __init__(self, rewriting: Rewriting, graph: Mapping[str, Any]) -> None:
        self._rewriting = rewriting
        self._graph = graph
        self._owners = rewriting.owners
        self._silent = frozenset(rewriting.silent)
        self._due = {node: list(ids) for node, ids in rewriting.before.items()}
        self._shown: set[str] = set()

    def owner(self, node_id: object) -> str:
        """Return the client's node that a node of the cloud belongs to."""
        return self._owners.get(str(node_id), str(node_id))

    def event(self, type_: str, data: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
        """Return an event of the client's nodes after those that are due before it, or none."""
        node = data.get("node")
        match type_:
            case "execution_cached":
                return [(type_, {**data, "nodes": self._cached(data.get("nodes"))})]
            case "progress_state":
                nodes = self._states(data.get("nodes"))
                first = [event for node_id in nodes for event in self._first(node_id)]
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
        """Return a frame of a node; an added one shows nothing."""
        return None if frame.node_id is not None and frame.node_id in self._owners else frame

    def snapshot(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot with the client's nodes alone."""
        status = snapshot.execution_status
        messages = status.get("messages") if status is not None else None
        if status is not None and isinstance(messages, list):
            status = {**status, "messages": [self._message(message) for message in messages]}
        error = snapshot.execution_error
        return replace(
            snapshot,
            outputs=self._mine(snapshot.outputs),
            meta=self._mine(snapshot.meta),
            execution_status=status,
            execution_error=None if error is None else self._failed(error),
        )

    def node_errors(self, errors: Mapping[str, Any]) -> dict[str, Any]:
        """Return node errors of the cloud as those of the client's nodes, classes and inputs."""
        found: dict[str, Any] = {}
        for node_id, about in errors.items():
            owner = self.owner(node_id)
            names = self._rewriting.names.get(node_id, {})
            shown = {
                **about,
                "class_type": self._class(owner) or about.get("class_type"),
                "dependent_outputs": self._ids(about.get("dependent_outputs")),
                "errors": [_named(error, names) for error in about.get("errors") or []],
            }
            if owner in found:
                shown["errors"] = [*found[owner]["errors"], *shown["errors"]]
            found[owner] = shown
        return found

    def _mine(self, by_node: dict[str, Any] | None) -> dict[str, Any] | None:
        if by_node is None:
            return None
        return {node: about for node, about in by_node.items() if node not in self._owners}

    def _message(self, message: Any) -> Any:
        if isinstance(message, list) and len(message) == 2 and isinstance(message[1], dict):
            events = self.event(str(message[0]), message[1])
            return [message[0], dict(events[-1][1]) if events else message[1]]
        return message

    def _class(self, node_id: str) -> str | None:
        node = self._graph.get(node_id)
        return None if node is None else str(field_of(node, "class_type"))

    def _first(self, node_id: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the runs of nodes before this one that the cloud has not got, once each."""
        found: list[tuple[str, Mapping[str, Any]]] = []
        path = [(node_id, iter(self._due.pop(node_id, ())))]
        while path:
            node, sources = path[-1]
            source = next(sources, None)
            if source is not None:
                path.append((source, iter(self._due.pop(source, ()))))
                continue
            path.pop()
            if path and node not in self._shown:
                self._shown.add(node)
                found.append(("executing", {"node": node, "display_node": node}))
        return found

    def _cached(self, nodes: object) -> list[str]:
        """Return the cached nodes; a node is cached when all that stands in its place is."""
        order = [str(node) for node in list_of(nodes)]
        cached = set(order)
        visible = [node for node in self._rewriting.graph if node not in self._silent]
        complete = {self.owner(node) for node in visible} - {
            self.owner(node) for node in visible if node not in cached
        }
        shown = {owner: None for owner in map(self.owner, order) if owner in complete}
        for node_id in list(shown):
            path = [iter(self._due.pop(node_id, ()))]
            while path:
                gone = next(path[-1], None)
                if gone is None:
                    path.pop()
                elif gone not in shown:
                    shown[gone] = None
                    path.append(iter(self._due.pop(gone, ())))
        return list(shown)

    def _states(self, nodes: object) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for node_id, state in object_of(nodes).items():
            if node_id in self._silent or not isinstance(state, dict):
                continue
            owner = self.owner(node_id)
            ids = () if owner == node_id else ("node_id", "display_node_id", "real_node_id")
            shown = {**state, **{name: owner for name in ids if name in state}}
            if owner not in found or shown.get("state") == "running":
                found[owner] = shown
        return found

    def _renamed(self, data: Mapping[str, Any]) -> dict[str, Any]:
        ids = {name: self.owner(data[name]) for name in ("node", "display_node") if data.get(name)}
        return {**data, **ids}

    def _failed(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the end of a run in a node as the end in the client's."""
        shown = dict(data)
        for name in ("executed", "current_outputs"):
            if isinstance(data.get(name), list | dict):
                shown[name] = self._ids(data[name])
        if data.get("node_id") is None:
            return shown
        cloud_node = str(data["node_id"])
        owner = self.owner(cloud_node)
        given, mine = self._rewriting.graph.get(cloud_node), self._graph.get(owner)
        shown["node_id"] = owner
        if isinstance(mine, Mapping) and isinstance(given, Mapping):
            helps = owner != cloud_node or given.get("class_type") != mine.get("class_type")
            if helps:
                shown["node_type"] = str(mine.get("class_type"))
            if helps and "current_inputs" in data:
                shown["current_inputs"] = shown_inputs(mine, self._graph)
        return shown

    def _ids(self, nodes: Any) -> list[str]:
        known = [str(node) for node in nodes or () if str(node) not in self._silent]
        return list(dict.fromkeys(self.owner(node) for node in known))


def _named(error: Any, names: Mapping[str, str]) -> Any:
    """Return an error of an input under the client's name of it."""
    info = field_of(error, "extra_info")
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
