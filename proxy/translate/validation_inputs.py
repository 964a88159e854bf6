"""What is wrong with a node's inputs, in the words of ComfyUI."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from proxy.translate.names import is_hash_name
from proxy.translate.validation_shape import CONVERTED, MATCH_TYPE, Input, Shape

#: `{"type", "message", "details", "extra_info"}`.
Reason: TypeAlias = dict[str, Any]

#: Says whether the member may use a file, by its name as it stands in a graph ("x.png [output]").
HasFile: TypeAlias = Callable[[str], bool]

#: Lists longer than this are not spelled out.
_LONG = 20

#: The classes of ComfyUI that look for the file which an input names, and what they call it.
_LOADERS = {
    ("LoadImage", "image"): "image",
    ("LoadImageMask", "image"): "image",
    ("LoadImageOutput", "image"): "image",
    ("LoadAudio", "audio"): "audio",
    ("LoadVideo", "file"): "video",
    ("LoadLatent", "latent"): "latent",
}

_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
}


#: What no class can waive by checks of its own.
_CERTAIN = frozenset({"required_input_missing", "bad_linked_input", "invalid_input_type"})


class Crash(NamedTuple):
    """The exception with which ComfyUI's own validation of a node ends."""

    type: str
    text: str


class Link(NamedTuple):
    """An input that is joined to a slot of another node."""

    input: Input
    source: str
    value: list[Any]


@dataclass(slots=True)
class Look:
    """What a look at one node alone has found; `converted` are values that ComfyUI changes."""

    reasons: list[Reason] = field(default_factory=list)
    converted: dict[str, Any] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    crash: Crash | None = None


def reason(kind: str, message: str, details: str, **extra_info: Any) -> Reason:
    """An error in ComfyUI's form."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def look(
    node: Mapping[str, Any],
    shape: Shape,
    shape_of: Callable[[str], Shape | None],
    has_file: HasFile | None,
) -> Look:
    """Look at a node. `shape_of` gives the shape of a node by its id, `None` if there is none.

    What a node pack may waive counts only beside what it may not.
    """
    found = Look()
    if "inputs" not in node:
        found.crash = Crash("KeyError", "'inputs'")
        return found
    given = node["inputs"]
    if given is None and shape.inputs:
        found.crash = Crash("TypeError", "argument of type 'NoneType' is not iterable")
        return found
    if given == []:
        given = {}
    if not isinstance(given, dict):
        return found
    for one in shape.inputs_of(given) if shape.dynamic else shape.inputs:
        if one.name not in given:
            if one.required:
                found.reasons.append(_missing(one))
            continue
        value = given[one.name]
        if type(value) is list:
            found.crash = _follow(one, value, shape, shape_of, found)
            if found.crash is not None:
                return found
        else:
            wrong = _value(one, value, shape, has_file, found.converted)
            if wrong is not None:
                found.reasons.append(wrong)
    if not shape.core and not any(one["type"] in _CERTAIN for one in found.reasons):
        found.reasons = []
    return found


def _missing(one: Input) -> Reason:
    message = "Required input is missing"
    details = one.name.rpartition(".")[2]
    return reason("required_input_missing", message, details, input_name=one.name)


def _follow(
    one: Input,
    link: list[Any],
    shape: Shape,
    shape_of: Callable[[str], Shape | None],
    found: Look,
) -> Crash | None:
    if len(link) != 2:
        wrong = reason(
            "bad_linked_input",
            "Bad linked input, must be a length-2 list of [node_id, slot_index]",
            one.name,
            input_name=one.name,
            input_config=one.config,
            received_value=link,
        )
        found.reasons.append(wrong)
        return None
    source, slot = link
    if isinstance(source, list | dict):
        return Crash("TypeError", f"unhashable type: '{type(source).__name__}'")
    giver = shape_of(source)
    if giver is None:
        return Crash("KeyError", repr(source))
    if giver.core and giver.outputs is not None:
        if not isinstance(slot, int):
            what = type(slot).__name__
            return Crash("TypeError", f"tuple indices must be integers or slices, not {what}")
        try:
            received = giver.outputs[slot]
        except IndexError:
            return Crash("IndexError", "tuple index out of range")
        if not _fits(received, one.type):
            found.reasons.append(
                reason(
                    "return_type_mismatch",
                    "Return type mismatch between linked nodes",
                    f"{one.name}, received_type({received}) mismatch input_type({one.type})",
                    input_name=one.name,
                    input_config=one.config,
                    received_type=received,
                    linked_node=link,
                )
            )
            if shape.core:
                return None
    found.links.append(Link(one, source, link))
    return None


def _fits(received: object, wanted: str | list[Any]) -> bool:
    """Whether an output may go into an input: both name types, several with commas between."""
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
    one: Input, given: Any, shape: Shape, has_file: HasFile | None, converted: dict[str, Any]
) -> Reason | None:
    """Convert a value as ComfyUI does before it looks at bounds and lists.

    A list that was wrapped stays so where the graph goes on: bare it would be a link. So does what
    becomes no finite number, which JSON does not know.
    """
    value = given
    if type(value) is dict and "__value__" in value:
        value = value["__value__"]
    kind = one.type
    if type(kind) is str and kind in CONVERTED:
        try:
            value = _CONVERSIONS[kind](value)
        except (TypeError, ValueError, OverflowError) as error:
            return reason(
                "invalid_input_type",
                f"Failed to convert an input value to a {kind} value",
                f"{one.name}, {value}, {error}",
                input_name=one.name,
                input_config=one.config,
                received_value=value,
                exception_message=str(error),
            )
    infinite = isinstance(value, float) and not math.isfinite(value)
    if value is not given and not isinstance(value, list) and not infinite:
        converted[one.name] = value
    if one.low is not None or one.high is not None:
        wrong = _bounds(one, value)
        if wrong is not None:
            return wrong
    if shape.core and (shape.name, one.name) in _LOADERS:
        return _file(one, value, _LOADERS[shape.name, one.name], has_file)
    if one.choices is None or one.uploads:
        return None
    return _choice(one, one.choices, value, has_file)


def _bounds(one: Input, value: Any) -> Reason | None:
    if not isinstance(value, int | float):
        return None
    if one.low is not None and value < one.low:
        kind, message = "value_smaller_than_min", f"Value {value} smaller than min of {one.low}"
    elif one.high is not None and value > one.high:
        kind, message = "value_bigger_than_max", f"Value {value} bigger than max of {one.high}"
    else:
        return None
    return reason(
        kind,
        message,
        one.name,
        input_name=one.name,
        input_config=one.config,
        received_value=value,
    )


def _choice(one: Input, choices: list[Any], value: Any, has_file: HasFile | None) -> Reason | None:
    if isinstance(value, list) and one.options.get("multiselect"):
        if len(value) > max(len(choices), _LONG):
            return None
        wrong = [item for item in value if item not in choices]
    else:
        wrong = [] if value in choices else [value]
    if not wrong or all(isinstance(item, str) and has_file and has_file(item) for item in wrong):
        return None
    long = len(choices) > _LONG
    listed = f"(list of length {len(choices)})" if long else str(choices)
    return reason(
        "value_not_in_list",
        "Value not in list",
        f"{one.name}: {', '.join(map(repr, wrong))} not in {listed}",
        input_name=one.name,
        input_config=None if long else one.config,
        received_value=value,
    )


def _file(one: Input, value: Any, what: str, has_file: HasFile | None) -> Reason | None:
    """A file that the member has is good, whatever the catalogue lists.

    What the catalogue lists is good as well, but for hashes: those are files of the account.
    """
    if has_file is None or not isinstance(value, str) or has_file(value):
        return None
    if one.choices is not None and value in one.choices and not is_hash_name(value):
        return None
    return reason(
        "custom_validation_failed",
        "Custom validation failed for node",
        f"{one.name} - Invalid {what} file: {value}",
        input_name=one.name,
    )
