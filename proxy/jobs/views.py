"""What clients read of jobs that have not ended. `LiveFeed` brings it up to date."""

from __future__ import annotations

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
from contextlib import suppress
from typing import Any

import structlog

from proxy.jobs.conversion import without_nulls
from proxy.jobs.history import chained
from proxy.jobs.models import JobProgress, JobState
from proxy.jobs.payload_cache import PayloadCache, QueueItem
from proxy.sharing.budget import Allocation, MemoryBudget, MemoryLimitError
from proxy.storage.job_tables import JobKey, Number, StoredJob
from proxy.storage.jobs import JobRepository
from proxy.storage.payloads import Payload

log = structlog.get_logger(__name__)

#: Bytes of payloads that are read at once, and of the largest body of `GET /queue` that is kept.
_READ_BYTES, _MAX_QUEUE_BODY = 4 * 1024 * 1024, 8 * 1024 * 1024


class MemberJobs:
    """A member's jobs that have not ended, in the order in which they were accepted.

    `progress` is what the engine has published of each job in addition to its row, by id.

    `ahead` jobs of others go before the last waiting one, `answering` are being submitted here.
    `number` is the least that the next job may have.
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
    """The live jobs of all members, as the engine tells them. Their payloads are read from the
    storage to be shown, within the `budget`."""

    def __init__(self, repository: JobRepository, budget: MemoryBudget) -> None:
        self._budget = budget
        self.repository = repository
        self._members: defaultdict[str, MemberJobs] = defaultdict(MemberJobs)
        self._sent = PayloadCache(budget)
        budget.add_cache(self._evict_body)

    def __iter__(self) -> Iterator[StoredJob]:
        for member in self._members.values():
            yield from member.jobs.values()

    def of(self, member: str) -> MemberJobs:
        """Return the jobs of a member."""
        return self._members[member]

    def members(self) -> list[tuple[str, MemberJobs]]:
        """Return all known members, with their jobs."""
        return list(self._members.items())

    async def read(self, member: str, prompt_id: str) -> StoredJob | None:
        """Return a job as it is stored, whether or not the engine has told of it; `None` if it is
        to be cancelled. Raises `StorageError`."""
        row = await self.repository.get(member, prompt_id)
        return None if row is None or row.cancel_requested else row

    # --- changes ---------------------------------------------------------------------------

    def remove(self, key: JobKey, order: int) -> None:
        """Remove a job from the queue."""
        self._members[key.member].remove(key.prompt_id, order)
        self._sent.remove(order)

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
            for order, payload in (await self.repository.payloads.get_many(lacking)).items():
                found[order] = QueueItem(payload.graph, payload.extra_data)
                if self._members[lacking[order].member].has(lacking[order]):
                    self._sent.put(lacking[order].member, order, found[order])
        return found

    async def queue_json(self, member: str) -> bytes | AsyncIterator[bytes]:
        """Return the body of `GET /queue`, a large one in pieces. Raises `StorageError`, and
        `MemoryLimitError` for a job that does not fit into the memory now."""
        live = self._members[member]
        if live.body is not None:
            return live.body
        jobs = list(live.jobs.values())
        running, pending = divided(jobs)
        lacking = [job.order for job in (*running, *pending) if self._sent.get(job.order) is None]
        sizes = await self.repository.payloads.sizes(lacking)
        if sum(sizes.values()) > _READ_BYTES:
            pieces = self._queue_pieces(member, running, pending, sizes)
            return chained([await anext(pieces)], pieces)
        sent = await self._read_sent([*running, *pending])
        body = b'{"queue_running": [%b], "queue_pending": [%b]}' % (
            b", ".join([sent[job.order].item(job) for job in running if job.order in sent]),
            b", ".join([sent[job.order].item(job) for job in pending if job.order in sent]),
        )
        if jobs == list(live.jobs.values()) and len(body) <= _MAX_QUEUE_BODY:
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
