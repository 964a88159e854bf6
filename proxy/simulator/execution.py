"""The run of a graph: nodes in the order of their dependencies, and what happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.simulator.errors import frames, type_name
from proxy.simulator.node_cache import NodeCache, signature
from proxy.simulator.nodes import Blocker, Context, NodeClass, NodeClasses, Output
from proxy.simulator.steps import (
    Blocked,
    Cached,
    NodeDone,
    NodeFailed,
    NodeStarted,
    Plan,
    Step,
    StepPicture,
    StepProgress,
    StepText,
    needed,
)

__all__ = [
    "Blocked",
    "Cached",
    "Contents",
    "NodeCache",
    "NodeDone",
    "NodeFailed",
    "NodeStarted",
    "Step",
    "StepPicture",
    "StepProgress",
    "StepText",
    "execute",
]


class Contents(Protocol):
    """The files of the cloud, as nodes see them."""

    def load(self, name: str) -> bytes:
        """Return the bytes of a file, by its name as it stands in the graph. Raises `KeyError`."""

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


async def execute(
    graph: dict[str, Any],
    outputs: list[str],
    *,
    catalog: NodeClasses,
    contents: Contents,
    extra_data: dict[str, Any],
    pace: float = 0.0,
    cache: NodeCache | None = None,
) -> AsyncGenerator[Step, None]:
    """Run the nodes that `outputs` need, in a graph that `validate` has accepted.

    Ends after the last node or after `NodeFailed`. `pace` is the shortest time of a step in
    seconds. A cancel of the task that iterates stops the running node; iterate under
    `contextlib.aclosing`, so that it stops also when the cancel finds the task elsewhere.
    """
    steps: asyncio.Queue[Step | None] = asyncio.Queue()
    tools = _Tools(graph, contents, extra_data, pace, steps.put_nowait)
    run = _Run(outputs, catalog, tools, cache)

    async def work() -> None:
        try:
            await run.nodes()
        finally:
            steps.put_nowait(None)

    task = asyncio.create_task(work())
    try:
        while (step := await steps.get()) is not None:
            yield step
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])


@dataclass(frozen=True, slots=True)
class _Tools:
    """What all nodes of a run share."""

    graph: dict[str, Any]
    contents: Contents
    extra_data: dict[str, Any]
    pace: float
    tell: Callable[[Step], None]


class _Context(Context):
    """A node's side of the run."""

    def __init__(self, node_id: str, tools: _Tools) -> None:
        self.node_id = node_id
        self.prompt = tools.graph
        self.extra_data = tools.extra_data
        self._tools = tools

    def progress(self, value: float, maximum: float) -> None:
        self._tools.tell(StepProgress(self.node_id, value, maximum))

    def picture(self, image: bytes, image_type: str = "image/jpeg") -> None:
        self._tools.tell(StepPicture(self.node_id, image, image_type))

    def text(self, text: str) -> None:
        self._tools.tell(StepText(self.node_id, text))

    async def step(self) -> None:
        await asyncio.sleep(self._tools.pace)

    def load(self, name: str) -> bytes:
        return self._tools.contents.load(name)

    def save(
        self,
        data: bytes,
        *,
        extension: str,
        prefix: str,
        type: str = "output",  # noqa: A002
    ) -> dict[str, Any]:
        return self._tools.contents.save(
            data, extension=extension, prefix=prefix, type=type, node_id=self.node_id
        )


class _Run:
    def __init__(
        self, outputs: list[str], catalog: NodeClasses, tools: _Tools, cache: NodeCache | None
    ) -> None:
        self._targets = outputs
        self._catalog = catalog
        self._tools = tools
        self._graph = tools.graph
        self._tell = tools.tell
        self._cache = cache
        self._signatures: dict[str, str | None] = {}
        self._results: dict[str, Output] = {}
        #: What nodes gave in this run, by their signatures. Jobs that run at the same time do so on
        #: machines of their own: none has what another has made since it began.
        self._made: dict[str, Output] = {}

    async def nodes(self) -> None:
        """Run all that is needed; returns early when a node fails."""
        for node_id in needed(self._targets, self._sources):
            node_class, inputs = self._class(node_id), self._inputs(node_id)
            self._signatures[node_id] = signature(node_id, node_class, inputs, self._signatures)
            name = self._signatures[node_id]
            cached = self._cache.get(name) if self._cache is not None and name else None
            if cached is not None:
                self._results[node_id] = cached
        self._tell(Cached([node_id for node_id in self._graph if node_id in self._results]))
        plan = Plan(
            {
                node_id: self._needs(node_id)
                for node_id in needed(self._targets, self._needs)
                if node_id in self._targets or node_id not in self._results
            },
            [node_id for node_id in self._signatures if self._class(node_id).output_node],
        )
        while (ready := plan.next()) is not None:
            if not await self._node(ready):
                return
            plan.done(ready)

    async def _node(self, node_id: str) -> bool:
        """Run a node, or take it from the cache; says whether it went well."""
        name = self._signatures[node_id]
        known = self._results.get(node_id)
        if known is None and name is not None:
            known = self._made.get(name)
        if known is not None:
            self._results[node_id] = known
            self._tell(NodeDone(node_id, known.ui, cached=True))
            return True
        self._tell(NodeStarted(node_id))
        values: dict[str, Any] = {}
        try:
            values |= self._values(node_id)
            given = self._blocked(node_id, values)
            if given is None:
                given = await self._class(node_id).run(values, _Context(node_id, self._tools))
        except Exception as error:  # noqa: BLE001 - a node may raise anything
            self._tell(self._failed(node_id, error, values))
            return False
        output = given if isinstance(given, Output) else Output(given or ())
        if not output.ui:
            output = Output(output.values)
        self._results[node_id] = output
        if self._cache is not None and name is not None:
            self._made[name] = output
            self._cache.put(name, output)
        self._tell(NodeDone(node_id, output.ui))
        return True

    def _blocked(self, node_id: str, values: dict[str, Any]) -> Output | tuple[Any, ...] | None:
        """Return what a node gives that a blocker keeps from running; `None` if there is no
        blocker."""
        blocker = next((value for value in values.values() if isinstance(value, Blocker)), None)
        if blocker is None:
            return None
        node_class = self._class(node_id)
        if blocker.message is not None:
            self._tell(Blocked(node_id, node_class.name, blocker.message))
        return Output((Blocker(),) * len(node_class.outputs))

    def _failed(self, node_id: str, error: Exception, values: dict[str, Any]) -> NodeFailed:
        return NodeFailed(
            node_id=node_id,
            node_type=self._class(node_id).name,
            exception_type=type_name(error),
            exception_message=f"{error}\n",
            traceback=frames(error),
            current_inputs={name: [str(value)] for name, value in values.items()},
            current_outputs=list(self._graph),
        )

    def _class(self, node_id: str) -> NodeClass:
        return self._catalog[self._graph[node_id]["class_type"]]

    def _inputs(self, node_id: str) -> dict[str, Any]:
        """Return the given inputs that the class knows; links as they stand in the graph."""
        given = self._graph[node_id]["inputs"]
        if not isinstance(given, dict):
            return {}
        return {name: given[name] for name in self._class(node_id).inputs() if name in given}

    def _sources(self, node_id: str) -> list[str]:
        return [value[0] for value in self._inputs(node_id).values() if isinstance(value, list)]

    def _needs(self, node_id: str) -> list[str]:
        """Return the sources that a node still waits for: none where it is known already."""
        return [] if node_id in self._results else self._sources(node_id)

    def _values(self, node_id: str) -> dict[str, Any]:
        values = {
            name: self._results[value[0]].values[value[1]] if isinstance(value, list) else value
            for name, value in self._inputs(node_id).items()
        }
        extra_data = self._tools.extra_data
        hidden = {
            "PROMPT": self._graph,
            "DYNPROMPT": self._graph,
            "UNIQUE_ID": node_id,
            "EXTRA_PNGINFO": extra_data.get("extra_pnginfo"),
            "AUTH_TOKEN_COMFY_ORG": extra_data.get("auth_token_comfy_org"),
            "API_KEY_COMFY_ORG": extra_data.get("api_key_comfy_org"),
        }
        return values | {
            name: hidden.get(kind) for name, kind in self._class(node_id).hidden.items()
        }
