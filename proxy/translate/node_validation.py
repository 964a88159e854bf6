"""Validation of one node with ComfyUI's errors, against the entry of its class.

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
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct, field

from proxy.translate.jobs import HasFile, invalid_file, unwrapped
from proxy.translate.names import is_hash_name
from proxy.translate.shapes import MATCH_TYPE, Input, Shape

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


def reason(kind: str, message: str, details: str, **extra_info: Any) -> Reason:
    """Return an error in ComfyUI's form."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def _wrong(declared: Input, kind: str, message: str, details: str, **extra_info: Any) -> Reason:
    """Return an error of an input, with its spec as ComfyUI repeats it."""
    about = {"input_name": declared.name, "input_config": [declared.type, declared.options]}
    return reason(kind, message, details, **about | extra_info)


#: Type and text of the exception with which ComfyUI's own validation of a node ends.
Crash: TypeAlias = tuple[str, str]


class Link(NamedTuple):
    """An input that is joined to a slot of another node, `[node id, slot]`."""

    input: Input
    value: list[Any]


class NodeFindings(Struct):
    """The findings about one node alone; `converted` are values that ComfyUI changes.

    `links` are those still to be followed, and `valid` says that those that were lead to no fault.
    """

    reasons: list[Reason] = field(default_factory=list)
    converted: dict[str, Any] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    crash: Crash | None = None
    valid: bool = True


def check_node(
    node: Mapping[str, Any], shape: Shape, shapes: Mapping[str, Shape], has_file: HasFile
) -> NodeFindings:
    """Check a node of a class. `shapes` are the classes of all nodes by their ids.

    What a node pack may waive counts only beside what it may not.
    """
    given = node.get("inputs")
    if not isinstance(given, dict):
        if given != []:
            return _without_inputs(node, shape)
        given = {}
    found = NodeFindings()
    for declared in shape.expanded(given) if shape.dynamic else shape.inputs:
        if declared.name not in given:
            if declared.required:
                found.reasons.append(_missing(declared))
            continue
        value = given[declared.name]
        if type(value) is list:
            try:
                _follow(declared, value, shape, shapes, found)
            except (KeyError, IndexError, TypeError) as error:
                found.crash = (type(error).__name__, str(error))
                return found
        elif wrong := _value(declared, value, shape, has_file, found.converted):
            found.reasons.append(wrong)
    if not shape.core and not any(error["type"] in _CERTAIN for error in found.reasons):
        found.reasons = []
    return found


def _without_inputs(node: Mapping[str, Any], shape: Shape) -> NodeFindings:
    if "inputs" not in node:
        return NodeFindings(crash=("KeyError", "'inputs'"))
    if node["inputs"] is None and shape.inputs:
        return NodeFindings(crash=("TypeError", "argument of type 'NoneType' is not iterable"))
    return NodeFindings()


def _follow(
    declared: Input, link: list[Any], shape: Shape, shapes: Mapping[str, Shape], found: NodeFindings
) -> None:
    """Check a link. What it leads to may be no node, or no slot of it: that raises the same
    exceptions as in ComfyUI's own validation."""
    if len(link) != 2:
        found.reasons.append(_no_link(declared, link))
        return
    source, slot = link
    if isinstance(source, list | dict):  # Python has other words for it since 3.14
        raise TypeError(f"unhashable type: '{type(source).__name__}'")
    giver = shapes[source]
    if giver.core and giver.outputs is not None:
        received = giver.outputs[slot]
        if received != declared.type and not _fits(received, declared.type):
            found.reasons.append(_mismatch(declared, received, link))
            if shape.core:
                return
    found.links.append(Link(declared, link))


def _fits(received: object, wanted: str | list[Any]) -> bool:
    """Return whether an output may go into an input of another type: both name types, several with
    commas between."""
    if not isinstance(received, str):
        return True
    if not isinstance(wanted, str):
        return received in ("*", MATCH_TYPE, "COMBO")
    if MATCH_TYPE in (received, wanted):
        return True
    gives = {name.strip() for name in received.split(",")}
    takes = {name.strip() for name in wanted.split(",")}
    return "*" in gives or "*" in takes or bool(gives & takes)


def _value(
    declared: Input, given: Any, shape: Shape, has_file: HasFile, converted: dict[str, Any]
) -> Reason | None:
    """Convert a value as ComfyUI does before it looks at bounds and lists.

    A list that was wrapped stays so where the graph continues: bare it would be a link. So does
    what becomes no finite number, which JSON does not know.
    """
    value = unwrapped(given)
    kind = declared.type
    if type(kind) is str and kind in _CONVERSIONS:
        try:
            value = _CONVERSIONS[kind](value)
        except (TypeError, ValueError, OverflowError) as error:
            return _unconverted(declared, value, error)
    infinite = isinstance(value, float) and not math.isfinite(value)
    if value is not given and not isinstance(value, list) and not infinite:
        converted[declared.name] = value
    if isinstance(value, int | float) and (value < declared.low or value > declared.high):
        return _out_of_bounds(declared, value)
    if shape.core and (shape.name, declared.name) in _LOADERS:
        return _file_reason(declared, value, _LOADERS[shape.name, declared.name], has_file)
    if declared.choices is None or declared.uploads:
        return None
    return _choice(declared, declared.choices, value, has_file)


def _choice(declared: Input, choices: list[Any], value: Any, has_file: HasFile) -> Reason | None:
    if isinstance(value, list) and declared.options.get("multiselect"):
        if len(value) > max(len(choices), _LONG):
            return None
        wrong = [item for item in value if item not in choices]
    else:
        wrong = [] if value in choices else [value]
    if not wrong or all(isinstance(item, str) and has_file(item) for item in wrong):
        return None
    long = len(choices) > _LONG
    listed = f"(list of length {len(choices)})" if long else str(choices)
    details = f"{declared.name}: {', '.join(map(repr, wrong))} not in {listed}"
    about = {"input_config": None} if long else {}
    return _wrong(
        declared, "value_not_in_list", "Value not in list", details, **about, received_value=value
    )


def _file_reason(declared: Input, value: Any, what: str, has_file: HasFile) -> Reason | None:
    """Return the error of a name of a missing file; a file of the member is valid, whatever the
    catalog lists.

    What the catalog lists is good as well, but for hashes: those are files of the account.
    """
    if not isinstance(value, str) or has_file(value):
        return None
    if declared.choices is not None and value in declared.choices and not is_hash_name(value):
        return None
    return invalid_file(declared.name, value, what)


def crash_reason(crash: Crash, link: Link | None) -> Reason:
    """Return the failure of an output's own validation, or of that of a node before a link."""
    type_, text = crash
    about = {"exception_type": type_, "traceback": list(_TRACEBACK)}
    if link is None:
        message = "Exception when validating node"
        return reason("exception_during_validation", message, text, **about)
    kind, message = "exception_during_inner_validation", "Exception when validating inner node"
    about = {"exception_message": text, **about, "linked_node": link.value}
    return _wrong(link.input, kind, message, text, **about)


# --- the words of ComfyUI ------------------------------------------------------------------


def _missing(declared: Input) -> Reason:
    message, short = "Required input is missing", declared.name.rpartition(".")[2]
    return reason("required_input_missing", message, short, input_name=declared.name)


def _no_link(declared: Input, value: list[Any]) -> Reason:
    message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
    return _wrong(declared, "bad_linked_input", message, declared.name, received_value=value)


def _mismatch(declared: Input, received: Any, link: list[Any]) -> Reason:
    message = "Return type mismatch between linked nodes"
    details = f"{declared.name}, received_type({received}) mismatch input_type({declared.type})"
    about = {"received_type": received, "linked_node": link}
    return _wrong(declared, "return_type_mismatch", message, details, **about)


def _unconverted(declared: Input, value: Any, error: Exception) -> Reason:
    message = f"Failed to convert an input value to a {declared.type} value"
    about = {"received_value": value, "exception_message": str(error)}
    details = f"{declared.name}, {value}, {error}"
    return _wrong(declared, "invalid_input_type", message, details, **about)


def _out_of_bounds(declared: Input, value: float) -> Reason:
    kind, about = "value_bigger_than_max", f"bigger than max of {declared.high}"
    if value < declared.low:
        kind, about = "value_smaller_than_min", f"smaller than min of {declared.low}"
    return _wrong(declared, kind, f"Value {value} {about}", declared.name, received_value=value)
