"""Nodes for plain values."""

from __future__ import annotations

import json
import re
from typing import Any

from proxy.simulator.nodes.node_class import InputSpec, NodeClass, Output
from proxy.simulator.nodes.specs import NEW_STYLE, boolean, integer, pure, string


def _value(value: Any) -> tuple[Any]:
    return (value,)


def _concatenate(string_a: str, string_b: str, delimiter: str) -> tuple[str]:
    return (f"{string_a}{delimiter}{string_b}",)


def _replace(
    string: str,
    regex_pattern: str,
    replace: str,
    case_insensitive: bool = True,
    multiline: bool = False,
    dotall: bool = False,
    count: int = 0,
) -> tuple[str]:
    flags = re.IGNORECASE * case_insensitive | re.MULTILINE * multiline | re.DOTALL * dotall
    return (re.sub(regex_pattern, replace, string, count=count, flags=flags),)


def _preview(source: Any = None) -> Output:
    if isinstance(source, str):
        text = source
    elif source is None or isinstance(source, bool | int | float):
        text = str(source)
    else:
        try:
            text = json.dumps(source)
        except (TypeError, ValueError):
            text = str(source)
    return Output(ui={"text": [text]})


def _primitive(kind: str, title: str, spec: InputSpec, suffix: str = "") -> NodeClass:
    return NodeClass(
        f"Primitive{kind}{suffix}",
        pure(_value),
        required={"value": spec},
        outputs=(spec[0],),
        display_name=title,
        category="utils/primitive",
        python_module="comfy_extras.nodes_primitive",
        info=NEW_STYLE,
    )


_LIMIT = 2**63 - 1

NODES = [
    _primitive("String", "String", string()),
    _primitive("String", "String (Multiline)", string(multiline=True), "Multiline"),
    _primitive(
        "Int", "Int", ["INT", {"min": -_LIMIT, "max": _LIMIT, "control_after_generate": True}]
    ),
    _primitive(
        "Float", "Float", ["FLOAT", {"min": -float(_LIMIT), "max": float(_LIMIT), "step": 0.1}]
    ),
    _primitive("Boolean", "Boolean", ["BOOLEAN", {}]),
    NodeClass(
        "StringConcatenate",
        pure(_concatenate),
        required={
            "string_a": string(multiline=True),
            "string_b": string(multiline=True),
            "delimiter": string("", multiline=False),
        },
        outputs=("STRING",),
        display_name="Concatenate",
        category="utils/string",
        python_module="comfy_extras.nodes_string",
        info=NEW_STYLE,
    ),
    NodeClass(
        "RegexReplace",
        pure(_replace),
        required={
            "string": string(multiline=True),
            "regex_pattern": string(multiline=True),
            "replace": string(multiline=True),
        },
        optional={
            "case_insensitive": boolean(True),
            "multiline": boolean(False),
            "dotall": boolean(False),
            "count": integer(0, 0, 100),
        },
        outputs=("STRING",),
        display_name="Regex Replace",
        category="utils/string",
        python_module="comfy_extras.nodes_string",
        info=NEW_STYLE,
    ),
    NodeClass(
        "PreviewAny",
        pure(_preview),
        required={"source": ["*", {}]},
        output_node=True,
        display_name="Preview as Text",
        category="utils",
        python_module="comfy_extras.nodes_preview_any",
        info={"search_aliases": ["show text", "show output", "print", "inspect data"]},
    ),
]
