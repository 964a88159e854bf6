"""The workers of a simulated deployment: they run jobs and tell what streams show."""

from __future__ import annotations

import asyncio
import contextlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from proxy.simulator import media
from proxy.simulator.deployment.state import (
    DeploymentAsset,
    DeploymentJob,
    DeploymentSwitches,
    references,
    resolved,
)
from proxy.simulator.execution import (
    Cached,
    NodeDone,
    NodeFailed,
    NodeStarted,
    Step,
    StepPicture,
    StepProgress,
    execute,
)
from proxy.simulator.jobs import items_of
from proxy.simulator.node_cache import NodeCache
from proxy.simulator.nodes import NodeClasses
from proxy.simulator.storage import Storage
from proxy.simulator.validation import validate

_TYPES = {"image": "image", "video": "video", "audio": "audio"}


@dataclass(frozen=True, slots=True)
class WorkerContents:
    """The disk of a worker: the inputs of one job, and the files that its nodes write."""

    inputs: Mapping[str, bytes]
    keep: Callable[[str, str, bytes, str], dict[str, Any]]

    def load(self, name: str) -> bytes:
        """Return the bytes of an input. Raises `KeyError`."""
        return self.inputs[name]

    def save(
        self,
        data: bytes,
        *,
        extension: str,
        prefix: str,
        type: str,  # noqa: A002
        node_id: str,
    ) -> dict[str, Any]:
        """Keep an output under the name that the worker gives it, which counts from 1 each time."""
        stem = prefix.replace("\\", "/").rpartition("/")[2]
        return self.keep(node_id, f"{stem}_00001_{extension}", data, type)


@dataclass(eq=False)
class DeploymentWorkers:
    """Runs the jobs in the order in which they came, `switches.workers` at a time."""

    catalog: NodeClasses
    storage: Storage
    switches: DeploymentSwitches
    changed: Callable[[], None]
    jobs: dict[str, DeploymentJob] = field(default_factory=dict)
    assets: dict[str, DeploymentAsset] = field(default_factory=dict)
    waiting: list[DeploymentJob] = field(default_factory=list)
    running: set[DeploymentJob] = field(default_factory=set)
    #: How many jobs have taken a worker, which costs money.
    billed: int = 0

    def put(self, job: DeploymentJob) -> None:
        """Take a job."""
        self.jobs[job.id] = job
        self.waiting.append(job)
        self.fill()

    def fill(self) -> None:
        """Let jobs run that have a worker."""
        while self.waiting and len(self.running) < self.switches.workers:
            job = self.waiting.pop(0)
            self.running.add(job)
            job.task = asyncio.create_task(self._work(job))
        self.changed()

    def position(self, job: DeploymentJob) -> int | None:
        """Return the place of a job in the queue, from 1."""
        return self.waiting.index(job) + 1 if job in self.waiting else None

    def cancel(self, job: DeploymentJob) -> None:
        """End a job: one that waits at once, one that runs at its next step."""
        if job in self.waiting:
            self.waiting.remove(job)
            job.move("canceled")
            self.changed()
        elif not job.ended and job.status != "canceling" and job.task is not None:
            job.move("canceling")
            job.task.cancel()

    def crash(self, job: DeploymentJob, status: str = "failed") -> None:
        """End a job without a word of why, as when its worker is killed or it runs for too long."""
        if job.task is not None:
            job.task.cancel()
        job.move(status)
        self.changed()

    async def stop(self) -> None:
        """End all jobs."""
        tasks = [job.task for job in self.running if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, job: DeploymentJob) -> None:
        self.billed += 1
        try:
            job.move("running")
            self.changed()
            await self._run(job)
        except asyncio.CancelledError:
            if not job.ended:
                job.move("canceled")
        finally:
            self.running.discard(job)
            self.fill()

    async def _run(self, job: DeploymentJob) -> None:
        used = {info["id"]: self.assets[info["id"]] for info in references(job.graph)}
        names = {id_: asset.file_path for id_, asset in used.items()}
        inputs = {asset.file_path: self.storage.get(asset.stored) for asset in used.values()}
        graph = resolved(job.graph, names)
        found = validate(graph, catalog=self.catalog, targets=None, files=inputs.__contains__)
        if found.error is not None:
            job.error = {
                "code": "prompt_validation_failed",
                "message": str(found.error["message"]),
                "node_id": next(iter(found.node_errors), None),
            }
            job.move("failed")
            return

        def keep(node_id: str, name: str, data: bytes, type_: str) -> dict[str, Any]:
            return self._output(job, node_id, name, data, type_)

        steps = execute(
            graph,
            found.outputs,
            catalog=self.catalog,
            contents=WorkerContents(inputs, keep),
            extra_data=job.extra_data,
            pace=self.switches.pace,
            cache=NodeCache(),
        )
        async with contextlib.aclosing(steps):
            async for step in steps:
                if isinstance(step, NodeFailed):
                    self._failed(job, step)
                    return
                self._happened(job, step)
        job.progress = None
        job.move("succeeded")
        self.changed()

    def _happened(self, job: DeploymentJob, step: Step) -> None:
        match step:
            case Cached():
                pass
            case NodeStarted(node_id):
                self._progress(job, node_id, None, None)
            case StepProgress(node_id, value, maximum):
                self._progress(job, node_id, value, maximum)
            case StepPicture(node_id, image, image_type):
                job.preview = {
                    "node_id": node_id,
                    "content_type": image_type,
                    "data_base64": b64encode(image).decode(),
                }
                job.notify()
            case NodeDone(node_id, ui):
                job.done.add(node_id)
                for text in (ui or {}).get("text", []):
                    if isinstance(text, str):
                        self._output(job, node_id, "text.txt", text.encode(), "output")
                self._place(job, ui or {}, node_id)
        self.changed()

    def _progress(
        self, job: DeploymentJob, node_id: str, step: float | None, steps: float | None
    ) -> None:
        total = len(job.graph)
        job.progress = {
            "value": len(job.done) / total,
            "nodes_done": len(job.done),
            "nodes_total": total,
            "current_node": node_id,
            "current_node_class": job.graph.get(node_id, {}).get("class_type"),
            "step": step,
            "steps": steps,
        }
        job.notify()

    def _output(
        self, job: DeploymentJob, node_id: str, name: str, data: bytes, type_: str
    ) -> dict[str, Any]:
        """Store a file and list it as an output."""
        media_type = media.media_type(name.rpartition(".")[2])
        digest = blake3(data).hexdigest()
        stored = f"{digest}-{name.rpartition('/')[2]}"
        self.storage.put(stored, data, media_type)
        asset = DeploymentAsset(stored, digest, len(data), media_type, name, job_id=job.id)
        self.assets[asset.id] = asset
        kind = "text" if name == "text.txt" else _TYPES.get(media_type.partition("/")[0], "file")
        shown = asset.shown(str(self.storage.sign(stored)))
        job.outputs.append(
            {
                **{key: shown[key] for key in ("id", "hash", "size_bytes", "content_type")},
                **{key: shown[key] for key in ("url", "url_expires_at", "job_id")},
                "node_id": node_id if self.switches.names_nodes else "",
                "name": name,
                "type": "latent" if name.endswith(".latent") else kind,
            }
        )
        job.notify()
        return {"filename": asset.id, "subfolder": "", "type": type_}

    def _place(self, job: DeploymentJob, ui: dict[str, Any], node_id: str) -> None:
        """Order the outputs of a node as it shows them."""
        order = [item["filename"] for _, _, item in items_of(ui)]
        own = [output for output in job.outputs if output["node_id"] == node_id]
        own.sort(key=lambda output: order.index(output["id"]) if output["id"] in order else -1)
        others = [output for output in job.outputs if output["node_id"] != node_id]
        job.outputs[:] = [*others, *own]

    def _failed(self, job: DeploymentJob, failed: NodeFailed) -> None:
        job.error = {
            "code": "node_execution_error",
            "message": failed.exception_message,
            "node_id": failed.node_id,
            "class_type": failed.node_type,
            "traceback": "".join(failed.traceback)
            + f"{failed.exception_type}: {failed.exception_message}\n"
            if self.switches.tracebacks
            else None,
        }
        job.progress = None
        job.move("failed")
        self.changed()
