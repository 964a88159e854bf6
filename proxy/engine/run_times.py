"""How long nodes took in earlier runs: learned from each job that succeeds, kept in the storage."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from statistics import median_low
from typing import Any

import msgspec
import structlog

from proxy.engine.progress import Expected, expected
from proxy.runtime.clock import now
from proxy.storage.leases import Batch
from proxy.storage.run_times import JOB, RunTimeRepository, RunTimeRow, job_name
from proxy.storage.write_behind import WriteBehind
from proxy.translate import codec
from proxy.translate.graph_shape import class_of, shape_of
from proxy.translate.jobs import reachable

log = structlog.get_logger(__name__)

#: The shapes, classes and kinds of jobs that are remembered, those that ran last, and the slowest
#: nodes of a shape.
MAX_SHAPES, MAX_CLASSES, MAX_JOBS, MAX_SLOWEST = 200, 1000, 2000, 200

#: How many members must have run a shape for others to be expected to run it as long.
MIN_MEMBERS = 2

#: The part of the newest time in what is expected.
_NEWEST = 0.3

#: Longer ids of nodes are not remembered.
_MAX_ID = 100

#: Seconds in which what is new is gathered, and before it is written again if that fails.
_GATHER, _AGAIN = 2.0, 60.0

_SHAPE, _CLASS = "shape", "class"


class RunTimes:
    """The times of nodes (ms) by the shape of their graph and by their class, and those of jobs by
    their shape and member."""

    def __init__(self, repository: RunTimeRepository) -> None:
        self._repository = repository
        self._shapes: dict[str, dict[str, float]] = {}
        self._classes: dict[str, float] = {}
        self._jobs: dict[str, float] = {}
        #: By kind and name; what is written is what is known then.
        self.unwritten = WriteBehind[tuple[str, str], None](
            "run times", self._write, gather=_GATHER, again=_AGAIN
        )

    async def load(self) -> None:
        """Read what earlier terms have learned. Raises `StorageError`."""
        for row in await self._repository.load():
            value = codec.loads(row.value)
            try:
                match row.kind:
                    case "shape":
                        self._shapes[row.name] = msgspec.convert(value, dict[str, float])
                    case "class":
                        self._classes[row.name] = msgspec.convert(value, float)
                    case "job":
                        self._jobs[row.name] = msgspec.convert(value, float)
            except msgspec.ValidationError as error:
                log.warning("run_time_rejected", name=row.name, error=str(error))
                self._change(row.kind, row.name)  # nothing is kept of it: it is deleted

    def expected(self, graph: Mapping[str, Any], outputs: Collection[str]) -> Expected:
        """Return how long the nodes run that `outputs` need, or all nodes without `outputs`."""
        needed = reachable(graph, outputs or None)
        classes = {node: class_of(graph[node]) for node in graph if node in needed}
        return expected(classes, self._shapes.get(shape_of(graph) or ""), self._classes)

    def typical(self, member: str, shape: str | None) -> float | None:
        """Return how long a member's jobs of a shape run, or else the median of several members
        (ms); `None` if that is not known."""
        if shape is None:
            return None
        return self._jobs.get(job_name(shape, member), self._jobs.get(job_name(shape)))

    def learn(
        self, graph: Mapping[str, Any], times: Mapping[str, tuple[int, int]], member: str, ms: int
    ) -> None:
        """Take the times (ms) of a job of a member that has succeeded: when each node began, how
        long it ran, and how long the whole job ran."""
        shape = shape_of(graph) or ""
        nodes = self._shapes.pop(shape, {})
        for node, (_, took) in times.items():
            if node in graph and len(node) <= _MAX_ID:
                class_ = class_of(graph[node])
                _mix(nodes, node, took)
                _mix(self._classes, class_, took)
                self._change(_CLASS, class_)
        if shape:
            self._shapes[shape] = nodes
            self._change(_SHAPE, shape)
            _mix(self._jobs, job_name(shape, member), ms)
            self._change(JOB, job_name(shape, member))
            self._learn_for_all(shape)
        self._trim(shape)

    def _learn_for_all(self, shape: str) -> None:
        """Expect of members who have not run a shape the median of those who have, the lower one of
        two, if they are several: one of them alone cannot make it longer for others."""
        all_ = job_name(shape)
        before = self._jobs.pop(all_, None)
        times = [time for name, time in self._jobs.items() if name.startswith(all_)]
        if len(times) >= MIN_MEMBERS:
            self._jobs[all_] = median_low(times)
        if before is not None or all_ in self._jobs:
            self._change(JOB, all_)

    def _change(self, kind: str, name: str) -> None:
        self.unwritten.add((kind, name), None)

    async def _write(self, changed: Collection[tuple[str, str]], _: Batch) -> None:
        """Write what is known of what has changed, and delete what is not known any more. Raises
        `StorageError`."""
        kept: Mapping[str, Mapping[str, object]]
        kept = {_SHAPE: self._shapes, _CLASS: self._classes, JOB: self._jobs}
        rows, forgotten, at = [], [], now()
        for kind, name in sorted(changed):
            if name in kept[kind]:
                rows.append(RunTimeRow(kind, name, codec.dump_bytes(kept[kind][name]), at))
            else:
                forgotten.append((kind, name))
        await self._repository.put(rows, forgotten=forgotten)

    def _trim(self, shape: str) -> None:
        """Keep what ran last, and of a shape that has just run the slowest nodes."""
        for kind, kept, count in (
            (_SHAPE, self._shapes, MAX_SHAPES),
            (_CLASS, self._classes, MAX_CLASSES),
            (JOB, self._jobs, MAX_JOBS),
        ):
            while len(kept) > count:
                oldest = next(iter(kept))
                del kept[oldest]
                self._change(kind, oldest)
        nodes = self._shapes.get(shape, {})
        for node in sorted(nodes, key=lambda node: nodes[node])[:-MAX_SLOWEST]:
            del nodes[node]


def _mix(kept: dict[str, float], key: str, newest: int) -> None:
    """Take the newest time of something, which is the last one of those that are kept now."""
    before = kept.pop(key, float(newest))
    kept[key] = before + _NEWEST * (newest - before)
