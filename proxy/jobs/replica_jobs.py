"""What clients of one of several replicas read of jobs that have not ended.

The bus feeds what this replica knows of them. Where it may have lost something, they are read from
the storage.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from cachetools import FIFOCache

from proxy import clock
from proxy.budget import MemoryBudget
from proxy.bus import EventBus
from proxy.jobs.models import JobProgress, is_shown
from proxy.jobs.views import LiveJobs, MemberJobs
from proxy.storage.database import StorageError
from proxy.storage.job_tables import JobKey, StoredJob
from proxy.storage.jobs import JobRepository
from proxy.supervisor import Supervisor

#: Of how many jobs that have ended the end is remembered.
_MAX_ENDED = 2000

#: Seconds for which the jobs without an answer are not read again.
_UNANSWERED_AGE = 0.3


class ReplicaJobs(LiveJobs):
    """The live jobs of all members, as the `bus` tells them and the storage has them."""

    def __init__(
        self,
        repository: JobRepository,
        budget: MemoryBudget,
        bus: EventBus,
        supervisor: Supervisor,
    ) -> None:
        super().__init__(repository, budget)
        self.bus = bus
        self._supervisor = supervisor
        self._doubted = False
        #: The orders of the jobs that have left the queue during each reading under way.
        self._readings: list[set[int]] = []
        #: The orders of those that have left last for good, as the storage says.
        self._ended: FIFOCache[int, None] = FIFOCache(_MAX_ENDED)
        #: The jobs without an answer, by their orders.
        self._unanswered: dict[int, StoredJob] = {}
        self._reading_unanswered: asyncio.Task[StorageError | None] | None = None
        self._unanswered_at = -math.inf

    @property
    def certain(self) -> bool:
        """Whether the bus has reported all that there is to know of live jobs."""
        return self.bus.whole and not self._doubted

    def doubt(self) -> None:
        """Read from the storage until `trust`, because bus messages were lost."""
        self._doubted = True

    def trust(self) -> None:
        """Rely on the bus again, once what was lost has been read."""
        self._doubted = False

    async def now(self, member: str) -> MemberJobs:
        """Return the jobs of a member as they are now. Raises `StorageError`."""
        if not await self.bus.catch_up() or self._doubted:
            await self.reload(member)
        return self._members[member]

    async def picture(self, member: str) -> tuple[MemberJobs, list[StoredJob]]:
        """Return the jobs of a member as they are now, and those without an answer beside them.

        Those without an answer are read first: one that gets its answer between the two readings
        is in both, and not in neither. Raises `StorageError`.
        """
        with self._reading() as left:
            unanswered = await self._read_or_kept_unanswered()
            live = await self.now(member)
        return live, [
            job
            for job in unanswered.values()
            if job.member == member and job.prompt_id not in live.jobs and job.order not in left
        ]

    async def _read_or_kept_unanswered(self) -> Mapping[int, StoredJob]:
        """Return the jobs whose replica may have died before it answered, by their orders. Raises
        `StorageError`.

        A reading that is under way may have missed a job since: those who ask meanwhile share the
        next one.
        """
        oldest = clock.monotonic() - (_UNANSWERED_AGE if self.certain else 0.0)
        while self._unanswered_at < oldest:
            if self._reading_unanswered is None:
                self._reading_unanswered = self._supervisor.spawn(
                    self._read_unanswered(clock.monotonic()), "read unanswered jobs"
                )
            error = await asyncio.shield(self._reading_unanswered)
            if error is not None:
                raise error
        return self._unanswered

    async def _read_unanswered(self, began: float) -> StorageError | None:
        """Read the unanswered jobs for all waiting requests; returns the error if that fails."""
        try:
            with self._reading() as left:
                rows = await self.repository.unanswered()
            self._unanswered = {row.order: row for row in rows if row.order not in left}
            self._unanswered_at = began
            return None
        except StorageError as error:
            return error
        finally:
            self._reading_unanswered = None

    def remove(self, key: JobKey, order: int) -> None:
        """Remove a job from the queue."""
        super().remove(key, order)
        self._unanswered.pop(order, None)
        for left in self._readings:
            left.add(order)

    def end(self, key: JobKey, order: int) -> None:
        """Remove a job that the storage has no more: it does not come back."""
        self._ended[order] = None
        self.remove(key, order)

    def has_ended(self, order: int) -> bool:
        """Return whether a job has left the storage a short time ago."""
        return order in self._ended

    @contextmanager
    def _reading(self) -> Iterator[set[int]]:
        """Yield the orders of the jobs that leave the queue during the block: what is read may
        still have them."""
        left: set[int] = set()
        self._readings.append(left)
        try:
            yield left
        finally:
            # By identity: two readings during which the same jobs have left are equal.
            self._readings = [reading for reading in self._readings if reading is not left]

    async def reload(self, member: str | None = None) -> tuple[set[int], list[StoredJob]]:
        """Read the jobs of a member or of all, where the bus may have lost something: the orders of
        those that live, and the jobs that do no more. Raises `StorageError`.
        """
        before = [job for job in self if member in (None, job.member)]
        unanswered = [job for job in self._unanswered.values() if member in (None, job.member)]
        with self._reading() as left:
            rows = await self.repository.live(member)
        living = {row.order for row in rows}
        gone = [job for job in before if job.order not in living | left]
        for job in (*gone, *unanswered):
            if job.order not in living | left:
                self.end(job.key, job.order)
        known = {job.order: job for job in self}
        for row in rows:
            if row.order not in left and _is_newer(row, known.get(row.order)):
                if is_shown(row):
                    self._members[row.member].put(row, JobProgress())
                elif row.order in known:
                    self.remove(row.key, row.order)
        return living | known.keys(), gone


def _is_newer(row: StoredJob, known: StoredJob | None) -> bool:
    """Return whether the storage knows more of a job than the bus has reported: always of a wish to
    cancel it, which an engine may not have seen that published the job later."""
    if known is None or (row.cancel_requested and not is_shown(row)):
        return True
    return row.revision >= known.revision and (row.state != known.state or not is_shown(row))
