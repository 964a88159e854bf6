"""Workflows as files, and the inputs of their nodes as words on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proxy.cli.failure import CommandError
from proxy.translate import codec

Graph = dict[str, dict[str, Any]]


def load_workflow(path: Path) -> Graph:
    """Read a workflow in API format: `{node id: {"class_type", "inputs"}}`.

    Raises `CommandError` for a file that cannot be read, holds something else or is in the format
    of ComfyUI's editor, which is for drawing and cannot be run by a server.
    """
    try:
        graph = codec.loads(path.read_bytes())
    except OSError as error:
        raise _wrong(
            f"The workflow {path} cannot be read ({error.strerror}): correct its path."
        ) from None
    except ValueError as error:
        raise _wrong(f"The workflow {path} is not JSON: export it again ({error}).") from None
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list) and "links" in graph:
        raise _wrong(
            f"The workflow {path} is in the format of ComfyUI's editor: open it there, choose "
            "Workflow > Export (API), and run the file that this gives."
        )
    if (
        not isinstance(graph, dict)
        or not graph
        or not all(isinstance(node, dict) and "class_type" in node for node in graph.values())
    ):
        raise _wrong(
            f"The file {path} holds no workflow in API format (an object of nodes that each have a "
            "class_type): export it from ComfyUI by Workflow > Export (API)."
        )
    return graph


def assign(graph: Graph, assignment: str) -> None:
    """Carry out `NODE.INPUT=VALUE` on the graph; VALUE is JSON if it reads as such, else text.

    Raises `CommandError` when it is no assignment or the workflow has no such node or input.
    """
    target, equals, text = assignment.partition("=")
    node_id, dot, name = _split(graph, target)
    if not equals or not dot or not name:
        raise _wrong(f"--set {assignment} is not NODE.INPUT=VALUE, as in --set 3.seed=42.")
    if node_id not in graph:
        known = ", ".join(f"{key} ({node['class_type']})" for key, node in graph.items())
        raise _wrong(f"--set {assignment} names node {node_id}, but there are only: {known}.")
    inputs = graph[node_id].setdefault("inputs", {})
    if name not in inputs:
        known = ", ".join(inputs) or "none"
        raise _wrong(
            f"--set {assignment} names the input {name}, but the inputs of node {node_id} "
            f"({graph[node_id]['class_type']}) are: {known}."
        )
    inputs[name] = _value(text)


def _split(graph: Graph, target: str) -> tuple[str, str, str]:
    """Node and input: ids and names may have dots in them, so the graph decides where to cut."""
    cuts = [position for position, letter in enumerate(target) if letter == "."]
    for cut in reversed(cuts):
        if target[:cut] in graph:
            return target[:cut], ".", target[cut + 1 :]
    return target.partition(".")


def _value(text: str) -> Any:
    try:
        return codec.loads(text)
    except ValueError:
        return text


def _wrong(sentence: str) -> CommandError:
    return CommandError(sentence, exit_code=2)
