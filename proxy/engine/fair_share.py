"""Whose turn it is: the waiting jobs of all members, and what their turns cost.

Decides without I/O and without a clock.

Members have weighted fair turns (start-time fair queuing): each has a virtual time at which its
next job starts, and the smallest one goes first. A job moves its member's start on by its cost
divided by the member's weight. A member that was away, or could not be served for a reason of its
own, starts where the others are: it gets neither credit nor debt for that time. So do accounts that
can all take a job.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from itertools import accumulate, repeat

from msgspec import Struct

from proxy.engine.live_job import LiveJob, SlotState
from proxy.jobs.models import FairBy
from proxy.storage.job_tables import JobKey, Number
from proxy.storage.shares import Share

#: The weight of the last job's running time in the estimate of the member's next one.
_NEWEST = 0.3

#: Estimated seconds of a job while nothing is known. Also the minimum that one costs.
_UNKNOWN, _LEAST = 10.0, 0.01


class JobQueue:
    """The waiting jobs of all members: each member's by `number`, then as they were accepted."""

    def __init__(self) -> None:
        self._members: dict[str, list[LiveJob]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, job: LiveJob) -> bool:
        return job.slot is SlotState.WAITING

    def add(self, job: LiveJob) -> None:
        """Insert a job by its number and its age."""
        job.slot = SlotState.WAITING
        self._count += 1
        insort(self._members.setdefault(job.member, []), job, key=_queue_position)

    def remove(self, job: LiveJob) -> None:
        """Remove a job."""
        job.slot = SlotState.NONE
        self._count -= 1
        waiting = self._members[job.member]
        del waiting[bisect_left(waiting, _queue_position(job), key=_queue_position)]
        if not waiting:
            del self._members[job.member]

    def members(self) -> list[str]:
        """Return the members with waiting jobs."""
        return list(self._members)

    def of(self, member: str) -> Sequence[LiveJob]:
        """Return the member's waiting jobs in their order, until that changes."""
        return self._members.get(member, ())


def _queue_position(job: LiveJob) -> tuple[Number, int, JobKey]:
    return job.number, job.order, job.key


class MemberQueue(Struct, frozen=True):
    """A member's waiting jobs in their order; `blocked` is the reason why none of them may go,
    regardless of the turn."""

    weight: float
    jobs: Sequence[LiveJob]
    blocked: str | None = None


class QueuePosition(Struct, frozen=True):
    """Where a waiting job stands: `before` it this many of anyone.

    `reason` is what it waits for: `slot`, `turn`, `client` (an earlier job of its client, which
    follows one at a time), or what blocks its member.
    """

    job: LiveJob
    before: int
    reason: str


class FairShare:
    """The virtual times of all members. `by` says what a job costs: 1, or its running seconds."""

    def __init__(self, by: FairBy = "jobs") -> None:
        self.by = by
        #: The virtual time.
        self.now = 0.0
        self._starts: dict[str, float] = {}
        self._typical: dict[str, float] = {}

    def choose(self, orders: Mapping[str, int]) -> str | None:
        """Return the member whose turn it is among those that could be served now, `None` for none;
        of equal ones the first in the `orders`."""
        return min(
            orders, key=lambda member: (self._start(member), orders[member], member), default=None
        )

    def charge(self, member: str, weight: float) -> float:
        """Note that a job of the member is sent, and return the cost that it is charged."""
        cost = self._cost(member)
        self.now = self._start(member)
        self._starts[member] = self.now + cost / weight
        return cost

    def give_back(self, member: str, weight: float, cost: float) -> None:
        """Take back what a job was charged that was not sent after all."""
        if member in self._starts:
            self._starts[member] -= cost / weight

    def ended(self, member: str, weight: float, cost: float, seconds: float) -> None:
        """Charge a job for its running time in seconds, where that is what a job costs; it had been
        charged `cost` before that was known."""
        real = max(seconds, _LEAST)
        before = self._typical.get(member, real)
        self._typical[member] = before + _NEWEST * (real - before)
        self._starts[member] = self._starts.get(member, self.now) + (real - cost) / weight

    def positions(self, queues: Mapping[str, MemberQueue]) -> list[QueuePosition]:
        """Return all waiting jobs in the order in which they will go, if nothing changes."""
        heap = [
            (self._start(member), queue.jobs[0].order, member, 0)
            for member, queue in queues.items()
        ]
        heapq.heapify(heap)
        positions: list[QueuePosition] = []
        while heap:
            start, _, member, index = heap[0]
            queue, before = queues[member], len(positions)
            reason = queue.blocked or ("turn" if before else "slot")
            positions.append(QueuePosition(queue.jobs[index], before, reason))
            if index + 1 < len(queue.jobs):
                onward = start + self._cost(member) / queue.weight
                heapq.heapreplace(heap, (onward, queue.jobs[index + 1].order, member, index + 1))
            else:
                heapq.heappop(heap)
        return positions

    def before(self, queues: Mapping[str, MemberQueue], member: str) -> int:
        """Return how many jobs of others go before the member's last one; without counting them
        all."""
        mine = queues[member]
        at, order = self._starts_of(member, mine)[-1], mine.jobs[-1].order
        count = 0
        for other, queue in queues.items():
            if other != member:
                starts = self._starts_of(other, queue)
                first = bisect_left(starts, at)
                tied = first < len(starts) and starts[first] == at
                count += first + (tied and queue.jobs[first].order < order)
        return count

    def state_of(self, member: str, unused: float = 0.0) -> Share:
        """Return what must be kept of a member, as far as it is known.

        `unused` is what turns have cost that are not to be kept as taken, divided by the weight.
        """
        start = self._starts.get(member)
        return Share(None if start is None else start - unused, self._typical.get(member))

    def restore(self, now: float, kept: Mapping[str, Share]) -> None:
        """Continue where `now` and `state_of` of all members were taken."""
        self.now = now
        self._starts = {
            name: share.start for name, share in kept.items() if share.start is not None
        }
        self._typical = {name: share.typical for name, share in kept.items() if share.typical}

    def _start(self, member: str) -> float:
        return max(self.now, self._starts.get(member, 0.0))

    def _starts_of(self, member: str, queue: MemberQueue) -> list[float]:
        """Return when each of the member's waiting jobs starts."""
        step = self._cost(member) / queue.weight
        return list(accumulate(repeat(step, len(queue.jobs) - 1), initial=self._start(member)))

    def _cost(self, member: str) -> float:
        if self.by == "jobs":
            return 1.0
        known = self._typical.values()
        usual = sum(known) / len(known) if known else _UNKNOWN
        return max(self._typical.get(member, usual), _LEAST)
