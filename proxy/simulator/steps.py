"""The steps of the run of a graph, as values, and the order of its nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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

    Comes without `NodeStarted`, and with `cached`, for output nodes that an earlier run has made
    and for nodes that are equal to one that has just run.
    """

    node_id: str
    ui: dict[str, Any] | None
    cached: bool = False


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


# --- the order of the nodes -------------------------------------------------------------------


def needed(outputs: Iterable[str], sources: Callable[[str], Iterable[str]]) -> list[str]:
    """Return the outputs and all that they depend on, each behind its own sources."""
    order: dict[str, None] = {}
    opened: set[str] = set()
    stack = [(output, False) for output in reversed(list(outputs))]
    while stack:
        node_id, closing = stack.pop()
        if closing:
            order[node_id] = None
        elif node_id not in opened:
            opened.add(node_id)
            stack.append((node_id, True))
            stack += [(source, False) for source in reversed(list(sources(node_id)))]
    return list(order)


class Plan:
    """Hands out nodes whose sources are done: outputs first, then what leads straight to one.

    So a client sees results early, as with ComfyUI. `sources` has an entry for each node that is
    to run; sources without an entry of their own count as done.
    """

    def __init__(self, sources: Mapping[str, Iterable[str]], outputs: Iterable[str]) -> None:
        self._outputs = set(outputs)
        self._followers: dict[str, list[str]] = {node_id: [] for node_id in sources}
        self._waiting: dict[str, int] = {}
        for node_id, needs in sources.items():
            awaited = {source for source in needs if source in sources}
            self._waiting[node_id] = len(awaited)
            for source in awaited:
                self._followers[source].append(node_id)
        self._ready = {node_id: None for node_id, count in self._waiting.items() if not count}

    def next(self) -> str | None:
        """Return the next node to run; `None` when there is none."""
        if not self._ready:
            return None
        node_id = min(self._ready, key=self._rank)
        del self._ready[node_id]
        return node_id

    def done(self, node_id: str) -> None:
        """Note that a node has its values: its followers may be ready now."""
        for follower in self._followers[node_id]:
            self._waiting[follower] -= 1
            if not self._waiting[follower]:
                self._ready[follower] = None

    def _rank(self, node_id: str) -> int:
        if node_id in self._outputs:
            return 0
        leads = any(follower in self._outputs for follower in self._followers[node_id])
        return 1 if leads else 2
