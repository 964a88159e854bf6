"""Jobs as the storage has them, and their writer: the only part of the engine that knows it.

A job is in the storage, with its graph, before the engine learns of it. Changes of state are some
bytes each; they are gathered for a moment and written together, in order, behind what happens.
Every write carries the fence of the engine's lease.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

import msgspec
import structlog

from proxy.jobs.history import of_history
from proxy.jobs.models import ENDS, Job, JobKey, JobState, now
from proxy.jobs.tracker import RecordEnd
from proxy.storage.database import FencedError, StorageError
from proxy.storage.history import EndedJob
from proxy.storage.jobs import JobRepository, Payload, Shares, StoredJob
from proxy.storage.leases import Lease
from proxy.storage.usage import UsageRow, day_of
from proxy.translate import codec
from proxy.translate.rewriting import Rewriting

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Seconds in which changes of state are gathered into one transaction. Those of a short job are
#: written with its end.
_GATHER = 0.2

#: Seconds before changes are written again when the storage refuses.
_AGAIN = 1.0


class Term:
    """The time in which an engine may act: until `until` (`time.monotonic()`), which is the past
    once it is `over`. Its writes carry the `fence`."""

    def __init__(self, lease: Lease, until: float = math.inf) -> None:
        self.lease = lease
        self.fence = lease.fence
        self.until = until
        self.over = asyncio.Event()

    def end(self) -> None:
        """The engine may act no more."""
        self.until = -math.inf
        self.over.set()

    @property
    def lasts(self) -> bool:
        """Whether the engine may act now."""
        return time.monotonic() < self.until

    def check(self) -> None:
        """Directly before what only one replica may do. Raises `FencedError`."""
        if not self.lasts:
            raise FencedError("the lease of this engine has run out")


class JobRecorder:
    """Where the engine keeps its jobs. `history_size` counts entries of each member."""

    def __init__(self, jobs: JobRepository, term: Term, *, history_size: int) -> None:
        self.term = term
        self._jobs = jobs
        self._history_size = history_size
        self._changed: dict[int, Job] = {}
        self._shares: Shares | None = None
        self._news = asyncio.Event()
        self._flushing = asyncio.Lock()

    @property
    def shared(self) -> bool:
        """Whether other replicas write, too."""
        return self._jobs.shared

    async def load(self) -> tuple[list[Job], Shares]:
        """The jobs that have not ended, as they came, and the fair shares.

        Raises `StorageError`, also for a job that cannot be read.
        """
        stored = await self._jobs.live()
        payloads = await self._jobs.payloads([one.key for one in stored])
        try:
            jobs = [
                job_of(one, payloads[one.key])
                for one in stored
                if one.state != JobState.RECEIVED or one.key in payloads  # withdrawn meanwhile
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"a job in the database cannot be read: {error!r}") from error
        return jobs, await self._jobs.load_shares()

    async def wanted(self) -> list[StoredJob]:
        """The jobs that are to be started or cancelled, as they came. Raises `StorageError`."""
        return await self._jobs.wanted()

    async def run(self) -> None:
        """Write changes behind what happens, until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(_GATHER)
            try:
                await self.flush()
            except FencedError:
                await self.term.over.wait()
            except StorageError as error:
                log.error("jobs_save_failed", jobs=len(self._changed), error=str(error))
                await asyncio.sleep(_AGAIN)

    async def close(self) -> None:
        """Write what has changed."""
        try:
            await self.flush()
        except StorageError as error:
            log.error("jobs_save_failed", jobs=len(self._changed), error=str(error))

    async def read(self, key: JobKey, order: int) -> Job | None:
        """A job that has not ended, `None` if it is gone. Raises `StorageError`."""
        stored = await self._jobs.get(*key)
        payload = await self._jobs.payload(order)
        if stored is None or stored.key != order or payload is None:
            return None
        return job_of(stored, payload)

    # --- writing ---------------------------------------------------------------------------

    def changed(self, job: Job, shares: Shares | None = None) -> None:
        """Write the job's state soon."""
        self._changed[job.order] = job
        self._shares = _merged(self._shares, shares)
        self._news.set()

    async def save(self, job: Job, shares: Shares | None = None) -> bool:
        """Write the job's state now; false if the job is no longer stored. Raises
        `StorageError`."""
        self.changed(job, shares)
        await self.flush()
        return job.stored

    async def flush(self) -> None:
        """Write what has changed, in one transaction. Raises `StorageError`.

        One goes behind the other, so that no older state is written over a newer one.
        """
        async with self._flushing:
            await self._flush()

    async def _flush(self) -> None:
        self._news.clear()
        changed, self._changed = self._changed, {}
        shares, self._shares = self._shares, None
        if not changed and shares is None:
            return
        try:
            gone = await self._write(
                self._jobs.update(
                    [(key, columns(job)) for key, job in changed.items()],
                    sent=[key for key, job in changed.items() if job.cloud_id],
                    shares=shares,
                    fence=self.term.fence,
                )
            )
        except BaseException:
            self._changed = changed | self._changed
            self._shares = _merged(shares, self._shares)
            self._news.set()
            raise
        for order in gone:
            changed[order].stored = False

    async def discard(self, *jobs: Job, shares: Shares | None = None) -> None:
        """Take live jobs out without a trace. Raises `StorageError`."""
        await self._write(
            self._jobs.discard(
                [job.order for job in jobs],
                usage=[used(job, submitted=-1, withdrawn=int(job.accepted)) for job in jobs],
                shares=shares,
                fence=self.term.fence,
            )
        )
        for job in jobs:
            self._changed.pop(job.order, None)

    async def end(self, job: Job, end: RecordEnd, shares: Shares | None = None) -> list[str]:
        """Move a job into the history; the ids of jobs that it has no more room for.

        Raises `StorageError`.
        """
        listed = of_history(job, end.outcome, end.outputs, end.status, end.started_at, end.ended_at)
        count = int(listed.job.get("outputs_count", 0))
        seconds = (end.ended_at - end.started_at) / 1000
        used = UsageRow(
            day_of(end.ended_at / 1000), job.member, running_seconds=seconds, outputs=count
        )
        setattr(used, end.outcome, 1)
        forgotten = await self._write(
            self._jobs.finish(
                job.order,
                EndedJob(
                    state=ENDS[end.outcome].value,
                    started_at=end.started_at,
                    ended_at=end.ended_at,
                    summary=codec.dump_bytes(listed.job),
                    result=codec.dump_bytes(
                        {"outputs": end.outputs, "status": end.status, "meta": end.meta}
                    ),
                    outputs_to_execute=job.outputs_to_execute,
                    details=codec.dump_bytes(
                        {"account": job.account, "nodes": end.node_times, "cost": end.cost}
                    ),
                    cloud_id=job.cloud_id or None,
                ),
                keep=self._history_size,
                usage=[used],
                shares=shares,
                fence=self.term.fence,
            )
        )
        self._changed.pop(job.order, None)
        return forgotten

    async def known(self, cloud_ids: Iterable[str]) -> set[str]:
        """Which of these ids of the cloud are of jobs that are stored. Raises `StorageError`."""
        asked = list(cloud_ids)
        return await self._jobs.knows(asked) if asked else set()

    async def _write(self, write: Awaitable[T]) -> T:
        """A write of this term. Raises `StorageError`."""
        try:
            return await write
        except FencedError:
            self.term.end()
            raise


def _merged(older: Shares | None, newer: Shares | None) -> Shares | None:
    if older is None or newer is None:
        return older or newer
    return Shares(newer.now, {**older.members, **newer.members}, newer.slots)


# --- jobs as the storage has them ---------------------------------------------------------


def columns(job: Job) -> dict[str, Any]:
    """What may change of a stored job."""
    return {
        "state": job.state.value,
        "account": job.account,
        "cloud_id": job.cloud_id or None,
        "changed_at": now(),
        "started_at": job.started_at,
        "outputs_to_execute": job.outputs_to_execute,
        "watched": job.watched,
        "accepted": job.accepted,
        "cancel_requested": job.cancel_requested,
        "charge": job.charge,
    }


def stored_of(job: Job) -> StoredJob:
    """A job as it is stored."""
    return StoredJob(
        member=job.member,
        id=job.prompt_id,
        number=job.number,
        created_at=job.create_time,
        client_id=job.client_id,
        workflow_id=job.workflow_id,
        one_at_a_time=job.one_at_a_time,
        submitter=job.submitter,
        label=job.label,
        **columns(job),
    )


def payload_of(job: Job) -> Payload:
    """What the client sent, as it is stored."""
    return Payload(
        graph=codec.dump_bytes(job.graph),
        extra_data=codec.dump_bytes(job.extra_data),
        targets=None if job.targets is None else codec.dump_bytes(job.targets),
        credentials=codec.dump_bytes(job.credentials) if job.credentials else None,
        rewriting=None
        if job.rewriting is None
        else codec.dump_bytes(msgspec.to_builtins(job.rewriting)),
    )


def job_of(stored: StoredJob, payload: Payload) -> Job:
    """A stored job. Raises `ValueError` if it cannot be read."""
    return Job(
        prompt_id=stored.id,
        member=stored.member,
        number=stored.number,
        graph=codec.loads(payload.graph),
        extra_data=codec.loads(payload.extra_data),
        targets=None if payload.targets is None else codec.loads(payload.targets),
        client_id=stored.client_id,
        create_time=stored.created_at,
        order=stored.key,
        outputs_to_execute=stored.outputs_to_execute,
        state=JobState(stored.state),
        account=stored.account,
        cloud_id=stored.cloud_id or "",
        started_at=stored.started_at,
        watched=stored.watched,
        accepted=stored.accepted,
        cancel_requested=stored.cancel_requested,
        charge=stored.charge,
        one_at_a_time=stored.one_at_a_time,
        submitter=stored.submitter,
        label=stored.label,
        credentials={} if payload.credentials is None else codec.loads(payload.credentials),
        rewriting=None
        if payload.rewriting is None
        else msgspec.convert(codec.loads(payload.rewriting), Rewriting),
    )


def used(job: Job, **counts: int) -> UsageRow:
    """What a job counts as, on the day (UTC) on which it was submitted."""
    return UsageRow(day_of(job.create_time / 1000), job.member, **counts)
