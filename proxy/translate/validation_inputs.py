"""What a node class takes, from its entry in `object_info`, and what is wrong with a node's inputs.

Faults are told in the words of ComfyUI.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from proxy.translate.names import is_hash_name

#: Where the classes are from that come with ComfyUI. The classes of node packs may have a
#: `VALIDATE_INPUTS`, of which `object_info` tells nothing, that waives lists, bounds and types.
_CORE = ("comfy_extras.", "comfy_api_nodes.")

#: Types whose values are converted before they are looked at.
CONVERTED = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN"})

_AUTOGROW, _DYNAMIC_COMBO = "COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3"

#: Matches every type; the web frontend looks after it.
MATCH_TYPE = "COMFY_MATCHTYPE_V3"

#: Flags of inputs that fetch their options by themselves.
_REMOTE = ("remote", "remote_combo")


@dataclass(frozen=True, slots=True)
class Input:
    """A declared input. `type` is a name, or the list of a combo of the old form.

    `low`, `high` and `choices` are `None` where there is nothing to hold a value against.
    """

    name: str
    type: str | list[Any]
    options: Mapping[str, Any]
    required: bool
    low: int | float | None
    high: int | float | None
    choices: list[Any] | None

    @property
    def config(self) -> list[Any]:
        """The spec as ComfyUI repeats it in errors."""
        return [self.type, self.options]

    @property
    def uploads(self) -> bool:
        """Whether the values are names of files, which clients upload."""
        return any(flag.endswith("_upload") and self.options[flag] for flag in self.options)


@dataclass(frozen=True, slots=True)
class Dynamic:
    """An input of the new form that stands for others, whose names depend on what is given."""

    name: str
    kind: str
    options: Mapping[str, Any]
    required: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """A node class.

    `outputs` are the types of its slots; `None` is not known. `output_node` is `None` where
    nothing is said. With `core` the class has no checks of its own beside those of files.
    """

    name: str
    core: bool
    output_node: bool | None
    outputs: list[Any] | None
    inputs: tuple[Input, ...]
    dynamic: tuple[Dynamic, ...]

    def inputs_of(self, given: Mapping[str, Any]) -> Iterator[Input]:
        """The inputs that a node with these values has."""
        yield from self.inputs
        for one in self.dynamic:
            yield from _expand(one, given, depth=0)


def shape(name: str, info: object) -> Shape:
    """Read a class's entry; what has an unknown form is left out."""
    if not isinstance(info, Mapping):
        return Shape(name, False, None, None, (), ())
    module, output_node, outputs = (
        info.get(key) for key in ("python_module", "output_node", "output")
    )
    found = list(_read(info.get("input"), ""))
    return Shape(
        name,
        core=isinstance(module, str) and (module == "nodes" or module.startswith(_CORE)),
        output_node=output_node if isinstance(output_node, bool) else None,
        outputs=outputs if isinstance(outputs, list) else None,
        inputs=tuple(one for one in found if isinstance(one, Input)),
        dynamic=tuple(one for one in found if isinstance(one, Dynamic)),
    )


def _read(declared: object, prefix: str) -> Iterator[Input | Dynamic]:
    """The inputs of `{"required": {name: spec}, "optional": …}`."""
    if not isinstance(declared, Mapping):
        return
    seen: set[str] = set()
    for section in ("required", "optional"):
        specs = declared.get(section)
        for name, spec in specs.items() if isinstance(specs, Mapping) else ():
            if name in seen:
                continue
            seen.add(name)
            one = _input(f"{prefix}{name}", spec, section == "required")
            if one is not None:
                yield one


def _input(name: str, spec: object, required: bool) -> Input | Dynamic | None:
    if not isinstance(spec, list | tuple) or not spec or not isinstance(spec[0], str | list):
        return None
    type_ = spec[0]
    options = spec[1] if len(spec) > 1 else {}
    if not isinstance(options, Mapping):
        return None
    if isinstance(type_, str) and type_.startswith("COMFY_") and type_ != MATCH_TYPE:
        return Dynamic(name, type_, options, required)
    return Input(
        name,
        type_,
        options,
        required,
        low=_number(options.get("min")),
        high=_number(options.get("max")),
        choices=_choices(type_, options),
    )


def _number(value: object) -> int | float | None:
    return value if isinstance(value, int | float) else None


def _choices(type_: str | list[Any], options: Mapping[str, Any]) -> list[Any] | None:
    """What a combo offers. An empty list is filled by somebody whom the catalog does not know."""
    offered: object = None
    if isinstance(type_, list):
        offered = type_
    elif type_ == "COMBO" and not any(options.get(flag) for flag in _REMOTE):
        offered = options.get("options")
    return offered if isinstance(offered, list) and offered else None


def _expand(one: Dynamic, given: Mapping[str, Any], *, depth: int) -> Iterator[Input]:
    """The inputs `name.…` that a dynamic input stands for; none where its form is not known."""
    if one.kind == _AUTOGROW and one.name not in given:
        yield from _grown(one)
    elif one.kind == _DYNAMIC_COMBO and depth < 8:
        options = one.options.get("options")
        for option in options if isinstance(options, list) else ():
            if isinstance(option, Mapping) and option.get("key") == given.get(one.name):
                for inner in _read(option.get("inputs"), f"{one.name}."):
                    if isinstance(inner, Input):
                        yield inner
                    else:
                        yield from _expand(inner, given, depth=depth + 1)
                return


def _grown(one: Dynamic) -> Iterator[Input]:
    """`images.image0`, `images.image1`…: `min` of them have to be there."""
    template = one.options.get("template")
    if not isinstance(template, Mapping):
        return
    least, most, names = template.get("min", 0), template.get("max"), template.get("names")
    if not isinstance(names, list):
        prefix = template.get("prefix")
        if not isinstance(prefix, str) or not isinstance(most, int):
            return
        names = [f"{prefix}{number}" for number in range(min(most, 100))]
    inner = next(iter(_read(template.get("input"), "")), None)
    if not isinstance(inner, Input) or not isinstance(least, int):
        return
    for number, name in enumerate(names):
        needed = one.required and inner.required and number < least
        grown = _input(f"{one.name}.{name}", inner.config, needed)
        if isinstance(grown, Input):
            yield grown


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


def _wrong(one: Input, kind: str, message: str, details: str, **extra_info: Any) -> Reason:
    """An error of an input."""
    about = {"input_name": one.name, "input_config": one.config}
    return reason(kind, message, details, **{**about, **extra_info})


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
        message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        wrong = _wrong(one, "bad_linked_input", message, one.name, received_value=link)
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
                _wrong(
                    one,
                    "return_type_mismatch",
                    "Return type mismatch between linked nodes",
                    f"{one.name}, received_type({received}) mismatch input_type({one.type})",
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

    A list that was wrapped stays so where the graph continues: bare it would be a link. So does
    what becomes no finite number, which JSON does not know.
    """
    value = given
    if type(value) is dict and "__value__" in value:
        value = value["__value__"]
    kind = one.type
    if type(kind) is str and kind in CONVERTED:
        try:
            value = _CONVERSIONS[kind](value)
        except (TypeError, ValueError, OverflowError) as error:
            return _wrong(
                one,
                "invalid_input_type",
                f"Failed to convert an input value to a {kind} value",
                f"{one.name}, {value}, {error}",
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
    return _wrong(one, kind, message, one.name, received_value=value)


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
    return _wrong(
        one,
        "value_not_in_list",
        "Value not in list",
        f"{one.name}: {', '.join(map(repr, wrong))} not in {listed}",
        input_config=None if long else one.config,
        received_value=value,
    )


def _file(one: Input, value: Any, what: str, has_file: HasFile | None) -> Reason | None:
    """A file that the member has is good, whatever the catalog lists.

    What the catalog lists is good as well, but for hashes: those are files of the account.
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
