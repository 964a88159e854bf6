"""Workflows of `run`: read from files and pictures, and their inputs set by `--set`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from proxy.cli.comfy import Graph
from proxy.cli.common import UsageError
from proxy.files.opened_pictures import NotAPictureError, opened
from proxy.runtime import randomness
from proxy.translate import codec, editor
from proxy.translate.reading import field_of

#: Files that `run` takes for workflows in a folder.
PICTURES = frozenset({".png", ".webp", ".jpg", ".jpeg"})
SUFFIXES = PICTURES | {".json"}
#: Standard input.
STDIN = Path("-")
#: Where WebP and JPEG hold `prompt:` and `workflow:`, from this EXIF tag downwards.
_EXIF_TAGS = range(0x0110, 0x0100, -1)
#: A random seed is below this: every node takes it.
_SEEDS = 1 << 32


class Workflow(NamedTuple):
    """What a file holds: a graph in API format, or the editor's, which a server's nodes convert."""

    name: str
    graph: Graph | None
    drawing: dict[str, Any]

    @property
    def classes(self) -> set[str]:
        """The node classes that the conversion asks for."""
        return editor.classes_of(self.drawing)

    def converted(self, classes: Mapping[str, Any]) -> Graph:
        """Return the graph, where `classes` are the entries of `object_info`. Raises
        `CommandError`."""
        if self.graph is not None:
            return deepcopy(self.graph)
        try:
            graph = editor.graph_of(self.drawing, classes, randomness.choice)
        except editor.EditorError as error:
            raise UsageError(f"The workflow {self.name} cannot be converted: {error}.") from None
        if not graph:
            raise UsageError(f"The workflow {self.name} has no enabled node: enable one.")
        return graph


def load_workflow(path: Path) -> Workflow:
    """Read a workflow: JSON of ComfyUI's editor or in API format, or a picture that holds it.

    `-` is standard input, with JSON. Raises `CommandError`.
    """
    try:
        if path == STDIN:
            data = sys.stdin.buffer.read()
        elif path.suffix.lower() in PICTURES:
            return _of_picture(path)
        else:
            data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"The workflow {path} cannot be read ({error.strerror or error}): correct its path."
        ) from None
    return _parsed(data, str(path))


def _parsed(data: bytes | str, name: str) -> Workflow:
    try:
        value = codec.loads(data)
    except ValueError as error:
        raise UsageError(f"The workflow {name} is not JSON: export it again ({error}).") from None
    if isinstance(value, dict) and isinstance(value.get("prompt"), dict):
        value = value["prompt"]  # the body of a submission
    if editor.is_editors(value):
        return Workflow(name, None, value)
    if (
        not isinstance(value, dict)
        or not value
        or not all(isinstance(node, dict) and "class_type" in node for node in value.values())
    ):
        raise UsageError(
            f"The file {name} contains no workflow: save one in ComfyUI (Workflow > Save, or "
            "Workflow > Export (API))."
        )
    return Workflow(name, value, {})


def _of_picture(path: Path) -> Workflow:
    """Return the workflow that ComfyUI wrote into the picture, or the JSON file of its name beside
    it."""
    texts = _texts(path)
    for name in ("prompt", "workflow"):
        if name in texts:
            return _parsed(texts[name], str(path))
    beside = path.with_suffix(".json")
    if beside.is_file():
        return load_workflow(beside)
    raise UsageError(
        f"The picture {path} contains no workflow: it was saved without one, or by another "
        "program. Use the JSON file of the workflow."
    )


def _texts(path: Path) -> dict[str, str]:
    """Return the texts of a picture by name: `prompt` is in API format, `workflow` the editor's."""
    try:
        with opened(path) as picture:
            texts = {
                str(name): text for name, text in picture.info.items() if isinstance(text, str)
            }
            exif = dict(picture.getexif())
    except NotAPictureError as error:
        raise UsageError(f"The picture {path} cannot be used: {error}.") from None
    for tag in _EXIF_TAGS:
        name, colon, text = str(exif.get(tag, "")).partition(":")
        if colon:
            texts.setdefault(name, text)
    return texts


class Assignment(NamedTuple):
    """`--set`: which input of which node gets which value, still as text."""

    node: str
    input: str
    text: str


def assignment_of(graph: Graph, given: str) -> Assignment:
    """Return what `NODE.INPUT=VALUE` means for a graph; NODE is an id, a title or a class.

    Without a node it is the only one that has the input. Raises `CommandError` for what is no
    assignment, and for a node or an input that is not there or not the only one.
    """
    target, equals, text = given.partition("=")
    if not equals or not target:
        raise UsageError(f"--set {given} is not NODE.INPUT=VALUE, as in --set 3.seed=42.")
    named, name = _split(graph, target)
    if named is None:
        raise UsageError(f"--set {given} matches no node; the nodes are: {_listed(graph, graph)}.")
    having = [node for node in named if name in graph[node].get("inputs", {})]
    if not having:
        known = dict.fromkeys(key for node in named for key in graph[node].get("inputs", {}))
        what = f"node {_listed(graph, named)}" if "." in target else "the nodes"
        raise UsageError(
            f"--set {given} names the input {name}, but the inputs of {what} are: "
            f"{', '.join(known) or 'none'}."
        )
    if len(having) > 1:
        raise UsageError(
            f"--set {given} matches several nodes: use the id of one, {_listed(graph, having)}."
        )
    return Assignment(having[0], name, text)


def _split(graph: Graph, target: str) -> tuple[list[str] | None, str]:
    """Return the nodes that are meant, and the input: ids, titles, classes and names may have
    dots."""
    for cut in reversed([place for place, letter in enumerate(target) if letter == "."]):
        node, name = target[:cut], target[cut + 1 :]
        if name and (found := _named(graph, node)):
            return found, name
    whole = [
        node
        for node, about in graph.items()
        if not isinstance(about.get("inputs", {}).get(target, []), list)
    ]
    if whole or "." not in target:
        return whole or list(graph), target
    return None, target


def _named(graph: Graph, name: str) -> list[str]:
    if name in graph:
        return [name]
    for path in (("_meta", "title"), ("class_type",)):
        found = [node_id for node_id, node in graph.items() if field_of(node, *path) == name]
        if found:
            return found
    return []


def _listed(graph: Graph, nodes: Any) -> str:
    return ", ".join(f"{node} ({graph[node]['class_type']})" for node in nodes)


async def value_of(
    assignment: Assignment, graph: Graph, upload: Callable[[Path], Awaitable[str]]
) -> Any:
    """Return the value: JSON if it parses as such, `@FILE` the name of an upload, else text.

    `random` is a random seed instead of a number. Raises `CommandError` for a missing file.
    """
    text = assignment.text
    before = graph[assignment.node]["inputs"][assignment.input]
    if text == "random" and (
        (isinstance(before, int) and not isinstance(before, bool)) or "seed" in assignment.input
    ):
        return randomness.randbelow(_SEEDS)
    if text.startswith("@"):
        return await upload(Path(text[1:]))
    try:
        return codec.loads(text)
    except ValueError:
        return text
