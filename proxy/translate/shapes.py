"""What a node class takes and gives, by its entry in `object_info`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from proxy.translate.reading import field_of, list_of, object_of

#: Where the classes are from that come with ComfyUI.
_CORE = ("comfy_extras.", "comfy_api_nodes.")

_AUTOGROW, _DYNAMIC_COMBO = "COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3"

#: Matches every type; the web frontend looks after it.
MATCH_TYPE = "COMFY_MATCHTYPE_V3"

#: Types of inputs whose strings are never a file's name; `STRING` is free text, such as a prompt,
#: and what takes anything takes a string as the text that it is.
_PLAIN_TYPES = frozenset({"STRING", "INT", "FLOAT", "BOOLEAN", "*"})

#: Flags of inputs that fetch their options by themselves.
_REMOTE = ("remote", "remote_combo")


class Input(Struct, frozen=True):
    """A declared input. `type` is a name, or the list of a combo of the old form.

    `low` and `high` are infinite and `choices` is `None` where there is nothing to hold a value
    against. With `uploads` the values are names of files, which clients upload. One that
    `is_dynamic` stands for other inputs, whose names depend on what is given.
    """

    name: str
    type: str | list[Any]
    options: Mapping[str, Any]
    required: bool
    low: float
    high: float
    choices: list[Any] | None
    uploads: bool
    is_dynamic: bool


class Shape(Struct, frozen=True):
    """A node class.

    `outputs` are the types of its slots; `None` is not known. `output_node` is `None` where
    nothing is said. With `core` the class has no checks of its own beside those of files.
    `offered` are the strings that inputs have as their choices, `None` of free text and numbers.
    """

    name: str
    core: bool
    output_node: bool | None
    outputs: tuple[Any, ...] | None
    inputs: tuple[Input, ...]
    dynamic: tuple[Input, ...]
    offered: Mapping[str, frozenset[str] | None] = {}

    def may_name_file(self, name: str, text: str) -> bool:
        """Return whether a string in an input's value may be a file's name.

        Free text is none, and neither is what the class itself offers (a sampler called `euler` is
        not the file `euler`). What the catalog does not know may all name files.
        """
        offered = self.offered.get(name, _NOTHING)
        return offered is not None and text not in offered

    def expanded(self, given: Mapping[str, Any]) -> Iterator[Input]:
        """Yield the inputs, with the dynamic ones expanded."""
        yield from self.inputs
        for dynamic in self.dynamic:
            yield from _expand(dynamic, given, depth=0)


_NOTHING: frozenset[str] = frozenset()

#: What the catalog says of a class, `None` for one that there is not.
Shapes: TypeAlias = Callable[[str], Shape | None]


def shape_of(name: str, info: Mapping[str, Any]) -> Shape:
    """Read a class's entry in `object_info`; what has an unknown form is left out."""
    module, output_node, outputs = map(info.get, ("python_module", "output_node", "output"))
    inputs = tuple(_declared(info.get("input"), ""))
    return Shape(
        name,
        core=isinstance(module, str) and (module == "nodes" or module.startswith(_CORE)),
        output_node=output_node if isinstance(output_node, bool) else None,
        outputs=tuple(outputs) if isinstance(outputs, list) else None,
        inputs=tuple(declared for declared in inputs if not declared.is_dynamic),
        dynamic=tuple(declared for declared in inputs if declared.is_dynamic),
        offered={name: _offered(spec) for name, spec in specs_of(info).items()},
    )


def section(declared: object, name: str) -> Mapping[str, Any]:
    """Return the `required` or the `optional` inputs that a class declares."""
    specs = declared.get(name) if isinstance(declared, dict) else None
    return object_of(specs)


def specs_of(info: object) -> dict[str, Any]:
    """Return the specs of the inputs that a class declares by name, the required ones first."""
    declared = field_of(info, "input")
    required = section(declared, "required")
    return {**required, **section(declared, "optional"), **required}


def options_of(spec: object) -> dict[str, Any]:
    """Return the options of a spec, which is `[type, options]`."""
    return object_of(spec[1]) if isinstance(spec, list | tuple) and len(spec) > 1 else {}


def choices_of(info: object) -> Iterator[tuple[str, list[Any]]]:
    """Yield the name and the list of each input of a class that offers choices."""
    for name, spec in specs_of(info).items():
        if isinstance(spec, list) and spec:
            offered = options_of(spec).get("options") if spec[0] == "COMBO" else spec[0]
            if isinstance(offered, list):
                yield name, offered


def lists_uploads(options: Mapping[str, Any]) -> bool:
    """Return whether the flags of an input say that it lists files, which clients upload."""
    return any(name.endswith("_upload") and flag for name, flag in options.items())


def _offered(spec: object) -> frozenset[str] | None:
    """Return the strings that an input offers and that are no names of files, `None` for plain
    values.

    A spec is `[type, options]`; a combo is `[[values], options]` in old-style nodes and
    `["COMBO", {"options": [values]}]` in new-style ones. File inputs carry a flag such as
    `image_upload`.
    """
    if not isinstance(spec, list | tuple) or not spec:
        return _NOTHING
    type_ = spec[0]
    options = options_of(spec)
    if lists_uploads(options):
        return _NOTHING
    offered = type_ if isinstance(type_, list) else options.get("options")
    if isinstance(offered, list):
        return frozenset(choice for choice in offered if isinstance(choice, str))
    return None if isinstance(type_, str) and type_ in _PLAIN_TYPES else _NOTHING


def _declared(declared: object, prefix: str) -> Iterator[Input]:
    """Yield the inputs of `{"required": {name: spec}, "optional": …}`."""
    required, optional = section(declared, "required"), section(declared, "optional")
    for name, spec in {**required, **optional, **required}.items():
        declared = _input(f"{prefix}{name}", spec, name in required)
        if declared is not None:
            yield declared


def _input(name: str, spec: object, required: bool) -> Input | None:
    if not isinstance(spec, list | tuple) or not spec or not isinstance(spec[0], str | list):
        return None
    type_, options = spec[0], spec[1] if len(spec) > 1 else {}
    if not isinstance(options, Mapping):
        return None
    low, high = options.get("min"), options.get("max")
    low = low if isinstance(low, int | float) else -math.inf
    high = high if isinstance(high, int | float) else math.inf
    named = isinstance(type_, str) and type_.startswith("COMFY_") and type_ != MATCH_TYPE
    choices, uploads = _choices(type_, options), lists_uploads(options)
    return Input(name, type_, options, required, low, high, choices, uploads, is_dynamic=named)


def _choices(type_: str | list[Any], options: Mapping[str, Any]) -> list[Any] | None:
    """Return the choices of a combo; `None` for an empty list, which something outside the catalog
    fills."""
    offered: object = type_
    if type_ == "COMBO" and not any(options.get(flag) for flag in _REMOTE):
        offered = options.get("options")
    return offered if isinstance(offered, list) and offered else None


def _expand(declared: Input, given: Mapping[str, Any], *, depth: int) -> Iterator[Input]:
    """Yield the inputs `name.…` that a dynamic input stands for; none where its form is unknown."""
    if not declared.is_dynamic:
        yield declared
    elif declared.type == _AUTOGROW and declared.name not in given:
        yield from _grown(declared)
    elif declared.type == _DYNAMIC_COMBO and depth < 8:
        options = declared.options.get("options")
        for option in list_of(options):
            if isinstance(option, Mapping) and option.get("key") == given.get(declared.name):
                for inner in _declared(option.get("inputs"), f"{declared.name}."):
                    yield from _expand(inner, given, depth=depth + 1)
                return


def _grown(declared: Input) -> Iterator[Input]:
    """Yield `images.image0`, `images.image1`…, of which the first `min` are required."""
    template = declared.options.get("template")
    if not isinstance(template, Mapping):
        return
    lowest, highest, names = template.get("min", 0), template.get("max"), template.get("names")
    if not isinstance(names, list):
        prefix = template.get("prefix")
        if not isinstance(prefix, str) or not isinstance(highest, int):
            return
        names = [f"{prefix}{number}" for number in range(min(highest, 100))]
    inner = next(_declared(template.get("input"), ""), None)
    if inner is None or inner.is_dynamic or not isinstance(lowest, int):
        return
    for number, name in enumerate(names):
        needed = declared.required and inner.required and number < lowest
        yield replace(inner, name=f"{declared.name}.{name}", required=needed)
