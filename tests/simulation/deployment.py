"""A model of a deployment of Comfy, with own nodes: what the proxy may rely on, and nothing else.

It takes each `Idempotency-Key` once, starts workers for jobs, tells events to the stream of each
job, and keeps outputs for a while. `Weather` decides what it refuses, loses, repeats, forgets and
tells late. `contract/cloud-v2.md` is what it follows.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simulation.cloud import CLASSES, UNLISTED, CloudJob, node_class
from simulation.deployment_files import Answered, DeploymentFiles, refused, time_of
from simulation.event_stream import EventStream

from proxy.translate.v2.submissions import LABEL

if TYPE_CHECKING:
    from simulation.plan import DeploymentPlan
    from simulation.world import World

#: Its host.
DEPLOYMENT_HOST = "studio.test"

#: The class that Comfy Cloud lacks, the output node whose result is a text, and the one that reads
#: a file.
OWN_CLASS, TEXT_CLASS, LOADER = "Frame", "PreviewAny", "LoadLatent"
OBJECT_INFO = json.dumps(
    {
        **CLASSES,
        OWN_CLASS: {**CLASSES["Filter"], "name": OWN_CLASS},
        TEXT_CLASS: {**CLASSES["SaveImage"], "name": TEXT_CLASS},
        LOADER: node_class(LOADER, {"latent": [[], {}]}, ["IMAGE"]),
    }
).encode()

#: Seconds that a worker without a job goes on, and those within which one starts.
_IDLE, _START = 30.0, (0.5, 20.0)

#: Seconds for which a job may be `expired` before it has succeeded.
_EXPIRED_EARLY = (0.005, 0.06)


@dataclass(eq=False)
class DeploymentJob(CloudJob):
    """A job of a deployment: `outputs` is a list here. Its `label` may be forgotten."""

    status: str = "queued"
    label: str | None = None
    made: list[dict[str, Any]] = field(default_factory=list)
    progress: dict[str, Any] | None = None
    preview: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    expired_until: float = 0.0

    @property
    def saved(self) -> set[str]:
        """The nodes that have saved files, as far as they are told."""
        return {output["node_id"] for output in self.made if output["type"] != "text"} - {""}

    def outcomes(self, *, has_engine_changed: bool) -> Collection[str]:
        """Return as what it may end for its client, who may ask for the end of one that has
        expired. Another engine does not know who has asked."""
        if self.status == "expired" and (has_engine_changed or not self.cancelled):
            return ["failed", "cancelled"]
        if self.status == UNLISTED:
            return ["succeeded" if self.made else "failed"]
        return ["cancelled" if self.status in ("canceled", "expired") else self.status]

    @property
    def live(self) -> bool:
        """Whether it waits or runs."""
        return self.status in ("queued", "running", "canceling")


class DeploymentModel:
    """One deployment: its jobs by their ids, in the order in which they came."""

    def __init__(
        self, world: World, plan: DeploymentPlan, *, seconds: float, previews: bool
    ) -> None:
        self._world, self._plan = world, plan
        self._weather, self._loop = world.weather, world.loop
        self._seconds = seconds
        self._previews = previews
        self._name = DEPLOYMENT_HOST.partition(".")[0]
        self.jobs: dict[str, DeploymentJob] = {}
        self.sockets: list[EventStream] = []
        self.most_live = 0
        self._keys: set[str] = set()
        self.files = DeploymentFiles(world)
        self._running = 0
        self._starting = False
        self._warm_until = 0.0

    # --- requests --------------------------------------------------------------------------

    def handle(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: bytes,
        headers: Mapping[str, str],
    ) -> Answered:
        """Return the answer of a request."""
        parts = path.strip("/").split("/")[2:]
        if method == "GET" and parts[:1] == ["jobs"] and self._weather.chance("rate_limited"):
            return self._later("rate_limited")
        match [method, *parts]:
            case ["POST", "jobs"]:
                return self._submit(json.loads(body), headers)
            case ["GET", "jobs"]:
                return self._list(query)
            case ["GET", "jobs", id_]:
                return self._read(id_)
            case ["GET", "jobs", id_, "events"]:
                return self._open_stream(id_)
            case ["POST", "jobs", id_, "cancel"]:
                return self._cancel(id_)
            case ["POST", "assets"]:
                return self.files.uploaded()
            case ["POST", "assets", "from-hash"]:
                return self.files.by_hash()
            case ["GET", "assets", id_]:
                return self.files.find(id_)
            case ["GET", "assets", id_, "content"]:
                return self.files.content(id_)
        return refused(404, "not_found")

    def _later(self, code: str) -> Answered:
        """Return a 429, which says when to come again, but for a full queue."""
        waits = code != "queue_full" or self._weather.draw(0.0, 1.0) < 0.5
        return refused(429, code, self._weather.draw(1.0, 6.0) if waits else None)

    def _submit(self, body: dict[str, Any], headers: Mapping[str, str]) -> Answered:
        answer = self._submitted(body, headers)
        if answer[0] >= 400:
            self._world.note("cloud", "", "refuses", answer[1]["error"]["code"])
        return answer

    def _submitted(self, body: dict[str, Any], headers: Mapping[str, str]) -> Answered:
        weather, key = self._weather, headers["Idempotency-Key"]
        if weather.lasts("deployment_stopped"):
            return refused(422, "deployment_stopped")
        if weather.lasts("deployment_starting") or weather.chance("not_ready"):
            return self._later("deployment_not_ready")
        if weather.chance("no_credits") or weather.no_credits():
            return refused(402, "insufficient_credits")
        if key in self._keys:
            return refused(422, "idempotency_key_reuse")
        if weather.lasts("deployment_full") or weather.chance("queue_full"):
            return self._later("queue_full")
        if "metadata" in body and self._plan.labels == "refused":
            return refused(422, "metadata_not_supported")
        if set(body.get("extra_data", {})) - {"api_key_comfy_org"}:
            return refused(400, "invalid_request")
        if not self.files.has_all(body["workflow"]):
            return refused(422, "missing_asset")
        self._keys.add(key)
        if weather.chance("key_held"):  # it does not know itself what has become of the job
            return refused(500, "upstream_error")
        world, now = self._world, self._loop.time()
        late = weather.draw(0.0, 2.0) if weather.chance("unlisted") else 0.0
        job = DeploymentJob(
            f"{self._name}-{len(self.jobs) + 1}",
            world.marks[key],
            body["workflow"],
            body.get("extra_data", {}),
            world.true_ms(),
            known_at=now + late,
            listed_at=now + late,
        )
        job.is_found = self._plan.labels == "kept"
        if job.is_found:
            job.label = body.get("metadata", {}).get(LABEL)
            if job.label is not None and world.marks[job.label] != job.mark:
                world.problems.append(("submitted_twice", f"{job.mark} has another one's label"))
        self.jobs[job.id] = job
        self.most_live = max(self.most_live, sum(map(self._counts, self.jobs.values())))
        world.took(job.mark)
        world.note("cloud", job.mark, "submitted", job.id)
        self._loop.in_world(weather.draw(0.02, 0.3), self._start_waiting)
        return 201, self._shown(job), {}

    def _counts(self, job: DeploymentJob) -> bool:
        """Whether a job takes a slot. One whose answer got lost and that nobody can find has none
        (`docs/own-nodes.md`)."""
        return job.counts and job.is_found

    def _list(self, query: dict[str, str]) -> Answered:
        """Return the newest jobs, or those with a label unless those are forgotten."""
        if self._plan.labels == "refused":
            return refused(403, "public_deployment_no_list")
        wanted = query.get(f"metadata[{LABEL}]") if self._plan.labels == "kept" else None
        found = [
            {
                "id": job.id,
                "status": job.status,
                "metadata": {LABEL: job.label} if job.label else {},
            }
            for job in reversed(self.jobs.values())
            if not job.forgotten
            and job.listed_at <= self._loop.time()
            and wanted in (None, job.label)
        ]
        return 200, {"jobs": found[: int(query["limit"])]}, {}

    def _find(self, id_: str) -> DeploymentJob | None:
        job = self.jobs.get(id_)
        known = job is not None and not job.forgotten and job.known_at <= self._loop.time()
        return job if known else None

    def _read(self, id_: str) -> Answered:
        job = self._find(id_)
        return refused(404, "job_not_found") if job is None else (200, self._shown(job), {})

    def _shown(self, job: DeploymentJob) -> dict[str, Any]:
        early = self._loop.time() < job.expired_until
        shown: dict[str, Any] = {
            "id": job.id,
            "status": "expired" if early else job.status,
            "created_at": time_of(job.created),
            "outputs": job.made[:],
            "progress": job.progress if self._plan.polls_progress and job.live else None,
            "error": job.error,
            "release_version": 1,
        }
        if self._plan.tells_times:
            shown |= {"started_at": time_of(job.started), "completed_at": time_of(job.ended)}
        return shown

    def _cancel(self, id_: str) -> Answered:
        job = self._find(id_)
        if job is None:
            return refused(404, "job_not_found")
        if job.live and not job.cancelled:
            job.cancelled = True
            self._world.note("cloud", job.mark, "cancel", job.id)
            if job.status == "queued":
                expires = self._weather.chance("cancelled_expires")
                self._end(job, "expired" if expires else "canceled")
            else:
                self._move(job, "canceling")
        return 200, self._shown(job), {}

    # --- runs ------------------------------------------------------------------------------

    def _start_waiting(self) -> None:
        for job in self.jobs.values():
            if self._running >= self._plan.workers or self._starting:
                return
            if job.status != "queued" or job.forgotten:
                continue
            if self._plan.is_cold and not self._running and self._loop.time() > self._warm_until:
                self._starting = True
                self._loop.in_world(self._weather.draw(*_START), self._worker_started)
                return
            self._running += 1
            job.started = self._world.true_ms()
            self._move(job, "running")
            self._world.note("cloud", job.mark, "runs", job.id)
            self._next_node(job, iter(enumerate(job.graph)))

    def _worker_started(self) -> None:
        self._starting = False
        self._warm_until = self._loop.time() + _IDLE
        self._start_waiting()

    def _next_node(self, job: DeploymentJob, nodes: Iterator[tuple[int, str]]) -> None:
        weather = self._weather
        if (following := next(nodes, None)) is None:
            if not job.cancelled and self._world.must_end(job):
                self._loop.in_world(1.0, self._next_node, job, nodes)
                return
            if weather.chance("expired_early"):
                job.expired_until = self._loop.time() + weather.draw(*_EXPIRED_EARLY)
            self._end(job, "succeeded")
        elif job.cancelled:
            self._end(job, "canceled")
        elif weather.chance("job_expired"):
            self._end(job, "expired")
        elif weather.chance("worker_lost"):
            unlisted = self._plan.tells_times and weather.chance("unlisted_end")
            self._end(job, UNLISTED if unlisted else "failed")
        elif weather.chance("job_failed"):
            node = following[1]
            job.error = {"code": "node_execution_error", "message": "it failed", "node_id": node}
            self._end(job, "failed")
        elif weather.chance("job_forgotten"):
            job.forgotten = True
            self._world.note("cloud", job.mark, "forgotten", job.id)
            self._finished()
        else:
            self._run_node(job, *following, nodes)

    def _run_node(self, job: DeploymentJob, done: int, node: str, nodes: Any) -> None:
        weather = self._weather
        self._world.note("cloud", job.mark, "node", node)
        before, total = job.progress, len(job.graph)
        job.progress = {
            "value": done / total,
            "nodes_done": done,
            "nodes_total": total,
            "current_node": node,
            "step": 1,
            "steps": 2,
        }
        if weather.draw(0.0, 1.0) < 0.7:  # a quick node is not seen
            self._tell(job, "progress", job.progress)
            if before is not None and weather.chance("progress_back"):
                self._tell(job, "progress", before)
            if self._previews:
                picture = b64encode(b"\x89PNG" + job.mark.encode()).decode()
                job.preview = {"node_id": node, "content_type": "image/png"}
                job.preview["data_base64"] = picture
                self._tell(job, "preview", job.preview)
        seconds = weather.draw(0.0, 2 * self._seconds) / total
        self._loop.in_world(seconds, self._node_done, job, node, nodes)

    def _node_done(self, job: DeploymentJob, node: str, nodes: Any) -> None:
        class_type = job.graph[node]["class_type"]
        if class_type in ("SaveImage", TEXT_CLASS):
            output = self.files.keep(job, node, is_text=class_type == TEXT_CLASS)
            output["node_id"] = node if self._plan.names_nodes else ""
            job.made.append(output)
            if not self._weather.chance("event_lost"):  # it comes after the end, or before
                late = self._weather.draw(0.0, 1.0)
                self._loop.in_world(late, self._tell, job, "output", output)
        self._next_node(job, nodes)

    def _end(self, job: DeploymentJob, status: str) -> None:
        ran = job.status != "queued"
        job.ended = self._world.true_ms()
        self._world.note("cloud", job.mark, status, job.id)
        self._move(job, status)
        for stream in self._streams(job):
            stream.end()
        if ran:
            self._finished()

    def _move(self, job: DeploymentJob, status: str) -> None:
        job.status = status
        self._tell(job, "status", {"status": status})

    def _finished(self) -> None:
        self._running -= 1
        self._warm_until = self._loop.time() + _IDLE
        self._loop.in_world(self._weather.draw(0.01, 0.2), self._start_waiting)

    # --- streams ---------------------------------------------------------------------------

    def _open_stream(self, id_: str) -> Answered:
        """Open a stream, which begins with what is known; nothing is told again."""
        job = self._find(id_)
        if not self._plan.streams:
            return refused(501, "not_implemented")
        if job is None:
            return refused(404, "job_not_found")
        if self._weather.chance("too_many_streams"):
            return self._later("too_many_streams")
        stream = EventStream(self._world, DEPLOYMENT_HOST, id_)
        self.sockets.append(stream)
        stream.tell("status", {"status": job.status})
        for type_, data in (("progress", job.progress), ("preview", job.preview)):
            if data is not None:
                stream.tell(type_, data)
        if not job.live:
            stream.end()
        return 200, stream, {"Content-Type": "text/event-stream"}

    def _streams(self, job: DeploymentJob) -> list[EventStream]:
        return [stream for stream in self.sockets if stream.job == job.id]

    def _tell(self, job: DeploymentJob, type_: str, data: dict[str, Any]) -> None:
        for stream in self._streams(job):
            stream.tell(type_, data)
