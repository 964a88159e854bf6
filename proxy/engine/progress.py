"""How far a job is, by how long its nodes took before, and how long it will still run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from msgspec import Struct

#: The maximum share of a node without steps that counts as done by its time alone.
_MAX_BY_TIME = 0.95

#: The minimum weight of a node, in ms.
_LEAST = 1.0


class Expected(Struct, frozen=True):
    """How long the nodes of a job run (ms), as far as earlier runs tell.

    `measured` says that a graph of the same shape has run before.
    """

    times: Mapping[str, float]
    measured: bool = False


def expected(
    classes: Mapping[str, str],
    by_shape: Mapping[str, float] | None,
    by_class: Mapping[str, float],
) -> Expected:
    """Return how long each node of `classes` (their classes by id) is expected to run.

    A node is expected to run as long as in earlier runs of the same shape, or else as other nodes
    of its class, or else as the median of the others. Without any times all are equal.
    """
    shape = by_shape or {}
    times = {node: shape.get(node, by_class.get(class_)) for node, class_ in classes.items()}
    known = [time for time in times.values() if time is not None]
    usual = median(known) if known else _LEAST
    return Expected(
        {node: max(_LEAST, usual if time is None else time) for node, time in times.items()},
        by_shape is not None,
    )


@dataclass(slots=True)
class RunProgress:
    """How far a job is. `share` is from 0 to 1 and never goes back; `remaining` is in ms, `None`
    where no graph of the same shape has run before."""

    expected: Expected
    share: float = 0.0
    remaining: float | None = None

    def advance(
        self,
        done: Mapping[str, float],
        spared: Collection[str] = (),
        running: Iterable[tuple[str, float]] = (),
    ) -> None:
        """Take how far each node is, from 0 to 1.

        Nodes that are `spared` need not run. `running` has nodes with the ms since they began: one
        that reports no steps is as far as its time says, and one that does is expected to go on as
        it has so far, the more of it is done.
        """
        by_time = dict(running)
        whole = finished = 0.0
        for node, time in self.expected.times.items():
            if node in spared:
                continue
            share = min(1.0, max(0.0, done.get(node, 0.0)))
            if node in by_time:
                elapsed = max(0.0, by_time[node])
                if share == 0.0:
                    share = min(_MAX_BY_TIME, elapsed / time)
                else:
                    trust = min(1.0, 2 * share)
                    time = max(_LEAST, time * (1 - trust) + trust * elapsed / share)
            whole += time
            finished += share * time
        share = finished / whole if whole else 0.0
        self.share = max(self.share, min(1.0, share))
        if self.expected.measured:
            self.remaining = max(0.0, whole - finished)
