"""The jobs that have not ended, and what clients read of them."""

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
from proxy.jobs.models import Job, JobState, is_shown, shown_state
from proxy.jobs.payload_cache import PayloadCache, QueueItem
from proxy.sharing.budget import Allocation, MemoryBudget, MemoryLimitError
from proxy.storage.job_tables import JobKey, Number
from proxy.storage.jobs import JobRepository
from proxy.storage.payloads import Payload

log = structlog.get_logger(__name__)

#: Bytes of payloads that are read at once, and of the largest body of `GET /queue` that is kept.
_READ_BYTES, _MAX_QUEUE_BODY = 4 * 1024 * 1024, 8 * 1024 * 1024


class MemberJobs:
    """A member's jobs that have not ended.

    Clients may know of its `jobs`, which are in the order in which they were accepted, and not of
    those that are `hidden`. `changes` counts what became of them.

    `ahead` jobs of others go before the last waiting one, `answering` are being submitted here.
    `number` is the least that the next job may have.
    `body` is that of `GET /queue`, until something changes.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.hidden: dict[str, Job] = {}
        self.changes = 0
        self.ahead = 0
        self.answering = 0
        self.number = 0
        self.body: bytes | None = None
        self._held: Allocation | None = None

    @property
    def remaining(self) -> int:
        """The member's own jobs, and others' that go before its last waiting one."""
        return len(self.jobs) + self.ahead if self.jobs else 0

    def put(self, job: Job) -> None:
        """Add a job, or note that it has changed."""
        there, other = (self.jobs, self.hidden) if is_shown(job) else (self.hidden, self.jobs)
        there[job.prompt_id] = job
        if other.get(job.prompt_id) is job:
            del other[job.prompt_id]
        self._changed()
        if there is self.jobs and isinstance(job.number, int):
            self.number = max(self.number, abs(job.number) + 1)

    def get(self, prompt_id: str) -> Job | None:
        """Return a job, of two with one id the newer one."""
        return self.hidden.get(prompt_id) or self.jobs.get(prompt_id)

    def remove(self, job: Job) -> None:
        """Take a job out; a new one with the same id stays."""
        for jobs in (self.jobs, self.hidden):
            if jobs.get(job.prompt_id) is job:
                del jobs[job.prompt_id]
        self._changed()

    def _changed(self) -> None:
        self.changes += 1
        if self.body is not None:
            self.keep(None)

    def keep(self, body: bytes | None, held: Allocation | None = None) -> None:
        """Keep the body of `GET /queue`, whose bytes are `held`, instead of the one before."""
        if self._held is not None:
            self._held.release()
        self.body, self._held = body, held


class LiveJobs:
    """The live jobs of all members, which the engine's table keeps. Their payloads are read from
    the storage to be shown, within the `budget`."""

    def __init__(self, repository: JobRepository, budget: MemoryBudget) -> None:
        self._budget = budget
        self.repository = repository
        self._members: defaultdict[str, MemberJobs] = defaultdict(MemberJobs)
        self._sent = PayloadCache(budget)
        budget.add_cache(self._evict_body)

    def __iter__(self) -> Iterator[Job]:
        for member in self._members.values():
            yield from member.jobs.values()
            yield from member.hidden.values()

    def of(self, member: str) -> MemberJobs:
        """Return the jobs of a member."""
        return self._members[member]

    def members(self) -> list[tuple[str, MemberJobs]]:
        """Return all known members, with their jobs."""
        return list(self._members.items())

    def shown(self) -> list[Job]:
        """Return the jobs that clients may know of."""
        return [job for member in self._members.values() for job in member.jobs.values()]

    def behind(self) -> list[str]:
        """Return the members of whose last jobs others go before."""
        return [name for name, member in self._members.items() if member.ahead]

    def get(self, key: JobKey) -> Job | None:
        """Return a job, whether or not clients may know of it."""
        return self._members[key.member].get(key.prompt_id)

    def unless_cancelled(self, key: JobKey) -> Job | None:
        """Return a job, unless its client has cancelled it on its way to the cloud."""
        job = self.get(key)
        return None if job is None or (job.cancel_requested and not is_shown(job)) else job

    def put(self, job: Job) -> None:
        """Add a job, or note that it has changed."""
        self._members[job.member].put(job)

    def remove(self, job: Job) -> None:
        """Take a job out."""
        self._members[job.member].remove(job)
        self._sent.remove(job.order)

    # --- what was sent ---------------------------------------------------------------------

    def keep_sent(self, job: Job, payload: Payload) -> None:
        """Keep what was sent for a new job, so that no look at the queue reads it."""
        self._sent.put(job.member, job.order, QueueItem(payload.graph, payload.extra_data))

    async def sent(self, job: Job) -> QueueItem | None:
        """Return what was sent for a job, `None` if it is gone. Raises `StorageError`."""
        return (await self._read_sent([job])).get(job.order)

    async def _read_sent(self, jobs: Sequence[Job]) -> Mapping[int, QueueItem]:
        found = {job.order: item for job in jobs if (item := self._sent.get(job.order)) is not None}
        lacking = {job.order: job for job in jobs if job.order not in found}
        if lacking:
            for order, payload in (await self.repository.payloads.get_many(lacking)).items():
                found[order] = QueueItem(payload.graph, payload.extra_data)
                if self.get(lacking[order].key) is lacking[order]:
                    self._sent.put(lacking[order].member, order, found[order])
        return found

    async def queue_json(self, member: str) -> bytes | AsyncIterator[bytes]:
        """Return the body of `GET /queue`, a large one in pieces. Raises `StorageError`, and
        `MemoryLimitError` for a job that does not fit into the memory now."""
        live = self._members[member]
        if live.body is not None:
            return live.body
        changes = live.changes
        running, pending = divided(live.jobs.values())
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
        if changes == live.changes and len(body) <= _MAX_QUEUE_BODY:
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
        running: Sequence[Job],
        pending: Sequence[Job],
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


def _batches(jobs: Iterable[Job], sizes: Mapping[int, int]) -> Iterator[list[Job]]:
    """Yield jobs as they are read at once: some of together `_READ_BYTES`, at least one."""
    some: list[Job] = []
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


def divided(jobs: Iterable[Job]) -> tuple[list[Job], list[Job]]:
    """Return a member's jobs that count as running, and those that are pending, in their order.

    A local server runs the head of its queue at once. Here it may wait for the cloud, and counts as
    running all the same where no other job does.
    """
    running: list[Job] = []
    pending: list[Job] = []
    for job in jobs:
        (running if shown_state(job) == "running" else pending).append(job)
    pending.sort(key=_waiting_position)
    if pending and not running:
        head = min(pending, key=lambda job: job.state not in ON_THE_CLOUD)
        pending.remove(head)
        running.append(head)
    return running, pending


def interruptible(jobs: Collection[Job], program: Callable[[Job], object]) -> list[Job]:
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


def _waiting_position(job: Job) -> tuple[Number, int]:
    """Return the position of a waiting job in the queue."""
    return job.number, job.order


def of_queue(job: Job, *, running: bool) -> dict[str, Any]:
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
