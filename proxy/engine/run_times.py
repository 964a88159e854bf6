"""How long nodes took in earlier runs: learned from each job that succeeds, kept in the storage."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import structlog

from proxy.clock import now
from proxy.engine.progress import Expected, expected
from proxy.storage.database import StorageError
from proxy.storage.run_times import JOB, RunTimeRepository, RunTimeRow, job_name
from proxy.translate import codec
from proxy.translate.graph_shape import class_of, shape_of
from proxy.translate.jobs import reachable

log = structlog.get_logger(__name__)

#: The shapes, classes and kinds of jobs that are remembered, those that ran last, and the slowest
#: nodes of a shape.
MAX_SHAPES, MAX_CLASSES, MAX_JOBS, MAX_SLOWEST = 200, 1000, 2000, 200

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
        self._changed: set[tuple[str, str]] = set()
        self._news = asyncio.Event()

    async def load(self) -> None:
        """Read what earlier engines have learned. Raises `StorageError`."""
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
                self._changed.add((row.kind, row.name))  # nothing is kept of it: it is deleted

    def expected(self, graph: Mapping[str, Any], outputs: Collection[str]) -> Expected:
        """Return how long the nodes run that `outputs` need, or all nodes without `outputs`."""
        needed = reachable(graph, outputs or None)
        classes = {node: class_of(graph[node]) for node in graph if node in needed}
        return expected(classes, self._shapes.get(shape_of(graph) or ""), self._classes)

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
                self._changed.add((_CLASS, class_))
        if shape:
            self._shapes[shape] = nodes
            self._changed.add((_SHAPE, shape))
            for name in (job_name(shape, member), job_name(shape)):
                _mix(self._jobs, name, ms)
                self._changed.add((JOB, name))
        self._news.set()

    async def run(self) -> None:
        """Write what is new, until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(_GATHER)
            try:
                await self.write()
            except StorageError as error:
                log.warning("run_times_save_failed", error=str(error))
                await asyncio.sleep(_AGAIN)

    async def close(self) -> None:
        """Write what is new, if that is possible."""
        try:
            await self.write()
        except StorageError as error:
            log.warning("run_times_save_failed", error=str(error))

    async def write(self) -> None:
        """Write what is new, and forget what ran longest ago. Raises `StorageError`; then it is
        new still."""
        self._trim()
        changed, at = self._changed, now()
        self._changed = set()
        self._news.clear()
        if not changed:
            return
        kept: Mapping[str, Mapping[str, object]]
        kept = {_SHAPE: self._shapes, _CLASS: self._classes, JOB: self._jobs}
        rows, forgotten = [], []
        for kind, name in sorted(changed):
            if name in kept[kind]:
                rows.append(RunTimeRow(kind, name, codec.dump_bytes(kept[kind][name]), at))
            else:
                forgotten.append((kind, name))
        try:
            await self._repository.put(rows, forgotten=forgotten)
        except StorageError:
            self._changed |= changed
            self._news.set()
            raise

    def _trim(self) -> None:
        """Keep what ran last, and of each shape the slowest nodes."""
        for kind, kept, count in (
            (_SHAPE, self._shapes, MAX_SHAPES),
            (_CLASS, self._classes, MAX_CLASSES),
            (JOB, self._jobs, MAX_JOBS),
        ):
            while len(kept) > count:
                oldest = next(iter(kept))
                del kept[oldest]
                self._changed.add((kind, oldest))
        for _, shape in filter(lambda change: change[0] == _SHAPE, self._changed):
            nodes = self._shapes.get(shape, {})
            for node in sorted(nodes, key=lambda node: nodes[node])[:-MAX_SLOWEST]:
                del nodes[node]


def _mix(kept: dict[str, float], key: str, newest: int) -> None:
    """Take the newest time of something, which is the last one of those that are kept now."""
    before = kept.pop(key, float(newest))
    kept[key] = before + _NEWEST * (newest - before)
