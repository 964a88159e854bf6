"""One run of a job: what happens in the engine becomes the cloud's events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.simulator import events, outputs
from proxy.simulator.account import SimulatedAccount
from proxy.simulator.events import NodeProgress
from proxy.simulator.execution import (
    Blocked,
    Cached,
    NodeDone,
    NodeFailed,
    NodeStarted,
    Step,
    StepPicture,
    StepProgress,
    StepText,
    execute,
)
from proxy.simulator.faults import Faults, JobFault
from proxy.simulator.jobs import SimulatedJob, now_ms
from proxy.simulator.nodes import NodeClasses
from proxy.simulator.sockets import EventSockets
from proxy.simulator.storage import Storage
from proxy.simulator.switches import Switches


@dataclass(frozen=True, slots=True)
class Bench:
    """What all accounts of one simulator share.

    `changed` is to be called when anything has changed that a test may wait for.
    """

    switches: Switches
    faults: Faults
    storage: Storage
    catalog: NodeClasses
    changed: Callable[[], None]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended. `kind` is `success`, `error` (with `error`), `broken` (a failure of the
    platform, with `error`) or `lost`.
    """

    kind: str
    error: dict[str, Any] | None = None


class _RetriedError(Exception):
    """The run is to begin again."""


class _EndedError(Exception):
    def __init__(self, outcome: RunOutcome) -> None:
        super().__init__(outcome.kind)
        self.outcome = outcome


class Run:
    """Runs one job and tells its events. Cancelling the task that performs it stops it."""

    def __init__(
        self,
        job: SimulatedJob,
        account: SimulatedAccount,
        event_sockets: EventSockets,
        bench: Bench,
    ) -> None:
        self._job = job
        self._account = account
        self._event_sockets = event_sockets
        self._bench = bench
        self._switches = bench.switches
        self._nodes: dict[str, NodeProgress] = {}
        self._picture: events.PreviewFrame | None = None

    async def perform(self) -> RunOutcome:
        """Run the job from its slot to the end of the execution."""
        if self._switches.capacity_wait:
            self._job.move("queued_waiting")
            await asyncio.sleep(self._switches.capacity_wait)
        self._job.move("preparing")
        await asyncio.sleep(self._switches.dispatch)
        fault = self._bench.faults.job()
        while True:
            try:
                return await self._attempt(fault)
            except _RetriedError:
                fault = None
                self._job.move("retryable_error")
                await asyncio.sleep(self._switches.settle)
            except _EndedError as ended:
                return ended.outcome

    def emit(self, message: events.Message) -> None:
        """Send to all sockets of the account."""
        self._event_sockets.broadcast(message)
        self._job.first_event.set()

    def tell(self, name: str, **data: Any) -> None:
        """Send an `execution_*` event and keep it for the history, there with its time."""
        job = self._job
        self.emit(events.execution(name, job.id, self._switches, **data))
        job.messages.append((name, {"prompt_id": job.id, **data, "timestamp": now_ms()}))

    async def _attempt(self, fault: JobFault | None) -> RunOutcome:
        job = self._job
        job.move("executing")
        job.started = now_ms()
        job.outputs.clear()
        job.messages.clear()
        job.executed.clear()
        self._nodes.clear()
        self._picture = None
        self._foreign()
        if self._switches.notifications:
            self.emit(events.CloudEvent("notification", {"value": "Executing workflow..."}))
        self.tell("execution_start")
        steps = execute(
            job.graph,
            job.output_nodes,
            catalog=self._bench.catalog,
            contents=outputs.JobContents(self._account, job, self._bench.storage, self._switches),
            extra_data=job.extra_data,
            pace=self._switches.pace,
            cache=self._account.cache if self._switches.cache_nodes else None,
        )
        seen = 0
        async with contextlib.aclosing(steps):
            async for step in steps:
                if fault is not None and seen >= fault.after:
                    await _suffer(fault)
                seen += 1
                if isinstance(step, NodeFailed):
                    return self._failed(step)
                self._happened(step)
        if fault is not None:
            await _suffer(fault)
        return RunOutcome("success")

    def _happened(self, step: Step) -> None:
        job = self._job
        if not isinstance(step, StepProgress):
            self._show_picture()
        match step:
            case Cached(nodes):
                if nodes or self._switches.cached_when_empty:
                    self.tell("execution_cached", nodes=nodes)
            case NodeStarted(node_id):
                self._progress_state(node_id, NodeProgress("running", 0.0, 1.0))
                self.emit(events.executing(job.id, node_id))
            case StepProgress(node_id, value, maximum):
                self._progress_state(node_id, NodeProgress("running", value, maximum))
                self._show_picture()
                self.emit(events.progress(job.id, node_id, value, maximum))
            case StepPicture(node_id, image, image_type):
                self._picture = events.PreviewFrame(job.id, node_id, image, image_type)
            case StepText(node_id, text):
                self.emit(events.TextFrame(job.id, node_id, text))
            case NodeDone(node_id, ui, cached):
                self._done(node_id, ui, cached=cached)
            case Blocked(node_id, node_type, message):
                self._blocked(node_id, node_type, message)

    def _show_picture(self) -> None:
        """Send a picture between the `progress_state` and the `progress` of its step."""
        if self._picture is not None:
            self.emit(self._picture)
            self._picture = None

    def _blocked(self, node_id: str, node_type: str, message: str) -> None:
        """Send an `execution_error` in the middle of a run, of which the history does not know."""
        error = {
            "node_id": node_id,
            "node_type": node_type,
            "exception_message": f"Execution Blocked: {message}",
            "exception_type": "ExecutionBlocked",
            "traceback": [],
            "current_inputs": {},
            "current_outputs": {},
        }
        data = events.error_data(error, self._job.executed, self._switches)
        self.emit(events.CloudEvent("execution_error", {"prompt_id": self._job.id, **data}))

    def _done(self, node_id: str, ui: dict[str, Any] | None, *, cached: bool) -> None:
        job = self._job
        if not cached:
            job.executed.append(node_id)
        if ui is None:
            if cached and self._switches.executed_null:
                self.emit(events.executed(job.id, node_id, None))
        else:
            job.finish_node(node_id, ui)
            shown = outputs.in_event(
                job.outputs[node_id], job, node_id, self._account.library, self._switches
            )
            self.emit(events.executed(job.id, node_id, shown))
        whole = self._nodes[node_id].max if node_id in self._nodes else 1
        self._progress_state(node_id, NodeProgress("finished", whole, whole))

    def _failed(self, failed: NodeFailed) -> RunOutcome:
        self._show_picture()
        return RunOutcome(
            "error",
            {
                "node_id": failed.node_id,
                "node_type": failed.node_type,
                "exception_message": failed.exception_message,
                "exception_type": failed.exception_type,
                "traceback": failed.traceback,
                "current_inputs": failed.current_inputs,
                "current_outputs": {node: [] for node in failed.current_outputs},
            },
        )

    def _progress_state(self, node_id: str, progress: NodeProgress) -> None:
        self._nodes[node_id] = progress
        if self._switches.progress_state != "none":
            job = self._job
            self.emit(events.progress_state(job.id, self._nodes, job.graph, self._switches))

    def _foreign(self) -> None:
        if not self._switches.foreign_messages:
            return
        task = {"task_id": self._job.id, "asset_name": "model.safetensors", "progress": 50}
        counts = {"bytes_total": 2, "bytes_downloaded": 1, "status": "running"}
        self._event_sockets.broadcast(events.CloudEvent("asset_download", {**task, **counts}))
        self._event_sockets.broadcast(
            events.CloudEvent("agent_message", {"text": "a message to another program"})
        )


async def _suffer(fault: JobFault) -> None:
    match fault.kind:
        case "retried":
            raise _RetriedError
        case "lost":
            raise _EndedError(RunOutcome("lost"))
        case "hang":
            await asyncio.Event().wait()
        case "service_error":
            raise _EndedError(
                RunOutcome("broken", platform_error("The inference service went away."))
            )


def platform_error(message: str) -> dict[str, Any]:
    """Return a failure that belongs to no node."""
    return {
        "node_id": None,
        "node_type": None,
        "exception_message": message,
        "exception_type": "ServiceError",
        "traceback": [],
        "current_inputs": {},
        "current_outputs": {},
    }
