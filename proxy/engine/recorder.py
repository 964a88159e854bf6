"""Writes what becomes of jobs to the storage.

A job is in the storage, with its graph, before the engine learns of it. Changes of state are some
bytes each; they are gathered for a moment and written together, in order, in the background.
Every write carries the fence of the leader's lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog

from proxy.costs.budgets import Budgets
from proxy.engine.live_job import LiveJob, RowState
from proxy.engine.term import Term
from proxy.jobs.budget_notices import log_notice, notices_of
from proxy.jobs.conversion import changes_of, content_of, entry_of, job_of, sizes_of, used
from proxy.jobs.models import JobContent, JobEnd, JobState
from proxy.sharing.budget import MemoryBudget, MemoryLimitError
from proxy.sharing.turns import thread_turns
from proxy.storage.database import FencedError, OutcomeUnknownError, StorageError, ValueRefusedError
from proxy.storage.history import Recorded
from proxy.storage.job_tables import StoredJob
from proxy.storage.jobs import EngineWrite, JobRepository
from proxy.storage.leases import Batch
from proxy.storage.payloads import Payload, size_of
from proxy.storage.shares import Shares
from proxy.storage.write_behind import WriteBehind
from proxy.translate.errors import LocalError
from proxy.webhooks.outbox import Outbox

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Seconds in which changes of state are gathered into one transaction. Those of a short job are
#: written with its end.
_GATHER = 0.2

#: The states of jobs whose content is not needed yet.
_IN_QUEUE = (JobState.RECEIVED, JobState.QUEUED)

#: Of how many jobs the contents are read in one unit, and how many bytes if they are several.
_MAX_CONTENTS, _MAX_CONTENT_BYTES = 100, 4 * 1024 * 1024

#: Bytes of memory that the content of a job takes uncounted, those of JSON that are parsed on the
#: event loop, and those of a budget where nobody gives one.
_UNCOUNTED, _MAX_INLINE, _MAX_BYTES = 256 * 1024, 256 * 1024, 1 << 30

#: Seconds before changes are written again when the storage refuses.
_AGAIN = 1.0


@dataclass(eq=False, repr=False)
class JobRecorder:
    """Where the engine keeps its jobs. `history_size` counts entries of each member, `budgets`
    returns those of one, `shares` the fair shares that are stored together with jobs.

    The `outbox` makes what webhooks get of a start and an end, which is written with it. Large
    contents take their memory from the `budget`.
    """

    jobs: JobRepository
    term: Term
    history_size: int
    budgets: Callable[[str], Budgets] = field(default=lambda _: Budgets())
    shares: Callable[[Collection[LiveJob]], Shares | None] = field(default=lambda _: None)
    outbox: Outbox = field(default_factory=Outbox)
    budget: MemoryBudget = field(default_factory=partial(MemoryBudget, _MAX_BYTES))

    def __post_init__(self) -> None:
        #: By their orders; what is written of a job is what it is then.
        self._changed = WriteBehind[int, LiveJob](
            "jobs", self._write_changes, gather=_GATHER, again=_AGAIN, refused=_note_refused
        )
        #: Who reads what a client sent: large ones one after the other.
        self._reading = thread_turns()
        #: The fair shares as they are stored: most writes of a job leave them as they are.
        self._stored = Shares()

    async def load(self) -> tuple[list[LiveJob], Shares]:
        """Return the jobs that have not ended, as they came, and the fair shares.

        The content is there of those that have left the queue. Raises `StorageError`, also for a
        job that cannot be read.
        """
        try:
            jobs = [job_of(LiveJob, stored, None) for stored in await self.jobs.live()]
            await self._load_contents([job for job in jobs if job.state not in _IN_QUEUE])
        except (TypeError, ValueError) as error:
            raise StorageError(f"a job in the database cannot be read: {error!r}") from error
        self._stored = await self.jobs.load_shares()
        return jobs, self._stored

    async def _load_contents(self, jobs: list[LiveJob]) -> None:
        """Bring what clients sent for jobs into memory, with few units, each of which may be
        slow."""
        sizes = await self.jobs.payloads.sizes([job.order for job in jobs])
        for some in _in_parts(jobs, sizes):
            payloads = await self.jobs.payloads.get_many([job.order for job in some])
            for job in some:
                job.content = content_of(_found(job, payloads.get(job.order)))
                if job.is_on_cloud:
                    job.content.keep_for_run()
                await asyncio.sleep(0)  # the lease is renewed meanwhile

    async def run(self) -> None:
        """Write changes in the background, until cancelled."""
        await self._changed.run()

    async def close(self) -> None:
        """Write what has changed."""
        await self._changed.close()

    async def read(self, stored: StoredJob) -> LiveJob | None:
        """Return a new job of this row, `None` if it is gone. Raises `StorageError`."""
        payload = await self.jobs.payloads.get(stored.order)
        return None if payload is None else job_of(LiveJob, stored, content_of(payload))

    async def load_content(self, job: LiveJob) -> bool:
        """Bring what the client sent into memory, for a job that leaves the queue; false if the job
        is no longer stored.

        Raises `StorageError`, `MemoryLimitError` if there is no room for it, and `LocalError` if
        the content cannot be read. It is empty then, as that of a job that is gone, and as one for
        which there will never be room.
        """
        if job.content is not None:
            return True
        try:
            async with self._reading.hold(job.member):
                payload = _found(job, await self.jobs.payloads.get(job.order))
                self._hold(job, sizes_of(payload)[0])
                is_large = size_of(payload) > _MAX_INLINE
                read = partial(content_of, payload)
                job.content = await asyncio.to_thread(read) if is_large else read()
        except MemoryLimitError as error:
            if error.kind == "too_large":
                job.content = JobContent({}, {})
            raise
        except (TypeError, ValueError, ValueRefusedError) as error:
            stored = await self.jobs.get(*job.key)
            job.content = JobContent({}, {})
            job.release_memory()
            if stored is None or stored.order != job.order:
                job.row = RowState.GONE
                return False
            log.error("job_content_rejected", job=job.prompt_id, error=repr(error))
            raise LocalError(
                "job_unreadable",
                "The proxy cannot read this job in its database; submit it again.",
                kind="internal",
            ) from error
        return True

    def hold_content(self, job: LiveJob) -> None:
        """Count what is in memory of a job as its member's. Raises `MemoryLimitError`."""
        self._hold(job, job.loaded.size)

    def _hold(self, job: LiveJob, size: int) -> None:
        if size < _UNCOUNTED:
            job.release_memory()
            return
        if job.memory is None:
            job.memory = self.budget.member(job.member, "job")
        job.memory.resize(size)

    # --- writing ---------------------------------------------------------------------------

    def changed(self, job: LiveJob) -> None:
        """Write the job's state soon."""
        self._changed.add(job.order, job)

    def started(self, job: LiveJob) -> None:
        """Tell webhooks that the job runs, with the write of its state or with that of its end,
        whichever is first."""
        job.start = self.outbox.started(job)

    async def save(self, job: LiveJob) -> bool:
        """Write the job's state now; false if the job is no longer stored. Raises
        `StorageError`."""
        if job.row is RowState.REFUSED:
            job.row = RowState.KEPT
        self.changed(job)
        await self.flush()
        if job.row is RowState.REFUSED:
            raise ValueRefusedError(f"the database does not take the job {job.prompt_id}")
        return job.row is not RowState.GONE

    async def flush(self) -> None:
        """Write what has changed. Raises `StorageError`."""
        await self._changed.flush()

    async def _write_changes(self, changed: Mapping[int, LiveJob], _: Batch) -> None:
        """Write the states of jobs in one transaction, then take out those that are unwanted."""
        kept = [job for job in changed.values() if job.row is not RowState.UNWANTED]
        if kept:
            await self._write_states(kept)
        unwanted = [job for job in changed.values() if job.row is RowState.UNWANTED]
        if unwanted:
            await self.discard(*unwanted)

    async def _write_states(self, jobs: list[LiveJob]) -> None:
        starts = [(job, job.start) for job in jobs if job.start is not None]
        messages = [start for _, start in starts]
        changes = list(map(changes_of, jobs))
        also = EngineWrite(self.term.fence, shares=self._new_shares(jobs), messages=messages)
        gone = await self._write(partial(self.jobs.update, changes, also), also)
        for job in jobs:
            if job.order in gone:
                job.row = RowState.GONE
        for job, start in starts:
            if job.start is start:  # unless there is a newer one
                job.start = None
        if starts:
            self.outbox.news.set()

    async def discard(self, *jobs: LiveJob) -> None:
        """Take live jobs out without a trace. Raises `StorageError`."""
        usage = {job.order: used(job, submitted=-1, withdrawn=int(job.accepted)) for job in jobs}
        also = EngineWrite(self.term.fence, shares=self._new_shares(jobs))
        await self._write(partial(self.jobs.discard, usage.keys(), also, usage=usage), also)
        for job in jobs:
            self._forget(job)

    async def discard_soon(self, job: LiveJob) -> bool:
        """Take a live job out without a trace, later if the storage refuses now: a job that is
        gone must not run after a restart. Return whether it is out."""
        try:
            await self.discard(job)
        except StorageError as error:
            log.error("record_delete_failed", job=job.prompt_id, error=str(error))
            job.row = RowState.UNWANTED
            self.changed(job)
            return False
        return True

    def _forget(self, job: LiveJob) -> None:
        self._changed.drop(job.order)
        job.row, job.start = RowState.KEPT, None

    async def end(self, job: LiveJob, end: JobEnd) -> Recorded:
        """Move a job into the history. Raises `StorageError`."""
        entry, usage, costs = entry_of(job, end)
        budgets = self.budgets(job.member)
        messages = [] if job.start is None else [job.start]
        if f"job.{end.outcome}" in self.outbox.wanted:
            messages.append(self.outbox.ended(job, end))
        notices = partial(notices_of, budgets, job.member, end.ended_at) if budgets.all else None
        also = EngineWrite(self.term.fence, [usage], costs, self._new_shares([job]), messages)
        recorded = await self._write(
            partial(self.jobs.finish, entry, also, keep=self.history_size, budgets=notices), also
        )
        self._forget(job)
        if messages:
            self.outbox.news.set()
        for notice in recorded.noticed:
            log_notice(notice)
            self.outbox.budgets.set()
        return recorded

    def _new_shares(self, jobs: Collection[LiveJob]) -> Shares | None:
        """Return what is not stored yet of the jobs' fair shares, `None` if all is."""
        shares = self.shares(jobs)
        if shares is None:
            return None
        stored = self._stored
        members = {
            name: share
            for name, share in shares.members.items()
            if stored.members.get(name) != share
        }
        if not members and (shares.now, shares.slots) == (stored.now, stored.slots):
            return None
        return Shares(shares.now, members, shares.slots)

    async def _write(self, write: Callable[[], Awaitable[T]], also: EngineWrite) -> T:
        """Run a write of this term. Raises `StorageError`.

        Once the term is over nothing is told of what it decides, so that it must not be written
        either, also where no other engine has begun.
        """
        try:
            self.term.check()
            written = await write()
        except FencedError:
            self.term.end()
            raise
        except OutcomeUnknownError:
            self._stored = Shares()
            raise
        if also.shares is not None:
            members = {**self._stored.members, **also.shares.members}
            self._stored = Shares(also.shares.now, members, also.shares.slots)
        return written


def _note_refused(job: LiveJob) -> None:
    job.row = RowState.REFUSED


def _in_parts(jobs: Iterable[LiveJob], sizes: Mapping[int, int]) -> Iterator[list[LiveJob]]:
    """Yield jobs by what is read of them at once."""
    part: list[LiveJob] = []
    total = 0
    for job in jobs:
        size = sizes.get(job.order, 0)
        if part and (len(part) == _MAX_CONTENTS or total + size > _MAX_CONTENT_BYTES):
            yield part
            part, total = [], 0
        part.append(job)
        total += size
    if part:
        yield part


def _found(job: LiveJob, payload: Payload | None) -> Payload:
    """Return the payload of a job. Raises `ValueError` if there is none."""
    if payload is None:
        raise ValueError(f"the payload of job {job.order} is missing")
    return payload
