"""The steps of the run of a graph, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Cached:
    """The nodes of the graph whose values are known from an earlier run. Always first."""

    nodes: list[str]


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """A node begins. Does not come for cached nodes."""

    node_id: str


@dataclass(frozen=True, slots=True)
class StepProgress:
    """How far a node is. The `StepPicture` of the same step, if there is one, came just before."""

    node_id: str
    value: float
    max: float


@dataclass(frozen=True, slots=True)
class StepPicture:
    """An encoded picture of a running node; the `StepProgress` of its step follows at once."""

    node_id: str
    image: bytes
    image_type: str  # "image/jpeg" or "image/png"


@dataclass(frozen=True, slots=True)
class StepText:
    """A text of a running node."""

    node_id: str
    text: str


@dataclass(frozen=True, slots=True)
class NodeDone:
    """A node ended. `ui` is `None` where it has nothing to show.

    Comes without `NodeStarted` for output nodes that are cached.
    """

    node_id: str
    ui: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Blocked:
    """A node was given a `Blocker` with a message: it does not run, and the run continues."""

    node_id: str
    node_type: str
    message: str


@dataclass(frozen=True, slots=True)
class NodeFailed:
    """A node raised; nothing follows. The form is that of ComfyUI's `execution_error`.

    `exception_message` ends with a newline. `current_inputs` may hold secrets, as ComfyUI's do.
    `current_outputs` are all nodes of the graph.
    """

    node_id: str
    node_type: str
    exception_type: str
    exception_message: str
    traceback: list[str]
    current_inputs: dict[str, list[str]]
    current_outputs: list[str]


Step: TypeAlias = (
    Cached | NodeStarted | StepProgress | StepPicture | StepText | NodeDone | Blocked | NodeFailed
)
