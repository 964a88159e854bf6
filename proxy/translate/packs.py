"""The seam of node packs: what runs jobs knows of the node classes that clients bring along.

The cloud lacks these classes. `NodePacks` puts core nodes in their place before a job is stored,
and a `JobView` turns what the cloud says of such a job into what its client expects: events,
snapshots, errors, previews, and the results of the pack's nodes. Which packs there are is known to
`proxy.packs` alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from proxy.translate.events import NodeMessages, Preview
from proxy.translate.frames import CloudFrame
from proxy.translate.snapshots import Snapshot


class Failure(Struct, frozen=True):
    """Why a node fails, in the words of the real one. `inputs` are shown in lists."""

    node_id: str
    exception_type: str
    message: str
    inputs: dict[str, list[Any]] = {}


class NodeFailedError(Exception):
    """Raised when a node fails over what the cloud has made for it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class ResultSource(Struct, frozen=True):
    """A node whose pack makes the messages about its result: its inputs as far as they are known
    before the run, and a digest of all that the result depends on."""

    inputs: dict[str, Any]
    signature: str


class Rewriting(Struct):
    """A graph for the cloud in place of a client's, and the way back.

    `owners` has the client's node of each added one; the `silent` ones run before the node that
    stands in its place. `names` are the client's names of inputs by node, `results` the nodes about
    whose results packs send messages. `before` has the nodes that the cloud does not get, by the
    nodes that they ran for. With a `failure` the job fails without the cloud.
    """

    graph: dict[str, Any]
    owners: dict[str, str] = {}
    silent: list[str] = []
    names: dict[str, dict[str, str]] = {}
    results: dict[str, ResultSource] = {}
    before: dict[str, list[str]] = {}
    failure: Failure | None = None


class JobView(Protocol):
    """What the cloud says of a job whose graph was rewritten, in terms of the graph that its client
    has sent."""

    def event(self, type_: str, data: Mapping[str, Any]) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return the events to handle in place of one, in order."""

    def frame(self, frame: CloudFrame) -> CloudFrame | None:
        """Return the frame to handle in place of one."""

    def snapshot(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot of the client's nodes."""

    def node_errors(self, errors: Mapping[str, Any]) -> dict[str, Any]:
        """Return the cloud's errors of nodes as errors of the client's nodes."""

    async def cached(self, nodes: Sequence[str]) -> Sequence[str]:
        """Return which of the nodes that the cloud had cached are cached for the client.

        Raises `StorageError`.
        """

    async def result(
        self, node: str, output: Mapping[str, Any], *, account: str
    ) -> NodeMessages | None:
        """Return a pack's messages about a node's result, `None` for a node of no pack.

        Raises `NodeFailedError`, `LocalError` when the cloud does not hand a file out,
        `StorageError`.
        """

    async def preview(self, preview: Preview) -> Preview | None:
        """Return a preview that the client takes for one, `None` to leave it out."""


class ViewedJob(Protocol):
    """What a view needs to know of a job; `graph` is the client's."""

    @property
    def member(self) -> str: ...
    @property
    def prompt_id(self) -> str: ...
    @property
    def graph(self) -> Mapping[str, Any]: ...


class NodePacks(Protocol):
    """All node packs."""

    async def rewrite(
        self, member: str, graph: Mapping[str, Any], outputs: Collection[str] | None
    ) -> Rewriting | None:
        """Return what the cloud is to run instead of a graph, `None` for one without pack nodes.

        `outputs` are the output nodes that run, `None` for all. Raises `LocalError` (400) where a
        pack cannot do what a node asks for, `StorageError`.
        """

    def view(self, job: ViewedJob, rewriting: Rewriting) -> JobView:
        """Return the view of a job whose graph was rewritten."""
