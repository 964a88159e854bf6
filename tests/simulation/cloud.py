"""A model of Comfy Cloud: what the proxy may rely on, and nothing else.

It takes jobs, runs as many at once as its plan has slots, tells events to the sockets of the
account, and answers the routes that the proxy calls. `Weather` decides what it loses, repeats,
exchanges, forgets and tells late. `contract/cloud-api.md` is what it follows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proxy.costs.credits import CREDITS_PER_USD

if TYPE_CHECKING:
    from simulation.network import CloudSocket
    from simulation.world import World

#: A status that no document lists; `contract/local-api-0.46.md` 8 has it as a proposal.
UNLISTED = "partial_success"
#: The price of the partner node, in credits.
PRICE = 20.0


def node_class(
    name: str, inputs: dict[str, Any], outputs: list[str], **more: Any
) -> dict[str, Any]:
    """Return a class as `GET /object_info` has it."""
    return {
        "input": {"required": inputs},
        "input_order": {"required": list(inputs)},
        "output": outputs,
        "output_is_list": [False] * len(outputs),
        "output_name": outputs,
        "name": name,
        "display_name": name,
        "description": "",
        "category": "",
        "output_node": not outputs,
        **more,
    }


_SEED = {"seed": ["INT", {"default": 0, "min": 0, "max": 2**32}]}
CLASSES = {
    "Paint": node_class("Paint", _SEED, ["IMAGE"]),
    "Filter": node_class("Filter", {"image": ["IMAGE"]}, ["IMAGE"]),
    "SaveImage": node_class(
        "SaveImage", {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "C"}]}, []
    ),
    "PartnerImage": node_class(
        "PartnerImage",
        _SEED,
        ["IMAGE"],
        api_node=True,
        price_badge={
            "engine": "jsonata",
            "depends_on": {"widgets": [], "inputs": [], "input_groups": []},
            "expr": json.dumps({"type": "usd", "usd": PRICE / float(CREDITS_PER_USD)}),
        },
    ),
}
_OBJECT_INFO = json.dumps(CLASSES).encode()

#: The answer to a call with a key that is not valid.
KEY_REFUSED = (401, {"code": "UNAUTHORIZED", "message": "the key is not valid"})


def picture(mark: str, node: str = "") -> bytes:
    """Return a picture that shows of which job and node it is."""
    return b"\x89PNG" + f"{mark}/{node}".encode()


@dataclass(eq=False)
class CloudJob:
    """A job of the cloud; `mark` tells which of ours it is."""

    id: str
    mark: str
    graph: dict[str, Any]
    extra_data: dict[str, Any]
    created: int
    status: str = "pending"
    started: int | None = None
    ended: int | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    outputs_at: float = 0.0
    listed_at: float = 0.0
    known_at: float = 0.0
    forgotten: bool = False
    #: Whether it is found by its mark.
    is_found: bool = True
    cancelled: bool = False
    #: The nodes that have run to their ends.
    ran: set[str] = field(default_factory=set)

    @property
    def counts(self) -> bool:
        """Whether it takes a slot: one that was cancelled ends in a moment."""
        return self.live and not self.forgotten and not self.cancelled

    @property
    def saved(self) -> set[str]:
        """The nodes that have saved files, as far as they are told."""
        return set(self.outputs)

    def outcomes(self, *, has_engine_changed: bool) -> Collection[str]:
        """Return as what it may end for its client."""
        del has_engine_changed
        if self.status == UNLISTED:
            return ["succeeded" if self.saved else "failed"]
        return ["succeeded" if self.status == "completed" else self.status]

    @property
    def live(self) -> bool:
        """Whether it waits or runs."""
        return self.status in ("pending", "in_progress")


class CloudModel:
    """One account: its jobs by their ids, in the order in which they came."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        slots: int,
        seconds: float,
        previews: bool,
        strangers: int = 0,
        ids: str = "",
    ) -> None:
        self._world = world
        #: What becomes of a second job with the same id, if ids are honoured.
        self._ids = ids
        self._previews = previews
        #: Jobs of others on the account: so many have ended, and one more comes now and then.
        self._strangers = [self._stranger(number, -1000 * number) for number in range(strangers)]
        if strangers:
            world.loop.in_world(world.weather.draw(0.0, 10.0), self._run_stranger)
        self._name = name
        self._weather = world.weather
        self._loop = world.loop
        self.slots = slots
        self._seconds = seconds
        self.jobs: dict[str, CloudJob] = {}
        self.sockets: list[CloudSocket] = []
        self.most_live = 0
        self._running = 0

    # --- requests --------------------------------------------------------------------------

    def handle(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: bytes,
        _headers: Mapping[str, str],
    ) -> tuple[int, Any, dict[str, str]]:
        """Return the status, the answer and the headers of a request."""
        return (*self._answer(method, path, query, body), {})

    def _answer(
        self, method: str, path: str, query: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, Any] | list[Any] | bytes]:
        parts = path.strip("/").split("/")[1:]
        match [method, *parts]:
            case ["POST", "prompt"]:
                return self._submit(json.loads(body))
            case ["GET", "jobs"]:
                return 200, self._list({} if self._weather.chance("filter_ignored") else query)
            case ["GET", "jobs", id_]:
                return self._detail(id_)
            case ["POST", "jobs", id_, "cancel"]:
                return self._cancel(id_)
            case ["GET", "view"]:
                return self._view(query["filename"])
            case ["GET", "object_info"]:
                return 200, _OBJECT_INFO
            case ["GET", "experiment", "models"]:
                return 200, []
            case ["GET", "features"]:
                return 200, {"max_concurrent_jobs": self.slots}
            case ["GET", "user" | "queue" | "system_stats" | "node_replacements"]:
                return 200, {}
        return 404, {"code": "NOT_FOUND", "message": "no such route"}

    def _submit(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self._weather.chance("key_refused"):
            return KEY_REFUSED
        if self._weather.chance("no_credits") or self._weather.no_credits():
            return 402, {"code": "INSUFFICIENT_CREDITS", "message": "no credits"}
        if self._weather.chance("throttled"):
            return 429, {"code": "RATE_LIMITED", "message": "too many requests"}
        world = self._world
        wanted = body.get("prompt_id") if self._ids else None
        if wanted in self.jobs:  # it is another answer to the same submission
            if self._ids == "refused":
                return 400, {"code": "INVALID_REQUEST", "message": "the prompt_id is in use"}
            return 200, {"prompt_id": wanted, "number": len(self.jobs), "node_errors": {}}
        job = CloudJob(
            wanted or f"{self._name}-{len(self.jobs) + 1}",
            str(body["extra_data"].get("comfy_cloud_proxy")),
            body["prompt"],
            body["extra_data"],
            world.true_ms(),
        )
        now = self._loop.time()
        late = self._weather.draw(0.0, 2.0) if self._weather.chance("unlisted") else 0.0
        job.known_at = job.listed_at = now + late
        self.jobs[job.id] = job
        self.most_live = max(self.most_live, sum(each.counts for each in self.jobs.values()))
        world.took(job.mark)
        world.note("cloud", job.mark, "submitted", job.id)
        self._loop.in_world(self._weather.draw(0.02, 0.3), self._start_waiting)
        told = job.id
        if self._weather.chance("id_repeated"):
            # Of one that was answered: nobody could tell of an id whose own answer got lost.
            told = next(filter(self._world.is_recorded, self.jobs), job.id)
        return 200, {"prompt_id": told, "number": len(self.jobs), "node_errors": {}}

    def _list(self, query: dict[str, str]) -> dict[str, Any]:
        wanted = [status for status in query.get("status", "").split(",") if status]
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 100))
        now = self._loop.time()
        found = [
            self._entry(job)
            for job in self._newest_first()
            if not job.forgotten
            and job.listed_at <= now
            and (not wanted or job.status in wanted or self._weather.chance("stale_list"))
        ]
        page = found[offset : offset + limit]
        more = len(found) > offset + limit
        return {"jobs": page, "pagination": {"has_more": more, "total": len(found)}}

    def _newest_first(self) -> list[CloudJob]:
        jobs = list(reversed(self.jobs.values()))
        if self._strangers:
            jobs = sorted((*jobs, *self._strangers), key=lambda job: -job.created)
        return jobs

    def _stranger(self, number: int, ago: int) -> CloudJob:
        """Return a job that somebody else has sent to the account, and that has ended."""
        at = self._world.true_ms() + ago
        id_ = f"{self._world.weather.draw(0, 1):.9f}-stranger-{number}"
        return CloudJob(id_, "", {}, {}, at, "completed", at, at)

    def _run_stranger(self) -> None:
        """Run a job of somebody else, which takes no slot of ours here; another one follows. What
        is told of it is not lost: without that nobody could know of a picture whose it is."""
        if self._weather.healed:
            return
        job = self._stranger(len(self._strangers), 0)
        job.status, job.ended = "in_progress", None
        self._strangers.append(job)
        for type_, data in (("execution_start", {}), ("executing", {"node": "1"})):
            message = json.dumps({"type": type_, "data": {"prompt_id": job.id, **data}})
            for socket in list(self.sockets):
                socket.receive(message, 0.0)
        for socket in list(self.sockets):
            socket.receive(self._preview(job, "1"), 0.0)
        self._loop.in_world(self._weather.draw(0.1, 6.0), self._end_stranger, job)
        self._loop.in_world(self._weather.draw(1.0, 15.0), self._run_stranger)

    def _end_stranger(self, job: CloudJob) -> None:
        job.status, job.ended = "completed", self._world.true_ms()
        self._tell(job, "execution_success")

    def _entry(self, job: CloudJob) -> dict[str, Any]:
        entry: dict[str, Any] = {"id": job.id, "status": job.status, "create_time": job.created}
        if job.started is not None:
            entry["execution_start_time"] = job.started
        if not job.live:
            entry["execution_end_time"] = job.ended
            if self._loop.time() >= job.outputs_at:
                entry["outputs_count"] = len(job.outputs)
        return entry

    def _detail(self, id_: str) -> tuple[int, dict[str, Any]]:
        job = self.jobs.get(id_) or next((job for job in self._strangers if job.id == id_), None)
        if job is None or job.forgotten or job.known_at > self._loop.time():
            return 404, {"code": "NOT_FOUND", "message": "no such job"}
        detail = self._entry(job)
        detail["workflow"] = {"prompt": job.graph, "extra_data": job.extra_data}
        if not job.live and self._loop.time() >= job.outputs_at:
            detail["outputs"] = job.outputs
            detail["execution_status"] = {"messages": []}
            if job.status == "failed":
                detail["execution_error"] = {
                    "exception_message": "it failed",
                    "exception_type": "RuntimeError",
                    "node_id": next(iter(job.graph)),
                }
        return 200, detail

    def _view(self, name: str) -> tuple[int, dict[str, Any] | bytes]:
        id_, _, node = name.removesuffix(".png").rpartition("-")
        job = self.jobs.get(id_)
        if job is None or job.forgotten:
            return 404, {"code": "NOT_FOUND", "message": "no such file"}
        return 200, picture(job.mark, node)

    def _cancel(self, id_: str) -> tuple[int, dict[str, Any]]:
        job = self.jobs.get(id_)
        if job is None or job.forgotten or job.known_at > self._loop.time():
            return 404, {"code": "NOT_FOUND", "message": "no such job"}
        if not job.live or job.cancelled:
            return 200, {"cancelled": False}
        job.cancelled = True
        self._world.note("cloud", job.mark, "cancel", job.id)
        if job.status == "pending":
            self._end(job, "cancelled")
        return 200, {"cancelled": True}

    # --- runs ------------------------------------------------------------------------------

    def _start_waiting(self) -> None:
        for job in self.jobs.values():
            if self._running >= self.slots:
                return
            if job.status == "pending" and not job.forgotten:
                self._running += 1
                job.status, job.started = "in_progress", self._world.true_ms()
                self._world.note("cloud", job.mark, "runs", job.id)
                self._tell(job, "execution_start")
                self._tell(job, "execution_cached", nodes=[])
                self._next_node(job, iter(list(job.graph)))

    def _next_node(self, job: CloudJob, nodes: Any) -> None:
        if job.cancelled:
            self._end(job, "cancelled")
            return
        node = next(nodes, None)
        if node is None and self._world.must_end(job):
            self._loop.in_world(1.0, self._next_node, job, nodes)
            return
        if node is None:
            self._end(job, "completed")
            return
        if self._weather.chance("job_failed"):
            if self._weather.chance("unlisted_end"):
                self._tell(job, "execution_node_error", node_id=node, exception_message="it failed")
                self._end(job, UNLISTED)
                return
            self._end(job, "failed", node)
            return
        if self._weather.chance("job_forgotten"):
            job.forgotten = True
            self._world.note("cloud", job.mark, "forgotten", job.id)
            self._finished(job)
            return
        self._world.note("cloud", job.mark, "node", node)
        is_heard = not self._weather.chance("node_unheard")
        if is_heard:
            self._tell(job, "executing", node=node, display_node=node)
        if self._weather.draw(0.0, 1.0) < 0.5:
            if is_heard:
                self._tell(job, "progress", node=node, value=1, max=2)
            if self._previews:
                self._show(job, node)
        seconds = self._weather.draw(0.0, 2 * self._seconds) / len(job.graph)
        self._loop.in_world(seconds, self._node_done, job, node, nodes)

    def _node_done(self, job: CloudJob, node: str, nodes: Any) -> None:
        job.ran.add(node)
        if job.graph[node]["class_type"] == "SaveImage" and not job.cancelled:
            names = [f"{job.id}-{node}.{number}.png" for number in range(1 + int(node) % 2)]
            files = [{"filename": name, "subfolder": "", "type": "output"} for name in names]
            job.outputs[node] = {"images": files}
            self._tell(job, "executed", node=node, display_node=node, output=job.outputs[node])
        self._next_node(job, nodes)

    def _end(self, job: CloudJob, status: str, node: str | None = None) -> None:
        was_running = job.status == "in_progress"
        job.status, job.ended = status, self._world.true_ms()
        late = self._weather.draw(0.0, 4.0) if self._weather.chance("late_outputs") else 0.0
        job.outputs_at = self._loop.time() + late
        self._world.note("cloud", job.mark, status, job.id)
        match status:
            case "completed":
                self._tell(job, "execution_success")
            case status if status == UNLISTED:
                self._tell(job, f"execution_{status}")
            case "cancelled":
                self._tell(job, "execution_interrupted")
            case _:
                error = {"exception_message": "it failed", "exception_type": "RuntimeError"}
                self._tell(job, "execution_error", node_id=node, **error)
        if was_running:
            self._finished(job)

    def _finished(self, _job: CloudJob) -> None:
        self._running -= 1
        self._loop.in_world(self._weather.draw(0.01, 0.2), self._start_waiting)

    def _tell(self, job: CloudJob, type_: str, **data: Any) -> None:
        message = json.dumps({"type": type_, "data": {"prompt_id": job.id, **data}})
        for socket in list(self.sockets):
            self._send(socket, message)

    def _show(self, job: CloudJob, node: str) -> None:
        frame = self._preview(job, node)
        for socket in list(self.sockets):
            self._send(socket, frame)

    def _preview(self, job: CloudJob, node: str) -> bytes:
        """Return a preview (binary types 1 and 4, `contract/websocket.md`), which shows its job."""
        shown = picture(job.mark, node)
        if self._weather.chance("preview_unnamed"):
            return b"".join(((1).to_bytes(4, "big"), (2).to_bytes(4, "big"), shown))
        about = json.dumps({"prompt_id": job.id, "node_id": node, "image_type": "image/png"})
        length = len(about).to_bytes(4, "big")
        return b"".join(((4).to_bytes(4, "big"), length, about.encode(), shown))

    def _send(self, socket: CloudSocket, message: str | bytes) -> None:
        weather = self._weather
        if weather.chance("socket_closed"):
            socket.lose()
            return
        if weather.chance("event_lost"):
            return
        for _ in range(2 if weather.chance("event_repeated") else 1):
            late = weather.draw(0.0, 1.0) if weather.chance("event_reordered") else 0.0
            socket.receive(message, late)
