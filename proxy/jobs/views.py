"""What clients read of jobs that have not ended. The bus feeds what this replica knows of them."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from typing import Any

import structlog
from cachetools import FIFOCache

from proxy import clock
from proxy.budget import Allocation, MemoryBudget, MemoryLimitError
from proxy.bus import EventBus
from proxy.jobs.conversion import without_nulls
from proxy.jobs.history import chained
from proxy.jobs.models import JobProgress, JobState, is_shown
from proxy.jobs.payload_cache import PayloadCache, QueueItem
from proxy.storage.database import StorageError
from proxy.storage.history import Number
from proxy.storage.jobs import JobKey, JobRepository, StoredJob
from proxy.storage.payloads import Payload
from proxy.supervisor import Supervisor

log = structlog.get_logger(__name__)

#: Bytes of payloads that are read at once, and of the largest body of `GET /queue` that is kept.
_READ_BYTES, _MAX_QUEUE_BODY = 4 * 1024 * 1024, 8 * 1024 * 1024

#: Of how many jobs that have ended the end is remembered.
_MAX_ENDED = 2000

#: Seconds for which the jobs without an answer are not read again.
_UNANSWERED_AGE = 0.3


class MemberJobs:
    """A member's jobs that have not ended, in the order in which they were accepted.

    `progress` is what the engine has published of each job in addition to its row, by id.

    `ahead` jobs of others go before the last waiting one, `answering` are being submitted here.
    `number` is the least that the next job may have: it continues after those of other replicas.
    `body` is that of `GET /queue`, until something changes.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, StoredJob] = {}
        self.progress: dict[str, JobProgress] = {}
        self.ahead = 0
        self.answering = 0
        self.number = 0
        self.body: bytes | None = None
        self._held: Allocation | None = None

    @property
    def remaining(self) -> int:
        """The member's own jobs, and others' that go before its last waiting one."""
        return len(self.jobs) + self.ahead if self.jobs else 0

    def put(self, job: StoredJob, progress: JobProgress) -> None:
        """Add or replace a job in the queue, in whatever state."""
        self.jobs[job.prompt_id] = job
        self.progress[job.prompt_id] = progress
        if self.body is not None:
            self.keep(None)
        if isinstance(job.number, int):
            self.number = max(self.number, abs(job.number) + 1)

    def has(self, job: StoredJob) -> bool:
        """Return whether a job is in the queue, in whatever state."""
        known = self.jobs.get(job.prompt_id)
        return known is not None and known.order == job.order

    def remove(self, prompt_id: str, order: int) -> None:
        """Remove a job from the queue."""
        known = self.jobs.get(prompt_id)
        if known is not None and known.order == order:
            del self.jobs[prompt_id], self.progress[prompt_id]
            if self.body is not None:
                self.keep(None)

    def keep(self, body: bytes | None, held: Allocation | None = None) -> None:
        """Keep the body of `GET /queue`, whose bytes are `held`, instead of the one before."""
        if self._held is not None:
            self._held.release()
        self.body, self._held = body, held

    def running(self) -> list[StoredJob]:
        """Return the jobs that count as running (see `divided`)."""
        return divided(self.jobs.values())[0]


class LiveJobs:
    """The live jobs of all members. Their payloads are read from the storage to be shown, within
    the `budget`."""

    def __init__(
        self,
        bus: EventBus,
        repository: JobRepository,
        supervisor: Supervisor,
        budget: MemoryBudget,
    ) -> None:
        self._budget = budget
        self._supervisor = supervisor
        self._bus = bus
        self._repository = repository
        self._shared = repository.database.shared
        self._members: defaultdict[str, MemberJobs] = defaultdict(MemberJobs)
        #: The orders of the jobs that have left the queue during each reading under way.
        self._readings: list[set[int]] = []
        #: The orders of those that have left last for good, as the storage says.
        self._ended: FIFOCache[int, None] = FIFOCache(_MAX_ENDED)
        #: The jobs without an answer, by their orders.
        self._unanswered: dict[int, StoredJob] = {}
        self._reading_unanswered: asyncio.Task[StorageError | None] | None = None
        self._unanswered_at = -math.inf
        self._sent = PayloadCache(budget)
        budget.add_cache(self._evict_body)
        self._doubted = False

    @property
    def certain(self) -> bool:
        """Whether the bus has reported all that there is to know of live jobs."""
        return self._bus.whole and not self._doubted

    def doubt(self) -> None:
        """Read from the storage until `trust`, because bus messages were lost."""
        self._doubted = self._shared

    def trust(self) -> None:
        """Rely on the bus again, once what was lost has been read."""
        self._doubted = False

    def __iter__(self) -> Iterator[StoredJob]:
        for member in self._members.values():
            yield from member.jobs.values()

    def of(self, member: str) -> MemberJobs:
        """Return the jobs of a member, as far as the bus has reported them."""
        return self._members[member]

    async def now(self, member: str) -> MemberJobs:
        """Return the jobs of a member as they are now. Raises `StorageError`."""
        if self._bus.connected:
            await self._bus.catch_up()
        if not self.certain:
            await self.reload(member)
        return self._members[member]

    async def picture(self, member: str) -> tuple[MemberJobs, list[StoredJob]]:
        """Return the jobs of a member as they are now, and those without an answer beside them.

        Those without an answer are read first: one that gets its answer between the two readings
        is in both, and not in neither. Raises `StorageError`.
        """
        unanswered = await self._read_or_kept_unanswered()
        live = await self.now(member)
        return live, [
            job
            for job in unanswered.values()
            if job.member == member and job.prompt_id not in live.jobs
        ]

    def members(self) -> list[tuple[str, MemberJobs]]:
        """Return all known members, with their jobs."""
        return list(self._members.items())

    async def read(self, member: str, prompt_id: str) -> StoredJob | None:
        """Return a job as it is stored, whether or not the bus has reported it; `None` if it is to
        be cancelled. Raises `StorageError`."""
        row = await self._repository.get(member, prompt_id)
        return None if row is None or row.cancel_requested else row

    async def _read_or_kept_unanswered(self) -> Mapping[int, StoredJob]:
        """Return the jobs whose replica may have died before it answered, by their orders; those
        that leave the queue leave what is returned, too. Raises `StorageError`."""
        if not self._shared:
            return {}
        began = clock.monotonic()
        if not self.certain or began - self._unanswered_at > _UNANSWERED_AGE:
            if self._reading_unanswered is None:  # those who ask meanwhile share what it finds
                self._reading_unanswered = self._supervisor.spawn(
                    self._read_unanswered(began), "read unanswered jobs"
                )
            error = await asyncio.shield(self._reading_unanswered)
            if error is not None:
                raise error
        return self._unanswered

    async def _read_unanswered(self, began: float) -> StorageError | None:
        """Read the unanswered jobs for all waiting requests; returns the error if that fails."""
        try:
            with self._reading() as left:
                rows = await self._repository.unanswered()
            self._unanswered = {row.order: row for row in rows if row.order not in left}
            self._unanswered_at = began
            return None
        except StorageError as error:
            return error
        finally:
            self._reading_unanswered = None

    # --- changes ---------------------------------------------------------------------------

    def remove(self, key: JobKey, order: int) -> None:
        """Remove a job from the queue."""
        self._members[key.member].remove(key.prompt_id, order)
        self._unanswered.pop(order, None)
        for left in self._readings:
            left.add(order)
        self._sent.remove(order)

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
        with self._reading() as left:
            rows = await self._repository.live(member)
        living = {row.order for row in rows}
        gone = [job for job in before if job.order not in living | left]
        for job in gone:
            self.end(job.key, job.order)
        known = {job.order: job for job in self}
        for row in rows:
            if row.order not in left and _is_newer(row, known.get(row.order)):
                if is_shown(row):
                    self._members[row.member].put(row, JobProgress())
                elif row.order in known:
                    self.remove(row.key, row.order)
        return living | known.keys(), gone

    # --- what was sent ---------------------------------------------------------------------

    def keep_sent(self, job: StoredJob, payload: Payload) -> None:
        """Keep what was sent for a new job, so that no look at the queue reads it."""
        self._sent.put(job.member, job.order, QueueItem(payload.graph, payload.extra_data))

    async def sent(self, job: StoredJob) -> QueueItem | None:
        """Return what was sent for a job, `None` if it is gone. Raises `StorageError`."""
        return (await self._read_sent([job])).get(job.order)

    async def _read_sent(self, jobs: Sequence[StoredJob]) -> Mapping[int, QueueItem]:
        found = {job.order: item for job in jobs if (item := self._sent.get(job.order)) is not None}
        lacking = {job.order: job for job in jobs if job.order not in found}
        if lacking:
            for order, payload in (await self._repository.payloads.get_many(lacking)).items():
                found[order] = QueueItem(payload.graph, payload.extra_data)
                if self._members[lacking[order].member].has(lacking[order]):
                    self._sent.put(lacking[order].member, order, found[order])
        return found

    async def queue_json(self, member: str) -> bytes | AsyncIterator[bytes]:
        """Return the body of `GET /queue`, a large one in pieces. Raises `StorageError`, and
        `MemoryLimitError` for a job that does not fit into the memory now."""
        live, unanswered = await self.picture(member)
        if live.body is not None and not unanswered:
            return live.body
        jobs = list(live.jobs.values())
        running, pending = divided([*jobs, *unanswered])
        lacking = [job.order for job in (*running, *pending) if self._sent.get(job.order) is None]
        sizes = await self._repository.payloads.sizes(lacking)
        if sum(sizes.values()) > _READ_BYTES:
            pieces = self._queue_pieces(member, running, pending, sizes)
            return chained([await anext(pieces)], pieces)
        sent = await self._read_sent([*running, *pending])
        body = b'{"queue_running": [%b], "queue_pending": [%b]}' % (
            b", ".join([sent[job.order].item(job) for job in running if job.order in sent]),
            b", ".join([sent[job.order].item(job) for job in pending if job.order in sent]),
        )
        known = not unanswered and jobs == list(live.jobs.values())
        if known and len(body) <= _MAX_QUEUE_BODY:
            held = self._budget.spare(member, "job")
            with suppress(MemoryLimitError):
                held.resize(len(body))
                live.keep(body, held)
        return body

    def _evict_body(self) -> bool:
        """Forget the kept body of a member; return whether there was one."""
        for live in self._members.values():
            if live.body is not None:
                live.keep(None)
                return True
        return False

    async def _queue_pieces(
        self,
        member: str,
        running: Sequence[StoredJob],
        pending: Sequence[StoredJob],
        sizes: Mapping[int, int],
    ) -> AsyncIterator[bytes]:
        """Yield the body of `GET /queue` while no more than a piece of it is in memory."""
        with self._budget.member(member, "answer") as held:
            # Before the first piece is sent: later there is no other answer.
            held.resize(max(_READ_BYTES, 2 * max(sizes.values())))
            lead = b'{"queue_running": ['
            for jobs, tail in ((running, b'], "queue_pending": ['), (pending, b"]}")):
                yield lead
                lead = b""
                for some in _batches(jobs, sizes):
                    sent = await self._read_sent(some)
                    items = [sent[job.order].item(job) for job in some if job.order in sent]
                    if items:
                        yield lead + b", ".join(items)
                        lead = b", "
                lead = tail
            yield lead


def _batches(jobs: Iterable[StoredJob], sizes: Mapping[int, int]) -> Iterator[list[StoredJob]]:
    """Yield jobs as they are read at once: some of together `_READ_BYTES`, at least one."""
    some: list[StoredJob] = []
    size = 0
    for job in jobs:
        size += sizes.get(job.order, 0)
        if some and size > _READ_BYTES:
            yield some
            some, size = [], sizes.get(job.order, 0)
        some.append(job)
    if some:
        yield some


#: The states of jobs that are, or may be, on the cloud.
ON_THE_CLOUD = frozenset(
    {JobState.SUBMITTING, JobState.UNKNOWN, JobState.SUBMITTED, JobState.RUNNING}
)


def divided(jobs: Iterable[StoredJob]) -> tuple[list[StoredJob], list[StoredJob]]:
    """Return a member's jobs that count as running, and those that are pending, in their order.

    A local server runs the head of its queue at once. Here it may wait for the cloud, and counts as
    running all the same where no other job does.
    """
    running: list[StoredJob] = []
    pending: list[StoredJob] = []
    for job in jobs:
        (running if job.state == JobState.RUNNING else pending).append(job)
    pending.sort(key=_waiting_position)
    if pending and not running:
        head = min(pending, key=lambda job: job.state not in ON_THE_CLOUD)
        pending.remove(head)
        running.append(head)
    return running, pending


def interruptible(
    jobs: Collection[StoredJob], program: Callable[[StoredJob], object]
) -> list[StoredJob]:
    """Return a member's jobs that count as running, and of each program of which none does the
    first one that the cloud has: a program that is alone has its job running by now.
    """
    found, _ = divided(jobs)
    programs = set(map(program, found))
    sent = (job for job in jobs if job.state in ON_THE_CLOUD)
    for job in sorted(sent, key=_waiting_position):
        if program(job) not in programs:
            programs.add(program(job))
            found.append(job)
    return found


def _waiting_position(job: StoredJob) -> tuple[Number, int]:
    """Return the position of a waiting job in the queue."""
    return job.number, job.order


def _is_newer(row: StoredJob, known: StoredJob | None) -> bool:
    """Return whether the storage knows more of a job than the bus has reported: always of a wish to
    cancel it, which an engine may not have seen that published the job later."""
    if known is None or (row.cancel_requested and not is_shown(row)):
        return True
    return row.revision >= known.revision and (row.state != known.state or not is_shown(row))


def of_queue(job: StoredJob, *, running: bool) -> dict[str, Any]:
    """Return a pending or running job as a list shows it."""
    return without_nulls(
        {
            "id": job.prompt_id,
            "status": "in_progress" if running else "pending",
            "priority": job.number,
            "create_time": job.created_at,
            "execution_start_time": job.started_at,
            "outputs_count": 0,
            "previewable_outputs_count": 0,
            "workflow_id": job.workflow_id,
        }
    )
