"""What the stream and the readings of one job show of its nodes.

The stream has snapshots, about two a second: what runs between two of them is not seen, and is not
made up. A node's files are reported together, when another node runs or the job has ended.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from msgspec import Struct

from proxy.translate.frames import CloudPicture
from proxy.translate.snapshots import Snapshot
from proxy.translate.times import ms_of
from proxy.translate.v2.jobs import (
    STATUSES,
    OutputNodes,
    outputs_by_node,
    outputs_of,
    status_of,
)

#: Formats of previews that clients can show.
_PREVIEWS = frozenset({"image/jpeg", "image/png"})


class ObservedEvent(Struct, frozen=True):
    """An event in the form of ComfyUI."""

    type: str
    data: dict[str, Any]


Observation: TypeAlias = ObservedEvent | CloudPicture | Snapshot


@dataclass(slots=True)
class RunObserver:
    """One job, known to the deployment as `cloud_id`, that runs `graph`.

    `frame` takes what the stream says, `reading` what `GET /api/v2/jobs/{id}` says; both return
    what to pass on, in order. After a frame that `wants_reading` a reading must follow, or the note
    that there is none, before the next frame. `seen` is how often something was taken: a reading
    that began before the last time is behind it.
    """

    cloud_id: str
    graph: Mapping[str, Any]
    wants_reading: bool = False
    ended: bool = False
    seen: int = 0
    _started: bool = field(init=False, default=False)
    _starting: bool = field(init=False, default=False)
    _current: str | None = field(init=False, default=None)
    _done: float = field(init=False, default=0)
    _next: Mapping[str, Any] | None = field(init=False, default=None)
    _step: tuple[str, Any, Any] | None = field(init=False, default=None)
    _with_outputs: set[str] = field(init=False, default_factory=set)
    _told: set[str] = field(init=False, default_factory=set)
    _nodes: OutputNodes = field(init=False)

    def __post_init__(self) -> None:
        self._nodes = OutputNodes(self.graph)

    def frame(self, type_: str, data: Mapping[str, Any]) -> list[Observation]:
        """Take a frame of the stream. Unknown ones are ignored."""
        self.seen += 1
        match type_:
            case "status":
                return self._status(str(data.get("status")))
            case "progress":
                return self._progress(data)
            case "preview":
                return self._preview(data)
            case "output":
                if (node := self._nodes.of(data)) is not None:
                    self._with_outputs.add(node)
        return []

    def reading(
        self,
        job: Mapping[str, Any] | None,
        texts: Mapping[str, str] | None = None,
        *,
        began: int | None = None,
    ) -> list[Observation]:
        """Take a reading of the job, or note that there is none.

        `texts` are the contents of outputs that are texts, by their ids. `began` is what `seen` was
        when the reading began. One that is behind tells only of the end.
        """
        status = status_of(job or {})
        if began not in (None, self.seen) and status in ("pending", "in_progress"):
            return []
        self.seen += 1
        in_between, self.wants_reading = self.wants_reading, False
        found: list[Observation] = []
        at = ms_of((job or {}).get("started_at"))
        runs = job is not None and (status == "in_progress" or at is not None)
        if self._starting or (runs and not self._started):  # it is told before what its nodes show
            found.append(Snapshot(self.cloud_id, "in_progress", settled=False, start_time=at))
            self._started, self._starting = True, False
        if job is not None:
            self._with_outputs |= {
                node for output in outputs_of(job) if (node := self._nodes.of(output))
            }
        came_next, self._next = self._next, None
        progress = came_next
        if progress is None and job is not None and isinstance(job.get("progress"), Mapping):
            progress = job["progress"]
        running = None if progress is None else progress.get("current_node")
        if job is not None:
            succeeded = status == "completed"
            found += self._results(job, texts or {}, None if succeeded else running)
            if succeeded and not self.ended:
                self.ended = True
                found.append(self._all_finished())
        # The frames behind one that wanted a reading are older than what the reading shows.
        told_by_frames = in_between and came_next is None
        if progress is not None and status == "in_progress" and not told_by_frames:
            found += self._enter(progress)
        return found

    def _status(self, status: str) -> list[Observation]:
        known = STATUSES.get(status)
        if known == "in_progress" and not self._started:
            self._started = True
            self._starting = self.wants_reading = True  # for the time of the start
            return []
        if known in ("completed", "failed", "cancelled"):
            return [Snapshot(self.cloud_id, known, settled=False)]
        return []

    def _progress(self, progress: Mapping[str, Any]) -> list[Observation]:
        node = progress.get("current_node")
        is_node = isinstance(node, str)
        leaves = self._current is not None and is_node and node != self._current
        if leaves and self._with_outputs - self._told - {node}:
            self._next = progress
            self.wants_reading = True
            return []
        return self._enter(progress)

    def _enter(self, progress: Mapping[str, Any]) -> list[Observation]:
        """Tell which node runs, and how far it is, unless more nodes were done before."""
        node, done = progress.get("current_node"), progress.get("nodes_done")
        if not isinstance(node, str) or not node:
            return []
        if isinstance(done, int | float):
            if done < self._done:
                return []
            self._done = done
        found: list[Observation] = []
        if node != self._current:
            self._current = node
            found.append(self._event("executing", {"node": node}))
        step, steps = progress.get("step"), progress.get("steps")
        seen = (node, step, steps)
        if isinstance(step, int | float) and isinstance(steps, int | float) and seen != self._step:
            self._step = seen
            found.append(self._event("progress", {"node": node, "value": step, "max": steps}))
        return found

    def _results(
        self, job: Mapping[str, Any], texts: Mapping[str, str], running: object
    ) -> Iterator[Observation]:
        """Yield the outputs of nodes that are done: all of them after the end, else those of others
        than the one that runs, if one does."""
        ended = status_of(job) == "completed"
        if not ended and not isinstance(running, str):
            return
        unread = {
            self._nodes.of(output)
            for output in outputs_of(job)
            if output.get("type") == "text" and output["id"] not in texts
        }
        for node, output in outputs_by_node(job, self.graph, texts).items():
            if node not in self._told and node != running and (ended or node not in unread):
                self._told.add(node)
                yield self._event("executed", {"node": node, "output": output})

    def _all_finished(self) -> ObservedEvent:
        """Return the states of all nodes after a success."""
        states = {
            node: {
                "node_id": node,
                "real_node_id": node,
                "display_node_id": node,
                "state": "finished",
                "value": 1,
                "max": 1,
            }
            for node in self.graph
        }
        return self._event("progress_state", {"nodes": states})

    def _preview(self, preview: Mapping[str, Any]) -> list[Observation]:
        node, encoded = preview.get("node_id") or self._current, preview.get("data_base64")
        content_type = str(preview.get("content_type") or "image/jpeg")
        if not isinstance(node, str) or not isinstance(encoded, str):
            return []
        if content_type not in _PREVIEWS:
            return []
        try:
            image = b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return []
        if not image:
            return []
        return [CloudPicture(image, content_type, self.cloud_id, node)]

    def _event(self, type_: str, data: Mapping[str, Any]) -> ObservedEvent:
        return ObservedEvent(type_, {**data, "prompt_id": self.cloud_id})
