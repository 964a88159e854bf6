"""Converts what the cloud reports of a job into the member's terms.

That is its names of files, the nodes of the graph that it has sent, and no secrets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from proxy.engine.tracker import (
    EventReceived,
    GiveUp,
    Input,
    SnapshotReceived,
)
from proxy.jobs.models import Job
from proxy.translate.codec import redact
from proxy.translate.jobs import reachable
from proxy.translate.output_files import OutputNode
from proxy.translate.packs import Failure, JobView
from proxy.translate.snapshots import Snapshot

if TYPE_CHECKING:
    from proxy.files.service import Files
    from proxy.translate.packs import NodePacks

T = TypeVar("T")


class Secrets:
    """The keys of all accounts, former ones too, which no message and no record may show."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.values = tuple(keys)

    def add(self, key: str) -> None:
        """Hide one more key."""
        self.values = (key, *self.values)


@dataclass(eq=False, repr=False)
class Localiser:
    """Makes what is told of one job local. The `view` knows the nodes that the client has sent,
    `None` where the cloud runs these.

    No message and no record shows the `secrets` of the accounts or of the job, whatever a node
    makes of them.
    """

    job: Job
    files: Files
    packs: NodePacks
    secrets: Secrets

    def __post_init__(self) -> None:
        own = self.job.loaded.credentials.values()
        self._own_secrets = [value for value in own if isinstance(value, str)]
        rewriting = self.job.loaded.rewriting
        self.view = None if rewriting is None else self.packs.view(self.job, rewriting)

    async def localised(self, what: Input) -> Input:
        """Replace the cloud's names, and the account's key wherever a node shows it.

        Raises `NodeFailedError` and `StorageError`.
        """
        match what:
            case EventReceived(type="executed", data=data):
                output = await self._local_output(str(data.get("node")), data.get("output"))
                return EventReceived("executed", {**data, "output": output})
            case EventReceived(type="execution_error", data=data):
                return EventReceived("execution_error", await self._shown(dict(data)))
            case EventReceived(type="execution_cached", data=data) if self.view is not None:
                nodes = await self.view.cached(data["nodes"])
                return EventReceived("execution_cached", {**data, "nodes": nodes})
            case SnapshotReceived(snapshot=snapshot):
                outputs = dict(snapshot.outputs or {})
                for node, output in outputs.items():
                    outputs[node] = await self._local_output(node, output)
                local = replace(snapshot, outputs=None if snapshot.outputs is None else outputs)
                if snapshot.status != "completed":  # nothing else is shown of a success
                    error = await self._shown(snapshot.execution_error)
                    status = await self._shown(snapshot.execution_status)
                    local = replace(local, execution_error=error, execution_status=status)
                return SnapshotReceived(local, what.detail)
        return what

    async def _shown(self, value: T) -> T:
        """Return what a failure shows, without secrets and without the cloud's names."""
        job, value = self.job, self._redacted(value)
        shown: T = await self.files.reveal(job.member, value, job.prompt_id)
        return shown

    async def _local_output(self, node: str, output: object) -> object:
        """Return the output of a node with our names of files, or a pack's messages about it."""
        if not isinstance(output, dict):
            return output
        job, view = self.job, self.view
        messages = None if view is None else await view.result(node, output, account=job.account)
        if messages is not None:
            return messages
        in_graph = job.loaded.cloud_graph.get(node)
        made_by = OutputNode(job.member, job.prompt_id, node, in_graph, job.account)
        return self._redacted(await self.files.outputs.localise(made_by, output))

    def _redacted(self, value: T) -> T:
        return redact(value, *self.secrets.values, *self._own_secrets)

    def failing(self, failure: Failure) -> list[EventReceived | SnapshotReceived]:
        """Return the run of a node that fails, and with it the end of the job."""
        node = failure.node_id
        live = reachable(self.job.graph, self.job.outputs_to_execute or None)
        error = {
            "node_id": node,
            "exception_type": failure.exception_type,
            "exception_message": f"{failure.message}\n",
            "traceback": [f"{failure.exception_type}: {failure.message}\n"],
            "current_inputs": failure.inputs,
            "current_outputs": [node for node in self.job.graph if node in live],
        }
        ended = Snapshot(self.job.prompt_id, "failed", settled=True, execution_error=error)
        running = EventReceived("executing", {"node": node, "display_node": node})
        return [running, SnapshotReceived(ended)]


def of_member(view: JobView, what: Input) -> Iterable[Input]:
    """Return what happened in terms of the graph that the member has sent."""
    match what:
        case EventReceived(type=type_, data=data):
            return [EventReceived(*event) for event in view.event(type_, data)]
        case SnapshotReceived(snapshot=snapshot):
            return [SnapshotReceived(view.snapshot(snapshot), what.detail)]
        case GiveUp():
            return [what]
    frame = view.frame(what)
    return [] if frame is None else [frame]
