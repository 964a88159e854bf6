"""The waiting jobs, and whose goes next: weighted fair turns among members.

Without I/O and without a clock.

Start-time fair queuing: each member has a virtual time at which its next job starts, and the
smallest one goes first. A job moves its member's start on by its cost divided by the member's
weight. A member that was away, or could not be served for a reason of its own, starts where
the others are: it gets neither credit nor debt for that time.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import TypeAlias

from proxy.jobs.models import FairBy, Job, JobKey, Number

#: How much the last job's running time counts in what a member's next one is taken to need.
_NEWEST = 0.3

#: Seconds that a job is taken to need while nothing is known. Also the least that one costs.
_UNKNOWN, _LEAST = 10.0, 0.01


class JobQueue:
    """The waiting jobs of all members: each member's by `number`, then as they were accepted."""

    def __init__(self) -> None:
        self._members: dict[str, list[tuple[Number, int, JobKey]]] = {}
        self._jobs: dict[JobKey, Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: Job) -> bool:
        return self._jobs.get(job.key) is job

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def add(self, job: Job) -> None:
        """Put a job where its number and its age belong."""
        self._jobs[job.key] = job
        insort(self._members.setdefault(job.member, []), _place(job))

    def remove(self, job: Job) -> None:
        """Take a job out, wherever it stands."""
        del self._jobs[job.key]
        places = self._members[job.member]
        del places[bisect_left(places, _place(job))]
        if not places:
            del self._members[job.member]

    def members(self) -> list[str]:
        """The members with waiting jobs."""
        return list(self._members)

    def in_order(self, member: str) -> Iterator[Job]:
        """The member's waiting jobs, the next one first."""
        return (self._jobs[key] for _, _, key in self._members.get(member, []))

    def of(self, member: str) -> list[Job]:
        """The member's waiting jobs in their order."""
        return list(self.in_order(member))

    def count(self, member: str) -> int:
        """How many jobs of the member wait."""
        return len(self._members.get(member, []))

    def orders(self, member: str) -> list[int]:
        """When the member's waiting jobs were accepted, in the order in which they will go."""
        return [order for _, order, _ in self._members.get(member, [])]


def _place(job: Job) -> tuple[Number, int, JobKey]:
    return job.number, job.order, job.key


#: A client: its member and its `client_id`.
Client: TypeAlias = tuple[str, str | None]


def busy_clients(taken: Iterable[Job]) -> set[Client]:
    """The clients that have a job on an account or on its way there."""
    return {(job.member, job.client_id) for job in taken}


def waits_for_client(job: Job, busy: set[Client]) -> bool:
    """Whether a job has to wait for another one of its client.

    It is not sent ahead either: the plan may turn out to run it at once.
    """
    return job.one_at_a_time and (job.member, job.client_id) in busy


# --- turns --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """A member that could be served now: its weight, and when its first job was accepted."""

    weight: float
    order: int


@dataclass(frozen=True, slots=True)
class MemberQueue:
    """A member's waiting jobs in their order, by when they were accepted.

    `blocked` is the reason why none of them may go, regardless of the turn.
    """

    weight: float
    orders: Sequence[int]
    blocked: str | None = None


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """Where a waiting job stands: `index` among its member's, `before` it this many of anyone.

    `reason` is what it waits for: `slot`, `turn`, `client` (an earlier job of its client, which
    follows one at a time), or what blocks its member.
    """

    member: str
    index: int
    before: int
    reason: str


class FairShare:
    """The virtual times of all members. `by` says what a job costs: 1, or its running seconds."""

    def __init__(self, by: FairBy = "jobs") -> None:
        self._by = by
        self._now = 0.0
        self._starts: dict[str, float] = {}
        self._typical: dict[str, float] = {}

    def choose(self, claims: Mapping[str, Claim]) -> str | None:
        """The member whose turn it is, `None` if there is no claim."""
        return min(
            claims,
            key=lambda member: (self._start(member), claims[member].order, member),
            default=None,
        )

    def take(self, member: str, weight: float) -> float:
        """A job of the member goes; the cost that it was charged."""
        cost = self._cost(member)
        self._now = max(self._now, self._start(member))
        self._starts[member] = self._start(member) + cost / weight
        return cost

    def give_back(self, member: str, weight: float, cost: float) -> None:
        """The job did not go after all."""
        if member in self._starts:
            self._starts[member] -= cost / weight

    def ended(self, member: str, weight: float, cost: float, seconds: float) -> None:
        """A job has run for so long; it had been charged `cost` before anybody knew."""
        if self._by == "jobs":
            return
        real = max(seconds, _LEAST)
        before = self._typical.get(member, real)
        self._typical[member] = before + _NEWEST * (real - before)
        self._starts[member] = self._starts.get(member, self._now) + (real - cost) / weight

    def places(self, queues: Mapping[str, MemberQueue]) -> list[QueuePosition]:
        """All waiting jobs in the order in which they will go, if nothing changes."""
        heap = [
            (self._start(member), queue.orders[0], member, 0)
            for member, queue in queues.items()
            if queue.orders
        ]
        heapq.heapify(heap)
        places: list[QueuePosition] = []
        while heap:
            start, _, member, index = heap[0]
            queue, before = queues[member], len(places)
            reason = queue.blocked or ("turn" if before else "slot")
            places.append(QueuePosition(member, index, before, reason))
            if index + 1 < len(queue.orders):
                onward = start + self._cost(member) / queue.weight
                heapq.heapreplace(heap, (onward, queue.orders[index + 1], member, index + 1))
            else:
                heapq.heappop(heap)
        return places

    def before(self, queues: Mapping[str, MemberQueue], member: str) -> int:
        """How many jobs of others go before the member's last one; without counting them all."""
        mine = queues[member]
        at, order = self._starts_of(member, mine)[-1], mine.orders[-1]
        count = 0
        for other, queue in queues.items():
            if other != member:
                starts = self._starts_of(other, queue)
                first = bisect_left(starts, at)
                tied = first < len(starts) and starts[first] == at
                count += first + (tied and queue.orders[first] < order)
        return count

    @property
    def now(self) -> float:
        """The virtual time."""
        return self._now

    def state_of(self, member: str, unused: float = 0.0) -> tuple[float | None, float | None]:
        """What must be kept of a member: its start, and what its jobs cost, as far as is known.

        `unused` is what turns have cost that are not to be kept as taken, divided by the weight.
        """
        start = self._starts.get(member)
        return None if start is None else start - unused, self._typical.get(member)

    def restore(
        self, now: float, starts: Mapping[str, float], typical: Mapping[str, float]
    ) -> None:
        """Continue where `now` and `state_of` of all members were taken."""
        self._now, self._starts, self._typical = now, dict(starts), dict(typical)

    def _start(self, member: str) -> float:
        return max(self._now, self._starts.get(member, 0.0))

    def _starts_of(self, member: str, queue: MemberQueue) -> list[float]:
        """When each of the member's waiting jobs starts."""
        step = self._cost(member) / queue.weight
        return list(accumulate(repeat(step, len(queue.orders) - 1), initial=self._start(member)))

    def _cost(self, member: str) -> float:
        if self._by == "jobs":
            return 1.0
        known = self._typical.values()
        usual = sum(known) / len(known) if known else _UNKNOWN
        return max(self._typical.get(member, usual), _LEAST)
