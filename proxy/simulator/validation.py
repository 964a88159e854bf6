"""Which outputs of a graph can run, and what is wrong with the others, as ComfyUI says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proxy.simulator.nodes import Files, NodeClasses


@dataclass(frozen=True, slots=True)
class Validation:
    """What a validation found.

    `outputs` are the output nodes that can run; `node_errors` what is wrong with single nodes;
    `error` is `None` when at least one output can run (`node_errors` may be filled then, too).
    """

    outputs: list[str] = field(default_factory=list)
    node_errors: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None


def validate(
    graph: object, *, catalogue: NodeClasses, targets: list[str] | None, files: Files
) -> Validation:
    """Check a graph; changes values in it to the type of their input ("7" to 7), as ComfyUI does.

    `targets` restricts the output nodes to those named (`partial_execution_targets`). `files`
    says whether a file name (without ` [input]` or the like) is known. Never raises.
    """
    raise NotImplementedError
