"""Validation of graphs with ComfyUI's errors, before a graph is submitted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from itertools import islice
from typing import Any

from msgspec import Struct, field

from proxy.translate import UNKNOWN_CLASS
from proxy.translate.jobs import HasFile, class_shape
from proxy.translate.node_validation import (
    Link,
    NodeFindings,
    Reason,
    check_node,
    crash_reason,
    reason,
)
from proxy.translate.reading import object_of
from proxy.translate.shapes import Shape, Shapes

#: Blames of all nodes together; their number grows with the square of a graph of faults.
_MAX_BLAMED = 25_000


class Validation(Struct, frozen=True):
    """What was found.

    `outputs` are the output nodes that can run, in the graph's order; `node_errors` what is wrong
    with single nodes, `{id: {"errors", "dependent_outputs", "class_type"}}`; `error` refuses the
    whole graph (status 400). It is `None` when an output can run, also beside `node_errors`.
    `converted` are the values that validation changes, by node and input.
    """

    outputs: list[str] = field(default_factory=list)
    node_errors: dict[str, Any] = field(default_factory=dict)
    error: Reason | None = None
    converted: dict[str, dict[str, Any]] = field(default_factory=dict)

    def kept(self, graph: dict[str, Any]) -> dict[str, Any]:
        """Return the graph as ComfyUI continues with it and shows it, with values of their inputs'
        types.

        `"7"` becomes 7 for an `INT`, and 8 becomes 8.0 for a `FLOAT`.
        """
        changed = {
            node_id: {**graph[node_id], "inputs": {**graph[node_id]["inputs"], **values}}
            for node_id, values in self.converted.items()
        }
        return {node_id: changed.get(node_id, node) for node_id, node in graph.items()}

    @property
    def lacks_names(self) -> bool:
        """Whether a class or a choice is named that the catalog does not have."""
        if self.error is not None and self.error["type"] == UNKNOWN_CLASS:
            return True
        return any(
            error["type"] == "value_not_in_list"
            for about in self.node_errors.values()
            for error in about["errors"]
        )

    @property
    def faultless(self) -> bool:
        """Whether nothing at all was found."""
        return self.error is None and not self.node_errors


def validate(
    graph: Mapping[str, Any],
    targets: Collection[str] | None,
    shape: Shapes,
    *,
    has_file: HasFile,
) -> Validation:
    """Check a graph in API format against the catalog. Changes nothing and never raises.

    `targets` are the output nodes that are asked for (`partial_execution_targets`), `None` for
    all. `has_file` says whether the member may use a file, by its name as it stands in the graph.
    """
    shape = cache(shape)  # a graph may have more classes than the catalog keeps at hand
    shapes: dict[str, Shape] = {}
    wanted: list[str] = []
    for node_id, node in graph.items():
        known = class_shape(node, shape)
        if known is None:
            return Validation(error=_missing_class(node_id, node))
        shapes[node_id] = known
        if known.output_node and (targets is None or node_id in targets):
            wanted.append(node_id)
    if not wanted:
        return _without_outputs(shapes.values())
    try:
        return _Walk(graph, shapes, has_file).outputs(wanted)
    except (RecursionError, ValueError):
        # A value is too deep, or a number too long, to be written out.
        return Validation(wanted)


def _without_outputs(shapes: Iterable[Shape]) -> Validation:
    if any(shape.output_node is None for shape in shapes):
        return Validation()
    return Validation(error=reason("prompt_no_outputs", "Prompt has no outputs", ""))


def _missing_class(node_id: str, node: object) -> Reason:
    about: Mapping[str, Any] = object_of(node)
    class_type = about.get("class_type")
    title = object_of(about.get("_meta")).get("title", class_type)
    message = f"Node '{title}' not found. The custom node may not be installed."
    if "class_type" not in about:
        message = (
            f"Node '{title or f'ID #{node_id}'}' has no class_type."
            " The workflow may be corrupted or a custom node is missing."
        )
    about = {"node_id": node_id, "class_type": class_type, "node_title": title}
    return reason(UNKNOWN_CLASS, message, f"Node ID '#{node_id}'", **about)


class _Walk(Struct):
    """A walk that checks each node once, from the outputs back along the links of declared inputs.

    `valid` are the nodes that are known: below one with errors a node is not valid, without reasons
    in `wrong`.
    """

    graph: Mapping[str, Any]
    shapes: Mapping[str, Shape]
    has_file: HasFile
    valid: dict[str, bool] = field(default_factory=dict)
    wrong: dict[str, list[Reason]] = field(default_factory=dict)
    converted: dict[str, dict[str, Any]] = field(default_factory=dict)
    blamed: int = 0

    def outputs(self, wanted: Iterable[str]) -> Validation:
        good: list[str] = []
        node_errors: dict[str, Any] = {}
        for output in wanted:
            if output not in self.valid:
                self._judge(output)
            if self.valid[output]:
                good.append(output)
            else:
                self._blame(output, node_errors)
        if good:
            return Validation(good, node_errors, converted=self.converted)
        return Validation([], node_errors, self._refusal(wanted))

    def _refusal(self, wanted: Iterable[str]) -> Reason:
        """Return the error of a graph of which no output can run."""
        lines = [
            f"{error['message']}: {error['details']}"
            for output in wanted
            for error in self.wrong.get(output, ())
        ]
        failed = "Prompt outputs failed validation"
        return reason("prompt_outputs_failed_validation", failed, "\n".join(lines))

    def _blame(self, output: str, node_errors: dict[str, Any]) -> None:
        """Blame every bad node found so far for every output that fails after it."""
        for node_id, reasons in islice(self.wrong.items(), _MAX_BLAMED - self.blamed):
            self.blamed += 1
            if node_id not in node_errors:
                node_errors[node_id] = {
                    "errors": reasons,
                    "dependent_outputs": [],
                    "class_type": self.graph[node_id]["class_type"],
                }
            node_errors[node_id]["dependent_outputs"].append(output)

    def _judge(self, output: str) -> None:
        """Decide on an output and all nodes before it, each once all its links are known."""
        way: dict[str, NodeFindings] = {}
        self._enter(output, None, way)
        while way:
            node_id, findings = next(reversed(way.items()))
            if findings.links:
                link, source = findings.links[0], findings.links[0].value[0]
                if source in self.valid:
                    del findings.links[0]
                    findings.valid = findings.valid and self.valid[source]
                elif source in way:
                    self._close(list(way), source)
                else:
                    self._enter(source, link, way)
                continue
            way.popitem()
            reasons = findings.reasons
            if node_id in self.valid:  # a cycle has given the node a verdict already
                known = self.wrong[node_id]
                reasons = known + [cause for cause in reasons if cause not in known]
            self._give(node_id, reasons, valid=findings.valid)

    def _enter(self, node_id: str, link: Link | None, way: dict[str, NodeFindings]) -> None:
        """Check a node, from the link that leads to it, and continue from there if it can be."""
        findings = check_node(self.graph[node_id], self.shapes[node_id], self.shapes, self.has_file)
        if findings.converted:
            self.converted[node_id] = findings.converted
        if findings.crash is not None:
            self._give(node_id, [crash_reason(findings.crash, link)])
        else:
            way[node_id] = findings

    def _close(self, way: list[str], start: str) -> None:
        """Give every node of a cycle the error."""
        members = way[way.index(start) :]
        details = " -> ".join(
            f"{member} ({self.graph[member]['class_type']})" for member in [*members, start]
        )
        for member in members:
            about = {"node_id": member, "cycle_nodes": members}
            cycle = reason("dependency_cycle", "Dependency cycle detected", details, **about)
            self._give(member, [cycle])

    def _give(self, node_id: str, reasons: list[Reason], *, valid: bool = True) -> None:
        self.valid[node_id] = valid and not reasons
        if reasons:
            self.wrong[node_id] = reasons
