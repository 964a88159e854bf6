"""The file of ComfyUI's editor as the graph that a server runs.

The editor keeps values by position, links by number, and nodes that a server never sees: reroutes,
primitives, notes, subgraphs. A server takes `{node id: {"class_type", "inputs"}}` with values and
links by name. What `object_info` says of a class names its values. The format of the file is
`zLiteGraph` schemas 0.4 and 1, with links as lists or as objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from proxy.translate.errors import LocalError
from proxy.translate.reading import list_of, object_of, objects_of, text_of
from proxy.translate.shapes import options_of

Node = dict[str, Any]

#: A node's `mode`: it does not run, or it hands its inputs on.
_MUTED, _BYPASSED = 2, 4
#: The nodes of a subgraph that stand for its inputs and for its outputs.
_INPUTS, _OUTPUTS = -10, -20
#: Node classes that only the editor knows.
_REROUTES = frozenset({"Reroute", "SetNode"})
_EDITORS_OWN = _REROUTES | {"PrimitiveNode", "GetNode", "Note", "MarkdownNote"}
#: Types whose inputs are values unless they say otherwise.
_VALUES = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"})
#: What the editor keeps after a value that it may change after each run.
_CONTROLS = frozenset({"fixed", "increment", "decrement", "randomize"})
_UPLOADS = ("image_upload", "video_upload", "audio_upload", "animated_image_upload")


class EditorError(Exception):
    """Raised when the file cannot be converted; the text says why and what to do."""


class _Value(NamedTuple):
    value: Any


class _Link(NamedTuple):
    node: str
    slot: int


def is_editors(workflow: object) -> bool:
    """Return whether this is a file of the editor."""
    return isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list)


def classes_of(workflow: Mapping[str, Any]) -> set[str]:
    """Return the node classes of the file that a server may know."""
    subgraphs = _subgraphs(workflow)
    levels = [workflow, *subgraphs.values()]
    types = {_kind(node) for level in levels for node in objects_of(level.get("nodes"))}
    return types - subgraphs.keys() - _EDITORS_OWN


def named(
    workflow: Mapping[str, Any], classes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Return the `classes` that the file has."""
    return {name: classes[name] for name in classes_of(workflow) if name in classes}


def prompt_of(
    workflow: Mapping[str, Any],
    classes: Mapping[str, Mapping[str, Any]],
    choose: Callable[[Sequence[str]], str],
) -> dict[str, Node]:
    """Return `graph_of` for a client. Raises `LocalError` (400)."""
    try:
        return graph_of(workflow, classes, choose)
    except EditorError as error:
        message = f"The workflow cannot be converted: {error}."
        raise LocalError("invalid_workflow", message) from None


def graph_of(
    workflow: Mapping[str, Any],
    classes: Mapping[str, Mapping[str, Any]],
    choose: Callable[[Sequence[str]], str],
) -> dict[str, Node]:
    """Return the graph of an editor's file. `classes` are entries of `object_info` by class.

    `choose` picks one of the alternatives that a prompt has in braces (`{day|night}`), as the
    editor does at each run. Raises `EditorError`.
    """
    if object_of(workflow.get("extra")).get("groupNodes"):
        raise EditorError(
            "it has group nodes: convert them to subgraphs in ComfyUI and save it again"
        )
    conversion = _Conversion(_subgraphs(workflow), classes, choose)
    try:
        return dict(conversion.nodes(_Level(workflow)))
    except RecursionError:
        raise EditorError(
            "its reroutes or subgraphs form a cycle: save it again in ComfyUI"
        ) from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise EditorError(f"it is damaged ({error!r}): save it again in ComfyUI") from None


class _Level:
    """The workflow itself, or a subgraph at the place of one of its nodes."""

    def __init__(
        self, graph: Mapping[str, Any], *, outer: _Level | None = None, place: Node | None = None
    ) -> None:
        self.graph = graph
        self.outer = outer
        self.place = place or {}
        self.prefix: str = f"{outer.prefix}{self.place['id']}:" if outer is not None else ""
        self.nodes = {node["id"]: node for node in objects_of(graph.get("nodes"))}
        #: `(origin node, origin slot, target node, target slot)` by id.
        self.links: dict[Any, tuple[Any, int, Any, int]] = {}
        for link in graph.get("links") or ():
            if isinstance(link, dict):
                names = ("origin_id", "origin_slot", "target_id", "target_slot")
                self.links[link["id"]] = tuple(link[name] for name in names)
            elif isinstance(link, list):
                self.links[link[0]] = tuple(link[1:5])

    def setter(self, name: object) -> Node | None:
        """Return the node that gives a link this name."""
        named = (node for node in self.nodes.values() if node.get("type") == "SetNode")
        return next((node for node in named if _widget_values(node)[:1] == [name]), None)


class _Conversion(Struct, frozen=True):
    subgraphs: Mapping[str, Mapping[str, Any]]
    classes: Mapping[str, Mapping[str, Any]]
    choose: Callable[[Sequence[str]], str]

    def nodes(self, level: _Level) -> Iterator[tuple[str, Node]]:
        """Yield the nodes that run, of a level and of the subgraphs in it."""
        for node in sorted(level.nodes.values(), key=lambda node: node.get("order") or 0):
            kind = _kind(node)
            if node.get("mode") in (_MUTED, _BYPASSED) or kind in _EDITORS_OWN:
                continue
            if kind in self.subgraphs:
                yield from self.nodes(self._inside(level, node))
            elif kind in self.classes or _is_connected(node):
                yield f"{level.prefix}{node['id']}", self._node(level, node)

    def _inside(self, level: _Level, node: Node) -> _Level:
        return _Level(self.subgraphs[node["type"]], outer=level, place=node)

    def _node(self, level: _Level, node: Node) -> Node:
        kind = _kind(node)
        about = self.classes.get(kind, {})
        inputs: dict[str, Any] = {}
        for name, value, options in _values(node, about):
            if options.get("dynamicPrompts") and isinstance(value, str):
                value = _prompt(value, self.choose)
            inputs[name] = {"__value__": value} if isinstance(value, list) else value
        for entry in objects_of(node.get("inputs")):
            if entry.get("link") is not None:
                source = self._source(level, entry["link"])
                if isinstance(source, _Link):
                    inputs[entry["name"]] = [source.node, source.slot]
                elif source is not None:
                    inputs[entry["name"]] = source.value
        title = node.get("title") or about.get("display_name") or kind
        return {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}

    def _source(self, level: _Level, link_id: object) -> _Link | _Value | None:
        """Return what arrives over a link: an output of a node that runs, a value, or nothing."""
        if link_id is None or link_id not in level.links:
            return None
        origin, slot, _, _ = level.links[link_id]
        if origin == _INPUTS:
            return self._from_outside(level, slot)
        node = level.nodes.get(origin)
        return None if node is None else self._output(level, node, slot)

    def _output(self, level: _Level, node: Node, slot: int) -> _Link | _Value | None:
        kind, mode = node.get("type"), node.get("mode")
        if mode == _MUTED:
            return None
        if mode == _BYPASSED:
            return self._source(level, _link_past(node, slot))
        if kind in _REROUTES:
            return self._source(level, objects_of(node.get("inputs"))[0].get("link"))
        if kind == "GetNode":
            setter = level.setter(_widget_values(node)[0])
            return None if setter is None else self._output(level, setter, 0)
        if kind == "PrimitiveNode":
            return _Value(_widget_values(node)[0])
        if kind in self.subgraphs:
            inside = self._inside(level, node)
            ends = (
                link_id
                for link_id, (_, _, target, place) in inside.links.items()
                if (target, place) == (_OUTPUTS, slot)
            )
            return self._source(inside, next(ends, None))
        return _Link(f"{level.prefix}{node['id']}", slot)

    def _from_outside(self, level: _Level, slot: int) -> _Link | _Value | None:
        """Return what an input of a subgraph receives: over its link, or as a value of the node
        itself."""
        name = level.graph["inputs"][slot]["name"]
        entry = next(
            (entry for entry in objects_of(level.place["inputs"]) if entry["name"] == name), {}
        )
        if entry.get("link") is not None and level.outer is not None:
            return self._source(level.outer, entry["link"])
        shown = [
            entry["name"]
            for place, entry in enumerate(objects_of(level.graph["inputs"]))
            if self._is_value(level.graph, place)
        ]
        values = _widget_values(level.place)
        if len(values) == len(shown) and name in shown:
            return _Value(values[shown.index(name)])
        return None

    def _is_value(self, subgraph: Mapping[str, Any], slot: int) -> bool:
        """Return whether an input of a subgraph ends at a value of a node."""
        level = _Level(subgraph)
        for link_id, (origin, place, target, _) in level.links.items():
            if (origin, place) != (_INPUTS, slot) or target not in level.nodes:
                continue
            node = level.nodes[target]
            for index, entry in enumerate(objects_of(node.get("inputs"))):
                if entry.get("link") != link_id:
                    continue
                if "widget" in entry:
                    return True
                inner = self.subgraphs.get(_kind(node))
                if inner is not None:
                    names = [entry["name"] for entry in objects_of(inner["inputs"])]
                    place = names.index(entry["name"]) if entry["name"] in names else index
                    return self._is_value(inner, place)
        return False


def _link_past(node: Node, slot: int) -> Any:
    """Return the link at the input that replaces an output while the node is bypassed."""
    wanted = objects_of(node.get("outputs"))[slot].get("type")
    inputs = objects_of(node.get("inputs"))
    same_place = inputs[slot : slot + 1]
    for entry in [*same_place, *inputs]:
        if entry.get("type") in (wanted, "*") or wanted == "*":
            return entry.get("link")
    return None


def _values(node: Node, about: Mapping[str, Any]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield the values of a node: the name of each input, the value and what the class says of
    it."""
    stored = node.get("widgets_values")
    inputs = about.get("input") or {}
    groups = [inputs.get("required") or {}, inputs.get("optional") or {}]
    if isinstance(stored, dict):
        known = {**groups[0], **groups[1]}
        for name, value in stored.items():
            if not known or name in known:
                yield name, value, options_of(known.get(name))
        return
    left = list(stored or ())
    if not about:
        names = [
            entry["widget"]["name"]
            for entry in objects_of(node.get("inputs"))
            if entry.get("widget")
        ]
        yield from ((name, value, {}) for name, value in zip(names, left, strict=False))
        return
    entries = {entry.get("name"): "widget" in entry for entry in objects_of(node.get("inputs"))}
    for group in groups:
        yield from _named_values(group, "", left, entries)
        if any(options_of(spec).get(flag) for spec in group.values() for flag in _UPLOADS):
            del left[:1]  # the button of the upload


def _named_values(
    group: Mapping[str, Any], prefix: str, left: list[Any], entries: Mapping[Any, bool]
) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Take the values of a group of inputs from the front of `left`."""
    for short, spec in group.items():
        name = prefix + short
        kind, options = spec[0], options_of(spec)
        kind = "COMBO" if isinstance(kind, list) else kind
        is_value = entries.get(name, kind in _VALUES and not options.get("forceInput"))
        if not is_value or not left:
            continue
        value = left.pop(0)
        yield name, value, options
        if kind == "COMFY_DYNAMICCOMBO_V3":
            for below in _groups_of_choice(options, value):
                yield from _named_values(below, f"{name}.", left, entries)
        seed = kind == "INT" and short in ("seed", "noise_seed")
        controlled = options.get("control_after_generate", seed)
        if controlled and left and isinstance(left[0], str) and left[0] in _CONTROLS:
            del left[0]


def _groups_of_choice(options: Mapping[str, Any], value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the groups of inputs that a dynamic combo has for its value."""
    for option in objects_of(options.get("options")):
        if option.get("key") == value:
            yield from (option.get("inputs") or {}).values()


_COMMENT_START = re.compile(r"/(?=[*/])")
#: An escaped character, a sign of a choice, or other text.
_PARTS = re.compile(r"\\.|[{|}]|[^\\{|}]+|\\", re.DOTALL)


def _prompt(text: str, choose: Callable[[Sequence[str]], str]) -> str:
    """Return a prompt without its comments, with one of each `{alternatives|in|braces}`."""
    # The alternatives of each open brace, as lists of parts; the first is the text around them.
    open_: list[list[list[str]]] = [[[]]]
    for part in _PARTS.findall(_without_comments(text)):
        if part == "{":
            open_.append([[]])
        elif part == "}" and len(open_) > 1:
            alternatives = ["".join(parts) for parts in open_.pop()]
            open_[-1][-1].append(choose(alternatives))
        elif part == "|" and len(open_) > 1:
            open_[-1].append([])
        else:
            open_[-1][-1].append(part)
    unclosed = ("|".join(map("".join, alternatives)) for alternatives in open_)
    return re.sub(r"\\([{}|])", r"\1", "{".join(unclosed))


def _without_comments(text: str) -> str:
    """Return a prompt without `/* … */` and `// …`; a comment without an end is text."""
    kept, position, last_end = [], 0, text.rfind("*/")
    for found in _COMMENT_START.finditer(text):
        start, inside = found.start(), found.end() + 1
        if start < position:
            continue
        if text[start + 1] == "/":
            end = text.find("\n", inside)
            end = len(text) if end < 0 else end
        elif inside <= last_end:
            end = text.index("*/", inside) + 2
        else:
            continue
        kept.append(text[position:start])
        position = end
    return "".join(kept) + text[position:]


def _subgraphs(workflow: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found = objects_of(object_of(workflow.get("definitions")).get("subgraphs"))
    return {item["id"]: item for item in found if isinstance(item.get("id"), str)}


def _kind(node: Node) -> str:
    """Return the class of a node, or the id of its subgraph."""
    return text_of(node.get("type"))


def _is_connected(node: Node) -> bool:
    """Return whether a node has any link: labels and switches of node packs have none."""
    ends = [slot.get("link") for slot in objects_of(node.get("inputs"))]
    ends += [link for slot in objects_of(node.get("outputs")) for link in slot.get("links") or ()]
    return any(end is not None for end in ends)


def _widget_values(node: Node) -> list[Any]:
    return list_of(node.get("widgets_values"))
