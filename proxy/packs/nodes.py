"""What a node of a pack is: it only carries pictures and texts in and out.

A `PackNode` says what its node becomes on the cloud, core nodes alone, and what of their results a
client gets. Everything here is about one node; `rewriting` does it for a graph.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping, Set
from enum import Enum
from typing import Any, Literal

import msgspec

from proxy.translate.errors import LocalError
from proxy.translate.events import Binary, NodeMessages
from proxy.translate.graph_shape import class_of
from proxy.translate.jobs import inputs_of, is_link

#: `[node id, output index]`.
Link = list[Any]


class PackNodeError(Exception):
    """Raised when a node of a pack cannot do what it should."""

    def __init__(self, exception_type: str, message: str) -> None:
        super().__init__(message)
        self.exception_type = exception_type
        self.message = message


class PackFailure(msgspec.Struct, frozen=True):
    """The words of a `PackNodeError`, which holds nothing of what it was raised for."""

    exception_type: str
    message: str


def refusal(node_id: str, graph: Mapping[str, Any], name: str, reason: str) -> LocalError:
    """Return the refusal of a graph for one input of a node."""
    class_type = str(graph[node_id].get("class_type"))
    error = {
        "type": "helper_node_limited",
        "message": f"The proxy does not support this {name} of {class_type}",
        "details": f"{name}: {reason}",
        "extra_info": {"input_name": name},
    }
    about = {"errors": [error], "dependent_outputs": [], "class_type": class_type}
    return LocalError(
        "helper_node_limited",
        f"The proxy runs {class_type} instead of Comfy Cloud and does not support this: {name}: "
        f"{reason}.",
        node_errors={node_id: about},
    )


#: Where a node has its file from: what its input holds.
FileSource = Literal["cache", "base64", "url"]


class Mask(Enum):
    """What a loading node gives as mask, for a picture with alpha and for one without."""

    ALPHA_OR_RED = "alpha, else the red channel"
    ALPHA_OR_NONE = "alpha, else none"
    ALPHA_OR_ONES = "alpha, else ones"
    RED = "the red channel"
    CORE = "as LoadImage gives it: 1 - alpha"


class Reads(msgspec.Struct, frozen=True):
    """The file that a node loads: the input that tells it, and what is needed of it.

    With `Mask.CORE` and for files that are no pictures the bytes go to the cloud as they are.
    """

    input: str
    source: FileSource
    mask: Mask = Mask.CORE
    kind: str = "image"


class Picture(msgspec.Struct, frozen=True):
    """A file that was sent for a node: the names by which the graph calls it and its mask."""

    name: str
    mask: str | None = None
    width: int = 0
    height: int = 0


class Item(msgspec.Struct, frozen=True):
    """A picture of a node's result, encoded as its client wants it, and the id it is kept under.

    `data` is empty where the messages do not carry it.
    """

    id: str
    data: bytes
    content_type: str


class Result(msgspec.Struct, frozen=True):
    """What the cloud's node has put out for a node of the member."""

    prompt_id: str
    node_id: str
    inputs: Mapping[str, Any]
    items: tuple[Item, ...] = ()
    texts: tuple[str, ...] = ()


class ResultMessages(msgspec.Struct, frozen=True):
    """How the messages to a client about a result are built, with `build`.

    `encoding` returns the format of the pictures, in Pillow's words, or `None` for the unchanged
    file. `carries` is whether the pictures are in the messages, and not fetched afterwards. With
    `again` the node runs each time: it is never cached. `when` returns whether this applies to the
    node's inputs; otherwise the client gets the messages of the core node.
    """

    build: Callable[[Result], NodeMessages]
    encoding: Callable[[Mapping[str, Any]], str | None] = lambda _: None
    carries: bool = True
    again: bool = False
    when: Callable[[Mapping[str, Any]], bool] = lambda _: True


class PackNode(msgspec.Struct, frozen=True):
    """A node class that the proxy carries itself.

    `info` is its entry of `object_info`; `becomes` is what it becomes on the cloud, for which the
    cloud must have the classes `needs`; `asks` is the attribute that it reads first of a mask.
    """

    info: Mapping[str, Any]
    becomes: Callable[[Node], None]
    needs: Set[str]
    reads: Reads | None = None
    messages: ResultMessages | None = None
    asks: str = "shape"

    @property
    def name(self) -> str:
        """The class."""
        return str(self.info["name"])


#: Classes whose output is the value of their input `value`.
CONSTANTS = {
    f"Primitive{kind}" for kind in ("String", "StringMultiline", "Int", "Float", "Boolean")
}


#: Links from constant to constant that are followed.
_MAX_LINKS = 100


def constant(graph: Mapping[str, Any], value: Any) -> Any:
    """Return a value, or what a link leads to over a few nodes that hand on a constant.

    A link that leads to anything else stays a link.
    """
    for _ in range(_MAX_LINKS):
        if not is_link(value):
            break
        node: Any = graph.get(value[0])
        inputs = inputs_of(node)
        if "value" not in inputs or str(node.get("class_type")) not in CONSTANTS:
            return value
        value = inputs["value"]
    return value


#: Core classes whose output has the size that their inputs say.
_SIZED = frozenset({"EmptyImage", "SolidMask"})


class Node(msgspec.Struct):
    """A node of the member's graph while it becomes nodes of the cloud's.

    `become` gives what stands in its place, under its id; `add` puts a node before that. `gives`
    says where an output comes from if not from the same output of what stands in its place: a
    link, a constant, or `None` where the node gives nothing.
    """

    id: str
    inputs: Mapping[str, Any]
    graph: Mapping[str, Any]
    mark: str
    pictures: Mapping[str, Picture] = msgspec.field(default_factory=dict)
    nodes: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    gives: dict[int, Any] = msgspec.field(default_factory=dict)
    silent: set[str] = msgspec.field(default_factory=set)
    names: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def picture(self) -> Picture:
        """The file that was sent for the node."""
        return self.pictures[self.id]

    def size(self, link: Any) -> tuple[int, int] | None:
        """Return width and height of the picture or mask behind a link, where they are known."""
        if not is_link(link):
            return None
        picture, source = self.pictures.get(link[0]), self.graph.get(link[0])
        if picture is not None and picture.width:
            return picture.width, picture.height
        if class_of(source) not in _SIZED:
            return None
        inputs = inputs_of(source)
        width, height = (constant(self.graph, inputs.get(side)) for side in ("width", "height"))
        return (width, height) if isinstance(width, int) and isinstance(height, int) else None

    def become(self, class_type: str, inputs: Mapping[str, Any], names: Mapping[str, str]) -> None:
        """Stand a node in this one's place. `names` has the member's names of its inputs."""
        self.nodes[self.id] = {"class_type": class_type, "inputs": dict(inputs)}
        self.names = dict(names)

    def add(
        self, label: str, class_type: str, inputs: Mapping[str, Any], *, silent: bool = True
    ) -> Link:
        """Add a node and link to it. One that is not `silent` gives an output by itself."""
        node_id = f"{self.id}{self.mark}{label}"
        self.nodes[node_id] = {"class_type": class_type, "inputs": dict(inputs)}
        if silent:
            self.silent.add(node_id)
        return [node_id, 0]

    def value(self, name: str, default: Any = None) -> Any:
        """Return an input's value where it is known before the run, else its link."""
        return constant(self.graph, self.inputs.get(name, default))


def core(
    info: Mapping[str, Any],
    class_type: str,
    names: Mapping[str, str],
    *,
    messages: ResultMessages | None = None,
    **constants: Any,
) -> PackNode:
    """Return a node that becomes one core node; `names` maps the core node's inputs to its own."""

    def become(node: Node) -> None:
        inputs = {name: node.inputs[own] for name, own in names.items() if own in node.inputs}
        node.become(class_type, {**inputs, **constants}, names)

    return PackNode(info, become, {class_type}, messages=messages)


def loads(
    info: Mapping[str, Any], class_type: str, own: str, reads: Reads, **constants: Any
) -> PackNode:
    """Return a node that becomes the core node which loads the file; `own` is that node's input."""

    def become(node: Node) -> None:
        node.become(class_type, {own: node.picture.name, **constants}, {own: reads.input})

    return PackNode(info, become, {class_type}, reads)


def same(*names: str) -> dict[str, str]:
    """Return the `names` of `core` for inputs that both nodes call the same."""
    return dict(zip(names, names, strict=True))


def info(
    name: str,
    required: Mapping[str, Any],
    *,
    pack: str,
    category: str,
    outputs: Iterable[str | tuple[str, str]] = (),
    optional: Mapping[str, Any] | None = None,
    hidden: Mapping[str, Any] | None = None,
    title: str | None = None,
    description: str = "",
    output_node: bool = False,
    new_style: bool = False,
) -> dict[str, Any]:
    """Return a class as `GET /object_info` shows it; a `new_style` one has some more fields.

    An output is its type, or type and name where the name is another one. What has none is an
    output node.
    """
    groups = {"required": required, "optional": optional, "hidden": hidden}
    shown = {
        group: dict(specs or {}) for group, specs in groups.items() if specs or group == "required"
    }
    named = [(output, output) if isinstance(output, str) else output for output in outputs]
    types = [type_ for type_, _ in named]
    return {
        "input": shown,
        "input_order": {group: list(specs) for group, specs in shown.items()},
        "output": types,
        "output_is_list": [False] * len(types),
        "output_name": [shown_name for _, shown_name in named],
        **({"output_tooltips": [None] * len(types)} if new_style else {}),
        "name": name,
        "display_name": title or name,
        "description": description,
        "python_module": f"custom_nodes.{pack}",
        "category": category,
        "output_node": output_node or not types,
        **({"deprecated": False, "experimental": False, "api_node": False} if new_style else {}),
    }


#: The `hidden` inputs of core nodes that save.
SAVED_WITH = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}


def preview(node: Node) -> None:
    """Become `PreviewImage`, about whose files the pack tells the client."""
    node.become("PreviewImage", {"images": node.inputs.get("images")}, {"images": "images"})


def frame(result: Result, data: bytes, format_: int, event: int = 1) -> Binary:
    """Return a binary message with a picture in it: `[event][format][data]`."""
    return Binary(result.prompt_id, event.to_bytes(4, "big") + format_.to_bytes(4, "big") + data)


def located(path: str) -> dict[str, str]:
    """Return a path below the output folder as a result shows it."""
    folder, name = posixpath.split(path)
    return {"filename": name, "subfolder": folder, "type": "output"}


def named_files(shown: Mapping[str, Any], own: str, key: str) -> PackNode:
    """Return a node that reports the files that its text input `own` names."""
    return core(
        shown,
        "PreviewAny",
        {"source": own},
        messages=ResultMessages(
            lambda result: NodeMessages(ui={key: [located(text) for text in result.texts]})
        ),
    )
