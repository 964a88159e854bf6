"""The run of a graph: nodes in the order of their dependencies, and what happens on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from proxy.simulator.nodes import NodeClasses


@dataclass(frozen=True, slots=True)
class Cached:
    """The nodes of the graph whose values are known from an earlier run. Always first."""

    nodes: list[str]


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """A node begins. Does not come for cached nodes."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a node is. The `Picture` of the same step, if there is one, came just before."""

    node_id: str
    value: float
    max: float


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture of a running node; the `Progress` of its step follows at once."""

    node_id: str
    image: bytes
    image_type: str  # "image/jpeg" or "image/png"


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a running node."""

    node_id: str
    text: str


@dataclass(frozen=True, slots=True)
class NodeDone:
    """A node ended. `ui` is `None` where it has nothing to show.

    Comes without `NodeStarted` for a cached node that has a ui.
    """

    node_id: str
    ui: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A node raised; nothing follows. The form is that of ComfyUI's `execution_error`.

    `exception_message` ends with a newline; `current_outputs` are the ids of the nodes that have
    values.
    """

    node_id: str
    node_type: str
    exception_type: str
    exception_message: str
    traceback: list[str]
    current_inputs: dict[str, list[str]]
    current_outputs: list[str]


Happening: TypeAlias = Cached | NodeStarted | Progress | Picture | Text | NodeDone | Failed


class Contents(Protocol):
    """The files of the cloud, as nodes see them."""

    def load(self, name: str) -> bytes:
        """The bytes of a file, its name without ` [input]` or the like. Raises `KeyError`."""

    def save(
        self,
        data: bytes,
        *,
        extension: str,
        prefix: str,
        type: str,  # noqa: A002
        node_id: str,
    ) -> dict[str, Any]:
        """Store an output; answers `{"filename": "<hash>.png", "subfolder": "", "type": type}`.

        `extension` is with its dot; `prefix` is the node's `filename_prefix`, of which the
        display name is made.
        """


class NodeCache:
    """Values of earlier runs, by what they were computed from. Keeps the `limit` newest."""

    def __init__(self, limit: int = 256) -> None:
        self.limit = limit


async def execute(
    graph: dict[str, Any],
    outputs: list[str],
    *,
    catalogue: NodeClasses,
    contents: Contents,
    extra_data: dict[str, Any],
    pace: float = 0.0,
    cache: NodeCache | None = None,
) -> AsyncIterator[Happening]:
    """Run the nodes that `outputs` need, in a graph that `validate` has accepted.

    Ends after the last node or after `Failed`. `pace` is the shortest time of a step in seconds.
    A cancel of the task that iterates stops the running node.
    """
    raise NotImplementedError
    yield
