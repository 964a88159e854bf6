"""Random graphs that are right by a catalog, and ways to spoil them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from proxy.translate.shapes import Shape, Shapes, shape_of

#: The file that loaders may name.
FILE = "mine.png"

_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")

Node = dict[str, Any]
Graph = dict[str, Node]


def config(spec: Any) -> dict[str, Any]:
    """The options of an input."""
    return spec[1] if len(spec) > 1 else {}


def shapes(classes: Mapping[str, Any]) -> Shapes:
    """What a graph is checked against, by entries of `object_info`."""

    def shape(name: str) -> Shape | None:
        info = classes.get(name)
        return shape_of(name, info) if isinstance(info, dict) else None

    return shape


def is_widget(spec: Any) -> bool:
    """Whether an input takes values and not only links."""
    return isinstance(spec[0], list) or spec[0] in _WIDGETS


def is_file(spec: Any) -> bool:
    """Whether an input names a file."""
    return any(flag.endswith("_upload") for flag in config(spec))


def offered(spec: Any) -> list[Any]:
    """What a combo offers."""
    listed = spec[0] if isinstance(spec[0], list) else config(spec).get("options")
    return listed if isinstance(listed, list) else []


def value(draw: st.DrawFn, spec: Any) -> Any:
    """A value that an input takes."""
    low, high = config(spec).get("min"), config(spec).get("max")
    if is_file(spec):
        return FILE
    match spec[0]:
        case "INT":
            number = draw(st.integers(low if low is not None else -9, high))
            return draw(st.sampled_from([number, str(number), {"__value__": number}]))
        case "FLOAT":
            return draw(st.floats(low, high, allow_nan=False, allow_infinity=False))
        case "STRING":
            return draw(st.text(max_size=5))
        case "BOOLEAN":
            return draw(st.booleans())
    return draw(st.sampled_from(offered(spec)))


@dataclass
class Growing:
    """A graph on its way from nothing, every node of it right."""

    draw: st.DrawFn
    classes: Mapping[str, Any]
    nodes: Graph = field(default_factory=dict)

    def grow(self, class_type: str, depth: int = 0) -> str:
        """Add a node with everything that it needs; its id."""
        inputs: dict[str, Any] = {}
        sections = self.classes[class_type]["input"]
        for section in ("required", "optional"):
            for name, spec in sections.get(section, {}).items():
                if section == "optional" and (depth > 1 or not self.draw(st.booleans())):
                    continue
                if is_widget(spec):
                    inputs[name] = value(self.draw, spec)
                else:
                    inputs[name] = self._link(spec[0], depth)
        node_id = str(len(self.nodes) + 1)
        self.nodes[node_id] = {"class_type": class_type, "inputs": inputs}
        return node_id

    def _link(self, wanted: str, depth: int) -> list[Any]:
        types = wanted.split(",")
        there = [
            [node_id, slot]
            for node_id, node in self.nodes.items()
            for slot, type_ in enumerate(self.classes[node["class_type"]]["output"])
            if type_ in types or "*" in (type_, wanted)
        ]
        if there and (depth > 2 or self.draw(st.booleans())):
            return self.draw(st.sampled_from(there))
        givers = [
            (self._needs(info), name, info["output"].index(type_))
            for name, info in self.classes.items()
            for type_ in types
            if type_ in info["output"]
        ]
        if not givers:
            givers = [(0, "EmptyImage", 0)]
        simplest = [giver for giver in sorted(givers) if depth < 2 or giver[0] == min(givers)[0]]
        _, name, slot = self.draw(st.sampled_from(simplest))
        return [self.grow(name, depth + 1), slot]

    def _needs(self, info: Mapping[str, Any]) -> int:
        return sum(not is_widget(spec) for spec in info["input"].get("required", {}).values())


@st.composite
def good_graphs(draw: st.DrawFn, classes: Mapping[str, Any]) -> Graph:
    """Graphs without a fault, with one to three output nodes."""
    growing = Growing(draw, classes)
    ends = [name for name, info in classes.items() if info["output_node"]]
    for _ in range(draw(st.integers(1, 3))):
        growing.grow(draw(st.sampled_from(ends)))
    return growing.nodes


def reached(graph: Graph, classes: Mapping[str, Any]) -> list[str]:
    """The nodes that some output node needs."""
    found = [node_id for node_id in graph if classes[graph[node_id]["class_type"]]["output_node"]]
    for node_id in found:
        for link in graph[node_id]["inputs"].values():
            if isinstance(link, list) and link[0] not in found:
                found.append(link[0])
    return found


@dataclass(frozen=True)
class Fault:
    """One change of a good graph, and what it has to be called."""

    node_id: str
    name: str
    put: Any
    called: str


def faults(graph: Graph, classes: Mapping[str, Any]) -> list[Fault]:
    """All faults that a graph may be given; one whose `put` is `...` is a missing input."""
    found = []
    for node_id in reached(graph, classes):
        node = graph[node_id]
        sections = classes[node["class_type"]]["input"]
        for section in ("required", "optional"):
            for name, spec in sections.get(section, {}).items():
                if name not in node["inputs"]:
                    continue
                if section == "required":
                    found.append(Fault(node_id, name, ..., "required_input_missing"))
                found += [Fault(node_id, name, *wrong) for wrong in _wrong(spec)]
                if isinstance(node["inputs"][name], list):
                    found.append(Fault(node_id, name, ["1", 0, 0], "bad_linked_input"))
                    found.append(Fault(node_id, name, ["void", 0], "exception_during_validation"))
    return found


def _wrong(spec: Any) -> list[tuple[Any, str]]:
    """Values that an input does not take."""
    low, high = config(spec).get("min"), config(spec).get("max")
    found: list[tuple[Any, str]] = []
    if spec[0] in ("INT", "FLOAT"):
        found.append(("abc", "invalid_input_type"))
        if low is not None:
            found.append((low - 1, "value_smaller_than_min"))
        if high is not None and high < 1e15:
            found.append((high + 1, "value_bigger_than_max"))
    elif is_file(spec):
        found.append(("nobody's.png", "custom_validation_failed"))
    elif offered(spec):
        found.append(("no such thing", "value_not_in_list"))
    return found
