"""What a node class takes and gives, read from its entry in `object_info`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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
    """What a combo offers. An empty list is filled by somebody whom the catalogue does not know."""
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
