"""What people look at of what a client sent: the texts of its graph, and its workflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from proxy.translate.jobs import inputs_of, is_link
from proxy.translate.reading import field_of
from proxy.translate.shapes import options_of, specs_of

#: Texts of a graph that are returned, and characters of each.
MAX_TEXTS, MAX_CHARACTERS = 20, 4000

#: Parts of the names of inputs that are prompts, where the catalog does not know the class.
_NAMES = ("text", "prompt")

#: Inputs that say what the text of the node before them is for.
_ROLES = frozenset({"positive", "negative"})


class PromptText(Struct, frozen=True):
    """A text of a node, in its `input`. `role` is `positive` or `negative` where another node takes
    it as such, else empty."""

    node: str
    class_type: str
    input: str
    role: str
    text: str


def prompt_texts(
    graph: Mapping[str, Any], known: Callable[[str], Mapping[str, Any] | None]
) -> list[PromptText]:
    """Return the texts of a graph: the values of inputs with several lines, in the graph's order.

    `known` gives a class's entry in `object_info`, whose `multiline` says which inputs these are.
    Of a class that it does not know they are those whose name speaks of a text or a prompt.
    """
    roles = {
        value[0]: name
        for node in graph.values()
        for name, value in inputs_of(node).items()
        if name in _ROLES and is_link(value)
    }
    found: list[PromptText] = []
    for node_id, node in graph.items():
        class_type = str(node.get("class_type", "")) if isinstance(node, Mapping) else ""
        is_text = _test(known(class_type))
        for name, value in inputs_of(node).items():
            if len(found) == MAX_TEXTS:
                return found
            if isinstance(value, str) and value.strip() and is_text(name):
                role, text = roles.get(node_id, ""), value.strip()[:MAX_CHARACTERS]
                found.append(PromptText(node_id, class_type, name, role, text))
    return found


def interface_workflow(extra_data: object) -> dict[str, Any] | None:
    """Return the workflow in the form of the web interface, which saves it beside the graph."""
    value = field_of(extra_data, "extra_pnginfo", "workflow")
    return value if isinstance(value, dict) and isinstance(value.get("nodes"), list) else None


def _test(info: Mapping[str, Any] | None) -> Callable[[str], bool]:
    """Return what says of an input's name whether it holds a text of several lines."""
    if info is None:
        return lambda name: any(part in name.lower() for part in _NAMES)
    specs = specs_of(info)
    return lambda name: _is_multiline(specs.get(name))


def _is_multiline(spec: object) -> bool:
    is_text = isinstance(spec, list) and spec[:1] == ["STRING"]
    return is_text and bool(options_of(spec).get("multiline"))
