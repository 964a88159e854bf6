"""What the cloud tells of a job in the terms of the member.

That is its names of files, the nodes of the graph that it has sent, and no secrets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from proxy.engine.tracker import (
    EventReceived,
    GiveUp,
    Input,
    SnapshotReceived,
)
from proxy.jobs.models import Job
from proxy.packs.nodes import Failure, HelperFailedError
from proxy.packs.pictures import jpeg
from proxy.packs.rewriting import MemberView, Rewriting, failed, reachable
from proxy.packs.service import helper_of
from proxy.translate.codec import credentials, redact
from proxy.translate.events import Preview, Told
from proxy.translate.jobs import Snapshot

if TYPE_CHECKING:
    from proxy.engine.engine import Engine

T = TypeVar("T")


class NodeFailedError(Exception):
    """A helper node has failed over what the cloud has made for it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(eq=False, repr=False)
class Localiser:
    """Makes what is told of one job local; `node_types` are the classes of its nodes by their ids.

    No message and no record shows the secrets of the engine or of the job, whatever a node makes
    of them.
    """

    job: Job
    engine: Engine
    node_types: Mapping[str, str]
    _results: dict[str, Told] = field(default_factory=dict)

    def __post_init__(self) -> None:
        job = self.job
        self._secrets = credentials(job.credentials)
        self.rewriting = rewriting = job.rewriting
        self._view = None if rewriting is None else MemberView(rewriting, job.graph)

    def of_member(self, what: Input) -> Iterable[Input]:
        """What happened in terms of the graph that the member has sent."""
        if self._view is None:
            return [what]
        match what:
            case EventReceived(type=type_, data=data):
                return [EventReceived(*told) for told in self._view.event(type_, data)]
            case SnapshotReceived(snapshot=snapshot):
                return [SnapshotReceived(self._view.snapshot(snapshot), what.detail)]
            case GiveUp():
                return [what]
        frame = self._view.frame(what)
        return [] if frame is None else [frame]

    async def localised(self, what: Input) -> Input:
        """Replace the cloud's names, and the account's key wherever a node shows it.

        Raises `NodeFailedError` and `StorageError`.
        """
        job = self.job
        match what:
            case EventReceived(type="executed", data=data) if isinstance(data.get("output"), dict):
                output = await self._local_output(str(data.get("node")), data["output"])
                return EventReceived("executed", {**data, "output": output})
            case EventReceived(type="execution_error", data=data):
                return EventReceived("execution_error", await self._shown(dict(data)))
            case EventReceived(type="execution_cached", data=data) if job.rewriting is not None:
                nodes = await self.engine.helpers.cached(
                    job.member, job.rewriting, self.node_types, data["nodes"]
                )
                return EventReceived("execution_cached", {**data, "nodes": nodes})
            case SnapshotReceived(snapshot=snapshot):
                return SnapshotReceived(await self._local_snapshot(snapshot), what.detail)
        return what

    async def _local_snapshot(self, snapshot: Snapshot) -> Snapshot:
        outputs = None
        if snapshot.outputs is not None:
            outputs = {
                node: await self._local_output(node, output) if isinstance(output, dict) else output
                for node, output in snapshot.outputs.items()
            }
        return replace(
            snapshot,
            outputs=outputs,
            execution_error=await self._shown(snapshot.execution_error),
            execution_status=await self._shown(snapshot.execution_status),
        )

    async def _shown(self, value: T) -> T:
        """What a failure shows, without secrets and without the cloud's names."""
        shown: T = await self.engine.files.reveal(self.job.member, self._redacted(value))
        return shown

    async def _local_output(self, node: str, output: dict[str, Any]) -> dict[str, Any] | Told:
        job, graph = self.job, self.job.graph
        if job.rewriting is not None:
            if node in job.rewriting.tells:
                return await self._result(job.rewriting, node, output)
            graph = job.rewriting.graph
        local = await self.engine.files.outputs.localise(
            job.member, job.prompt_id, node, graph.get(node), output, account=job.account
        )
        return self._redacted(local)

    async def _result(self, rewriting: Rewriting, node: str, output: dict[str, Any]) -> Told:
        """The messages to the client about a helper node's result, found out once."""
        job, helper = self.job, helper_of(self.job.graph.get(node))
        if node not in self._results:
            if helper is None:
                return Told(ui={})
            try:
                self._results[node] = await self.engine.helpers.told(
                    job.member, job.prompt_id, node, helper, rewriting, output, account=job.account
                )
            except HelperFailedError as error:
                raise NodeFailedError(failed(node, job.graph, error)) from error
        return self._results[node]

    def _redacted(self, value: T) -> T:
        return redact(value, *self.engine.secrets, *self._secrets)

    def failing(self, failure: Failure) -> list[EventReceived | SnapshotReceived]:
        """The run of a node that fails, and the end of the job with it."""
        node = failure.node_id
        live = reachable(self.job.graph, self.job.outputs_to_execute or None)
        error = {
            "node_id": node,
            "exception_type": failure.exception_type,
            "exception_message": f"{failure.message}\n",
            "traceback": [f"{failure.exception_type}: {failure.message}\n"],
            "current_inputs": failure.inputs,
            "current_outputs": [one for one in self.job.graph if one in live],
        }
        ended = Snapshot(self.job.prompt_id, "failed", settled=True, execution_error=error)
        running = EventReceived("executing", {"node": node, "display_node": node})
        return [running, SnapshotReceived(ended)]

    def is_distinct(self, image_type: str) -> bool:
        """Whether no client takes a preview for a result: with helper nodes a PNG is one."""
        return self.rewriting is None or image_type != "image/png"

    async def distinct(self, preview: Preview) -> Preview | None:
        """A preview that no client takes for a result; `None` for one that is left out."""
        if self.is_distinct(preview.image_type):
            return preview
        image = await asyncio.to_thread(jpeg, preview.image)
        return None if image is None else replace(preview, image=image, image_type="image/jpeg")
