"""What is wrong with a graph, as ComfyUI would say it: found before the graph goes anywhere.

Only what is certain from the catalog is called wrong; the cloud decides where it leaves doubt:

* a class whose entry has an unknown form, and inputs with such specs;
* lists, bounds and types of links of classes that belong to a node pack: its own checks
  (`VALIDATE_INPUTS`), which the catalog does not show, may waive them. Missing inputs, values of
  which no number can be made, and links to nowhere are wrong there, too, and then the rest is told;
* combos whose list is empty or fetched from elsewhere, and bounds that are no numbers;
* dynamic inputs of other kinds than Autogrow and DynamicCombo;
* whether a file can be read, and whatever else a class looks at by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.translate.graph import strings
from proxy.translate.release import UNKNOWN_CLASS
from proxy.translate.validation_inputs import (
    Crash,
    HasFile,
    Link,
    Look,
    Reason,
    Shape,
    look,
    reason,
    shape,
)

#: Clients show it; ComfyUI's names its own lines.
_TRACEBACK = ('  File "validation.py", in validate\n',)

#: Blames of all nodes together; their number grows with the square of a graph of faults.
_MOST_BLAMED = 100_000


@dataclass(frozen=True, slots=True)
class Validation:
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
        """The graph as ComfyUI continues with it and shows it: values have the types of their
        inputs.

        `"7"` becomes 7 for an `INT`, and 8 becomes 8.0 for a `FLOAT`.
        """
        changed = {
            node_id: {**graph[node_id], "inputs": {**graph[node_id]["inputs"], **values}}
            for node_id, values in self.converted.items()
        }
        return {node_id: changed.get(node_id, node) for node_id, node in graph.items()}

    @property
    def faultless(self) -> bool:
        """Whether nothing at all was found."""
        return self.error is None and not self.node_errors


def validate(
    graph: Mapping[str, Any],
    targets: Collection[str] | None,
    choices: Callable[[str], Mapping[str, Any] | None],
    *,
    has_file: HasFile | None = None,
) -> Validation:
    """Check a graph in API format against the catalog. Changes nothing and never raises.

    `targets` are the output nodes that are asked for (`partial_execution_targets`), `None` for
    all. `choices` gives a class's entry in `object_info`, or `None` for a class that there is not.
    `has_file` says whether the member may use a file, by its name as it stands in the graph;
    without it names of files are not looked at.
    """
    shapes: dict[str, Shape] = {}
    for node_id, node in graph.items():
        class_type = node.get("class_type") if isinstance(node, Mapping) else None
        if not isinstance(class_type, str) or not isinstance(node, Mapping):
            return Validation(error=_missing_class(node_id, node))
        if class_type not in shapes:
            info = choices(class_type)
            if info is None:
                return Validation(error=_missing_class(node_id, node))
            shapes[class_type] = _shape(class_type, info)
    wanted = [
        node_id
        for node_id, node in graph.items()
        if shapes[node["class_type"]].output_node and (targets is None or node_id in targets)
    ]
    if not wanted:
        if any(one.output_node is None for one in shapes.values()):
            return Validation()
        return Validation(error=reason("prompt_no_outputs", "Prompt has no outputs", ""))
    try:
        return _Walk(graph, shapes, has_file).outputs(wanted)
    except (RecursionError, ValueError):
        # A value is too deep, or a number too long, to be written out.
        return Validation(wanted)


#: What was read of the entries of classes, by their identity: they are the same for many graphs.
_shapes: dict[int, tuple[Mapping[str, Any], Shape]] = {}
_MOST_SHAPES = 512


def _shape(class_type: str, info: Mapping[str, Any]) -> Shape:
    known = _shapes.get(id(info))
    if known is None or known[0] is not info:
        if len(_shapes) >= _MOST_SHAPES:
            _shapes.clear()
        known = _shapes[id(info)] = info, shape(class_type, info)
    return known[1]


def _missing_class(node_id: str, node: object) -> Reason:
    named = isinstance(node, Mapping) and "class_type" in node
    class_type = node["class_type"] if isinstance(node, Mapping) and named else None
    title = _title(node, class_type)
    message = f"Node '{title}' not found. The custom node may not be installed."
    if not named:
        message = (
            f"Node '{title or f'ID #{node_id}'}' has no class_type."
            " The workflow may be corrupted or a custom node is missing."
        )
    about = {"node_id": node_id, "class_type": class_type, "node_title": title}
    return reason(UNKNOWN_CLASS, message, f"Node ID '#{node_id}'", **about)


def _title(node: object, default: object) -> object:
    meta = node.get("_meta") if isinstance(node, Mapping) else None
    return meta.get("title", default) if isinstance(meta, Mapping) else default


@dataclass(slots=True)
class _Verdict:
    """What is known of a node: below a node with errors it is not valid, without reasons."""

    valid: bool
    reasons: list[Reason]


@dataclass(slots=True)
class _Step:
    """A node on the way from an output, while the nodes before it are looked at."""

    node_id: str
    found: Look
    links: Iterator[Link]
    valid: bool = True


class _Walk:
    """Looks at each node once, from the outputs back along the links of declared inputs."""

    def __init__(
        self, graph: Mapping[str, Any], shapes: Mapping[str, Shape], has_file: HasFile | None
    ) -> None:
        self._graph = graph
        self._shapes = shapes
        self._has_file = has_file
        self._verdicts: dict[str, _Verdict] = {}
        self._wrong: dict[str, None] = {}
        self._converted: dict[str, dict[str, Any]] = {}
        self._blamed = 0

    def outputs(self, wanted: Iterable[str]) -> Validation:
        good: list[str] = []
        node_errors: dict[str, Any] = {}
        lines: list[str] = []
        for output in wanted:
            verdict = self._verdicts.get(output) or self._judge(output)
            if verdict.valid:
                good.append(output)
                continue
            lines += [f"{one['message']}: {one['details']}" for one in verdict.reasons]
            self._blame(output, node_errors)
        if good:
            return Validation(good, node_errors, converted=self._converted)
        failed = "Prompt outputs failed validation"
        error = reason("prompt_outputs_failed_validation", failed, "\n".join(lines))
        return Validation([], node_errors, error)

    def _blame(self, output: str, node_errors: dict[str, Any]) -> None:
        """Every node found bad so far is blamed for every output that fails after it."""
        for node_id in self._wrong:
            if self._blamed >= _MOST_BLAMED:
                return
            self._blamed += 1
            if node_id not in node_errors:
                node_errors[node_id] = {
                    "errors": self._verdicts[node_id].reasons,
                    "dependent_outputs": [],
                    "class_type": self._graph[node_id]["class_type"],
                }
            node_errors[node_id]["dependent_outputs"].append(output)

    def _give(self, node_id: str, verdict: _Verdict) -> _Verdict:
        self._verdicts[node_id] = verdict
        if verdict.reasons:
            self._wrong[node_id] = None
        return verdict

    def _judge(self, output: str) -> _Verdict:
        first = self._look(output)
        if first.crash is not None:
            return self._give(output, _Verdict(False, [_exception(first.crash)]))
        way = [_Step(output, first, iter(first.links))]
        on_the_way = {output}
        while way:
            step = way[-1]
            link = next(step.links, None)
            if link is None:
                way.pop()
                on_the_way.discard(step.node_id)
                valid = self._conclude(step)
                if way:
                    way[-1].valid = way[-1].valid and valid
            elif link.source in self._verdicts:
                step.valid = step.valid and self._verdicts[link.source].valid
            elif link.source in on_the_way:
                self._close([one.node_id for one in way], link.source)
                step.valid = False
            else:
                found = self._look(link.source)
                if found.crash is not None:
                    told = _inner_exception(found.crash, link)
                    self._give(link.source, _Verdict(False, [told]))
                    step.valid = False
                else:
                    way.append(_Step(link.source, found, iter(found.links)))
                    on_the_way.add(link.source)
        return self._verdicts[output]

    def _conclude(self, step: _Step) -> bool:
        cycle = self._verdicts.get(step.node_id)
        if cycle is None:
            reasons = step.found.reasons
            verdict = _Verdict(step.valid and not reasons, reasons)
        else:
            more = [one for one in step.found.reasons if one not in cycle.reasons]
            verdict = _Verdict(False, cycle.reasons + more)
        return self._give(step.node_id, verdict).valid

    def _close(self, way: list[str], start: str) -> None:
        """Every node of a cycle is told of it."""
        members = way[way.index(start) :]
        details = " -> ".join(
            f"{one} ({self._graph[one]['class_type']})" for one in [*members, start]
        )
        for member in members:
            message = "Dependency cycle detected"
            told = reason("dependency_cycle", message, details, node_id=member, cycle_nodes=members)
            self._give(member, _Verdict(False, [told]))

    def _look(self, node_id: str) -> Look:
        node = self._graph[node_id]
        found = look(node, self._shapes[node["class_type"]], self._shape_of, self._has_file)
        if found.converted:
            self._converted[node_id] = found.converted
        return found

    def _shape_of(self, node_id: str) -> Shape | None:
        node = self._graph.get(node_id)
        return None if node is None else self._shapes[node["class_type"]]


def _exception(crash: Crash) -> Reason:
    return reason(
        "exception_during_validation",
        "Exception when validating node",
        crash.text,
        exception_type=crash.type,
        traceback=list(_TRACEBACK),
    )


def _inner_exception(crash: Crash, link: Link) -> Reason:
    return reason(
        "exception_during_inner_validation",
        "Exception when validating inner node",
        crash.text,
        input_name=link.input.name,
        input_config=link.input.config,
        exception_message=crash.text,
        exception_type=crash.type,
        traceback=list(_TRACEBACK),
        linked_node=link.value,
    )


#: A string whose last part is a content hash, as the cloud names files.
_NAMES_CONTENT = re.compile(
    r"(?:.*[/\\:\s])?[0-9a-f]{64}(?:\.\w+)?\s*(?:\[\w+\])?\s*", re.IGNORECASE | re.DOTALL
)

#: Longer strings are no names.
_LONGEST = 1024


def foreign_files(graph: Mapping[str, Any], has_file: HasFile) -> dict[str, Any]:
    """Node errors for every name of the cloud's that is of no file of the member.

    Whether the account has such a file makes no difference. `has_file` says whether the member
    has it.
    """
    node_errors = {}
    for node_id, node in graph.items():
        inputs = node.get("inputs") if isinstance(node, Mapping) else None
        found = [
            _invalid(str(name), text)
            for name, value in (inputs.items() if isinstance(inputs, Mapping) else ())
            for text in strings(value)
            if _names_content(text) and not has_file(text)
        ]
        if found:
            class_type = node.get("class_type")
            node_errors[node_id] = {
                "errors": found,
                "dependent_outputs": [],
                "class_type": class_type if isinstance(class_type, str) else "",
            }
    return node_errors


def _names_content(text: str) -> bool:
    return 64 <= len(text) <= _LONGEST and _NAMES_CONTENT.fullmatch(text) is not None


def _invalid(name: str, value: str) -> Reason:
    return reason(
        "custom_validation_failed",
        "Custom validation failed for node",
        f"{name} - Invalid file: {value}",
        input_name=name,
    )
