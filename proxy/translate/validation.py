"""Validation of graphs with ComfyUI's errors, before a graph is submitted.

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

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct, field

from proxy.translate import UNKNOWN_CLASS
from proxy.translate.jobs import HasFile, invalid_file
from proxy.translate.names import is_hash_name
from proxy.translate.shapes import MATCH_TYPE, Input, Shape, Shapes

#: `{"type", "message", "details", "extra_info"}`.
Reason: TypeAlias = dict[str, Any]

#: Types whose values are converted before they are looked at.
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
}

#: The classes of ComfyUI that look for the file which an input names, and what they call it.
_LOADERS = {
    ("LoadImage", "image"): "image file",
    ("LoadImageMask", "image"): "image file",
    ("LoadImageOutput", "image"): "image file",
    ("LoadAudio", "audio"): "audio file",
    ("LoadVideo", "file"): "video file",
    ("LoadLatent", "latent"): "latent file",
}

#: What no class can waive by checks of its own.
_CERTAIN = frozenset({"required_input_missing", "bad_linked_input", "invalid_input_type"})

#: Lists longer than this are not spelled out.
_LONG = 20

#: Clients show it; ComfyUI's names its own lines.
_TRACEBACK = ('  File "validation.py", in validate\n',)

#: Blames of all nodes together; their number grows with the square of a graph of faults.
_MAX_BLAMED = 100_000


def reason(kind: str, message: str, details: str, **extra_info: Any) -> Reason:
    """Return an error in ComfyUI's form."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def _wrong(declared: Input, kind: str, message: str, details: str, **extra_info: Any) -> Reason:
    """Return an error of an input, with its spec as ComfyUI repeats it."""
    about = {"input_name": declared.name, "input_config": [declared.type, declared.options]}
    return reason(kind, message, details, **about | extra_info)


# --- what is wrong with one node ---------------------------------------------------------------


#: Type and text of the exception with which ComfyUI's own validation of a node ends.
Crash: TypeAlias = tuple[str, str]


class Link(NamedTuple):
    """An input that is joined to a slot of another node, `[node id, slot]`."""

    input: Input
    value: list[Any]


class Look(Struct):
    """The findings about one node alone; `converted` are values that ComfyUI changes.

    `links` are those still to be followed, and `valid` says that those that were lead to no fault.
    """

    reasons: list[Reason] = field(default_factory=list)
    converted: dict[str, Any] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    crash: Crash | None = None
    valid: bool = True


def _look(
    node: Mapping[str, Any], shape: Shape, shapes: Mapping[str, Shape], has_file: HasFile | None
) -> Look:
    """Look at a node of a class. `shapes` are the classes of all nodes by their ids.

    What a node pack may waive counts only beside what it may not.
    """
    if "inputs" not in node:
        return Look(crash=("KeyError", "'inputs'"))
    given = node["inputs"]
    if given is None and shape.inputs:
        return Look(crash=("TypeError", "argument of type 'NoneType' is not iterable"))
    found = Look()
    if given == []:
        given = {}
    if not isinstance(given, dict):
        return found
    for declared in shape.expanded(given) if shape.dynamic else shape.inputs:
        if declared.name not in given:
            if declared.required:
                message, short = "Required input is missing", declared.name.rpartition(".")[2]
                missing = reason("required_input_missing", message, short, input_name=declared.name)
                found.reasons.append(missing)
            continue
        value = given[declared.name]
        if type(value) is list:
            found.crash = _follow(declared, value, shape, shapes, found)
            if found.crash is not None:
                return found
        else:
            wrong = _value(declared, value, shape, has_file, found.converted)
            if wrong is not None:
                found.reasons.append(wrong)
    if not shape.core and not any(error["type"] in _CERTAIN for error in found.reasons):
        found.reasons = []
    return found


def _follow(
    declared: Input, link: list[Any], shape: Shape, shapes: Mapping[str, Shape], found: Look
) -> Crash | None:
    if len(link) != 2:
        message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        wrong = _wrong(declared, "bad_linked_input", message, declared.name, received_value=link)
        found.reasons.append(wrong)
        return None
    source, slot = link
    if isinstance(source, list | dict):
        return ("TypeError", f"unhashable type: '{type(source).__name__}'")
    giver = shapes.get(source)
    if giver is None:
        return ("KeyError", repr(source))
    if giver.core and giver.outputs is not None:
        if not isinstance(slot, int):
            what = type(slot).__name__
            return ("TypeError", f"tuple indices must be integers or slices, not {what}")
        try:
            received = giver.outputs[slot]
        except IndexError:
            return ("IndexError", "tuple index out of range")
        if not _fits(received, declared.type):
            message = "Return type mismatch between linked nodes"
            details = (
                f"{declared.name}, received_type({received}) mismatch input_type({declared.type})"
            )
            about = {"received_type": received, "linked_node": link}
            found.reasons.append(
                _wrong(declared, "return_type_mismatch", message, details, **about)
            )
            if shape.core:
                return None
    found.links.append(Link(declared, link))
    return None


def _fits(received: object, wanted: str | list[Any]) -> bool:
    """Return whether an output may go into an input: both name types, several with commas
    between."""
    if not isinstance(received, str) or received == wanted:
        return True
    if not isinstance(wanted, str):
        return received in ("*", MATCH_TYPE, "COMBO")
    if MATCH_TYPE in (received, wanted):
        return True
    gives = {name.strip() for name in received.split(",")}
    takes = {name.strip() for name in wanted.split(",")}
    return "*" in gives or "*" in takes or bool(gives & takes)


def _value(
    declared: Input, given: Any, shape: Shape, has_file: HasFile | None, converted: dict[str, Any]
) -> Reason | None:
    """Convert a value as ComfyUI does before it looks at bounds and lists.

    A list that was wrapped stays so where the graph continues: bare it would be a link. So does
    what becomes no finite number, which JSON does not know.
    """
    value = given
    if type(value) is dict and "__value__" in value:
        value = value["__value__"]
    kind = declared.type
    if type(kind) is str and kind in _CONVERSIONS:
        try:
            value = _CONVERSIONS[kind](value)
        except (TypeError, ValueError, OverflowError) as error:
            message = f"Failed to convert an input value to a {kind} value"
            about = {"received_value": value, "exception_message": str(error)}
            details = f"{declared.name}, {value}, {error}"
            return _wrong(declared, "invalid_input_type", message, details, **about)
    infinite = isinstance(value, float) and not math.isfinite(value)
    if value is not given and not isinstance(value, list) and not infinite:
        converted[declared.name] = value
    if wrong := _bounds(declared, value):
        return wrong
    if shape.core and (shape.name, declared.name) in _LOADERS:
        return _file(declared, value, _LOADERS[shape.name, declared.name], has_file)
    if declared.choices is None or declared.uploads:
        return None
    return _choice(declared, declared.choices, value, has_file)


def _bounds(declared: Input, value: Any) -> Reason | None:
    if not isinstance(value, int | float):
        return None
    if declared.low is not None and value < declared.low:
        message = f"Value {value} smaller than min of {declared.low}"
        return _wrong(
            declared, "value_smaller_than_min", message, declared.name, received_value=value
        )
    if declared.high is not None and value > declared.high:
        message = f"Value {value} bigger than max of {declared.high}"
        return _wrong(
            declared, "value_bigger_than_max", message, declared.name, received_value=value
        )
    return None


def _choice(
    declared: Input, choices: list[Any], value: Any, has_file: HasFile | None
) -> Reason | None:
    if isinstance(value, list) and declared.options.get("multiselect"):
        if len(value) > max(len(choices), _LONG):
            return None
        wrong = [item for item in value if item not in choices]
    else:
        wrong = [] if value in choices else [value]
    if not wrong or all(isinstance(item, str) and has_file and has_file(item) for item in wrong):
        return None
    long = len(choices) > _LONG
    listed = f"(list of length {len(choices)})" if long else str(choices)
    details = f"{declared.name}: {', '.join(map(repr, wrong))} not in {listed}"
    about = {"input_config": None} if long else {}
    return _wrong(
        declared, "value_not_in_list", "Value not in list", details, **about, received_value=value
    )


def _file(declared: Input, value: Any, what: str, has_file: HasFile | None) -> Reason | None:
    """Return the error of a name of a missing file; a file of the member is valid, whatever the
    catalog lists.

    What the catalog lists is good as well, but for hashes: those are files of the account.
    """
    if has_file is None or not isinstance(value, str) or has_file(value):
        return None
    if declared.choices is not None and value in declared.choices and not is_hash_name(value):
        return None
    return invalid_file(declared.name, value, what)


# --- what is wrong with a graph ----------------------------------------------------------------


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
    has_file: HasFile | None = None,
) -> Validation:
    """Check a graph in API format against the catalog. Changes nothing and never raises.

    `targets` are the output nodes that are asked for (`partial_execution_targets`), `None` for
    all. `has_file` says whether the member may use a file, by its name as it stands in the graph;
    without it names of files are not looked at.
    """
    shape = cache(shape)
    shapes: dict[str, Shape] = {}
    for node_id, node in graph.items():
        class_type = node.get("class_type") if isinstance(node, Mapping) else None
        known = shape(class_type) if isinstance(class_type, str) else None
        if known is None:
            return Validation(error=_missing_class(node_id, node))
        shapes[node_id] = known
    outputs = [node_id for node_id, shape in shapes.items() if shape.output_node]
    wanted = [node_id for node_id in outputs if targets is None or node_id in targets]
    if not wanted:
        if any(shape.output_node is None for shape in shapes.values()):
            return Validation()
        return Validation(error=reason("prompt_no_outputs", "Prompt has no outputs", ""))
    try:
        return _Walk(graph, shapes, has_file).outputs(wanted)
    except (RecursionError, ValueError):
        # A value is too deep, or a number too long, to be written out.
        return Validation(wanted)


def _missing_class(node_id: str, node: object) -> Reason:
    about: Mapping[str, Any] = node if isinstance(node, Mapping) else {}
    class_type, meta = about.get("class_type"), about.get("_meta")
    title = meta.get("title", class_type) if isinstance(meta, Mapping) else class_type
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
    has_file: HasFile | None
    valid: dict[str, bool] = field(default_factory=dict)
    wrong: dict[str, list[Reason]] = field(default_factory=dict)
    converted: dict[str, dict[str, Any]] = field(default_factory=dict)
    blamed: int = 0

    def outputs(self, wanted: Iterable[str]) -> Validation:
        good: list[str] = []
        node_errors: dict[str, Any] = {}
        lines: list[str] = []
        for output in wanted:
            if output not in self.valid:
                self._judge(output)
            if self.valid[output]:
                good.append(output)
                continue
            lines += [
                f"{error['message']}: {error['details']}" for error in self.wrong.get(output, ())
            ]
            self._blame(output, node_errors)
        if good:
            return Validation(good, node_errors, converted=self.converted)
        failed = "Prompt outputs failed validation"
        error = reason("prompt_outputs_failed_validation", failed, "\n".join(lines))
        return Validation([], node_errors, error)

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
        way: dict[str, Look] = {}
        self._enter(output, None, way)
        while way:
            node_id, look = next(reversed(way.items()))
            while look.links:
                source = look.links[0].value[0]
                if source in self.valid:
                    del look.links[0]
                    look.valid = look.valid and self.valid[source]
                elif source in way:
                    self._close(list(way), source)
                elif self._enter(source, look.links[0], way):
                    break
            else:
                way.popitem()
                self._conclude(node_id, look)

    def _enter(self, node_id: str, link: Link | None, way: dict[str, Look]) -> bool:
        """Look at a node, from the link that leads to it, and continue from there if it can be."""
        look = _look(self.graph[node_id], self.shapes[node_id], self.shapes, self.has_file)
        if look.converted:
            self.converted[node_id] = look.converted
        if look.crash is not None:
            self._give(node_id, [_exception(look.crash, link)])
            return False
        way[node_id] = look
        return True

    def _conclude(self, node_id: str, look: Look) -> None:
        """Decide on a node, once all its links are known; in a cycle the node has a verdict
        already."""
        reasons = look.reasons
        if node_id in self.valid:
            known = self.wrong[node_id]
            reasons = known + [cause for cause in reasons if cause not in known]
        self._give(node_id, reasons, valid=look.valid)

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


def _exception(crash: Crash, link: Link | None) -> Reason:
    """Return the failure of an output's own validation, or of that of a node before a link."""
    type_, text = crash
    about = {"exception_type": type_, "traceback": list(_TRACEBACK)}
    if link is None:
        message = "Exception when validating node"
        return reason("exception_during_validation", message, text, **about)
    kind, message = "exception_during_inner_validation", "Exception when validating inner node"
    about = {"exception_message": text, **about, "linked_node": link.value}
    return _wrong(link.input, kind, message, text, **about)
