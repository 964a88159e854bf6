"""Inputs in `object_info` form, and nodes from plain functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxy.simulator.nodes.node_class import Context, InputSpec, NodeClass, Output, Run

#: The largest seed that ComfyUI's nodes take.
MAX_SEED = 2**64 - 1
#: ComfyUI's MAX_RESOLUTION.
MAX_SIDE = 16384

#: The `info` of a class in the new style ("V3"), which always says these.
NEW_STYLE: dict[str, Any] = {
    "output_tooltips": [],
    "deprecated": False,
    "experimental": False,
    "dev_only": False,
    "api_node": False,
}


def link(kind: str, tooltip: str | None = None) -> InputSpec:
    """Return an input that wants a link to an output of type `kind`."""
    return [kind, {"tooltip": tooltip}] if tooltip else [kind]


def integer(default: int, low: int, high: int, **options: Any) -> InputSpec:
    """Return an input of a whole number from `low` to `high`."""
    return ["INT", {"default": default, "min": low, "max": high, **options}]


def number(default: float, low: float, high: float, step: float, **options: Any) -> InputSpec:
    """Return an input of a number from `low` to `high`."""
    return ["FLOAT", {"default": default, "min": low, "max": high, "step": step, **options}]


def string(default: str | None = None, **options: Any) -> InputSpec:
    """Return an input of a text."""
    return ["STRING", options if default is None else {"default": default, **options}]


def boolean(default: bool, **options: Any) -> InputSpec:
    """Return an input of a yes or no."""
    return ["BOOLEAN", {"default": default, **options}]


def combo(values: Sequence[Any], **options: Any) -> InputSpec:
    """Return an input of one of a list, in the old form: `[[values], {options}]`."""
    return [list(values), options]


def new_combo(values: Sequence[Any], **options: Any) -> InputSpec:
    """Return an input of one of a list, in the new form: `["COMBO", {"options": [values]}]`."""
    return ["COMBO", {**options, "multiselect": False, "options": list(values)}]


def seed() -> InputSpec:
    """Return the input of a seed that the web client draws again after each run."""
    return integer(0, 0, MAX_SEED, control_after_generate=True)


def side(default: int = 512, low: int = 16, step: int = 8) -> InputSpec:
    """Return the input of a width or a height in pixels."""
    return integer(default, low, MAX_SIDE, step=step)


def maker(**common: Any) -> Callable[..., NodeClass]:
    """Return a function that makes node classes with these fields, each from its name, a plain
    function, its required inputs, and its own fields."""

    def make(
        name: str,
        function: Callable[..., Output | tuple[Any, ...]],
        required: Mapping[str, InputSpec],
        **fields: Any,
    ) -> NodeClass:
        return NodeClass(name, pure(function), required=required, **{**common, **fields})

    return make


def pure(function: Callable[..., Output | tuple[Any, ...]]) -> Run:
    """Return the run of a node that only computes: `function` gets the inputs by name, on a thread
    of its own."""

    async def run(inputs: dict[str, Any], _context: Context) -> Output | tuple[Any, ...]:
        return await asyncio.to_thread(function, **inputs)

    return run
