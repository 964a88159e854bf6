"""Writes jobs to the storage: the only part of the engine that knows it.

A job is inserted once, with its graph. Later changes of state are some bytes each; they are
gathered for a moment and written together, in order, behind what happens. Every write carries the
fence of the engine's lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import structlog

from proxy.jobs import listing
from proxy.jobs.models import ENDS, Job, JobState, now
from proxy.jobs.tracker import RecordEnd
from proxy.storage.database import FencedError, StorageError
from proxy.storage.jobs import EndedJob, JobRepository, Payload, Shares, StoredJob
from proxy.storage.leases import ENGINE, Fence, Lease, LeaseRepository
from proxy.storage.usage import UsageRow
from proxy.translate import codec

log = structlog.get_logger(__name__)

#: Seconds in which changes of state are gathered into one transaction.
_GATHER = 0.05

#: Seconds for which the lease is taken, and between two renewals.
_LEASE, _RENEWAL = 60.0, 20.0

#: Seconds before changes are written again when the storage refuses.
_AGAIN = 1.0


class JobRecorder:
    """Where the engine keeps its jobs. `history_size` counts entries of each member."""

    def __init__(
        self, jobs: JobRepository, leases: LeaseRepository, *, holder: str, history_size: int
    ) -> None:
        self._jobs = jobs
        self._leases = leases
        self._holder = holder
        self._history_size = history_size
        self._lease: Lease | None = None
        self._changed: dict[int, Job] = {}
        self._shares: Shares | None = None
        self._news = asyncio.Event()

    async def start(self) -> tuple[list[Job], Shares]:
        """Take the lease; the jobs that have not ended, as they came, and the fair shares.

        Raises `StorageError`, also for a job that cannot be read.
        """
        self._lease = await self._leases.acquire(ENGINE, self._holder, _LEASE, alone=True)
        if self._lease is None:
            raise StorageError("another process runs the jobs of this database")
        stored = await self._jobs.live()
        payloads = await self._jobs.payloads([one.key for one in stored])
        try:
            jobs = [_job(one, payloads[one.key]) for one in stored]
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"a job in the database cannot be read: {error!r}") from error
        return jobs, await self._jobs.load_shares()

    async def run(self) -> None:
        """Write changes behind what happens, until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(_GATHER)
            try:
                await self.flush()
            except FencedError:
                raise
            except StorageError as error:
                log.error("jobs_save_failed", jobs=len(self._changed), error=str(error))
                await asyncio.sleep(_AGAIN)

    async def renew(self) -> None:
        """Keep the lease, until cancelled. Raises `FencedError` when somebody else has it."""
        while True:
            await asyncio.sleep(_RENEWAL)
            await self.renew_once()

    async def renew_once(self) -> None:
        """Keep the lease for another while. Raises `FencedError`, `StorageError`."""
        if self._lease is not None and not await self._leases.renew(self._lease, _LEASE):
            raise FencedError("another process has taken over the jobs of this database")

    async def close(self) -> None:
        """Write what has changed, and give the lease back."""
        try:
            await self.flush()
            if self._lease is not None:
                await self._leases.release(self._lease)
        except StorageError as error:
            log.error("jobs_save_failed", jobs=len(self._changed), error=str(error))

    # --- writing ---------------------------------------------------------------------------

    def changed(self, job: Job, shares: Shares | None = None) -> None:
        """Write the job's state soon."""
        if job.order:
            self._changed[job.order] = job
            self._shares = _merged(self._shares, shares)
            self._news.set()

    async def save(self, job: Job, shares: Shares | None = None) -> None:
        """Write the job now: whole if it is new. Raises `StorageError`."""
        if job.order:
            self._changed[job.order] = job
            self._shares = _merged(self._shares, shares)
            await self.flush()
            return
        job.order = await self._jobs.insert(
            _stored(job),
            Payload(
                graph=codec.dump_bytes(job.graph),
                extra_data=codec.dump_bytes(job.extra_data),
                targets=None if job.targets is None else codec.dump_bytes(job.targets),
                credentials=codec.dump_bytes(job.credentials) if job.credentials else None,
            ),
            usage=[_used(job, submitted=1)],
            shares=shares,
            fence=self._fence,
        )

    async def flush(self) -> None:
        """Write what has changed, in one transaction. Raises `StorageError`."""
        self._news.clear()
        changed, self._changed = self._changed, {}
        shares, self._shares = self._shares, None
        if not changed and shares is None:
            return
        try:
            await self._jobs.update(
                [(key, _columns(job)) for key, job in changed.items()],
                sent=[key for key, job in changed.items() if job.cloud_id],
                shares=shares,
                fence=self._fence,
            )
        except BaseException:
            self._changed = changed | self._changed
            self._shares = _merged(shares, self._shares)
            self._news.set()
            raise

    async def discard(self, *jobs: Job, shares: Shares | None = None) -> None:
        """Take live jobs out without a trace. Raises `StorageError`."""
        stored = [job for job in jobs if job.order]
        if not stored:
            return
        await self._jobs.discard(
            [job.order for job in stored],
            usage=[_used(job, submitted=-1, withdrawn=int(job.accepted)) for job in stored],
            shares=shares,
            fence=self._fence,
        )
        for job in stored:
            self._changed.pop(job.order, None)

    async def end(
        self, job: Job, end: RecordEnd, shares: Shares | None = None
    ) -> tuple[int, list[str]]:
        """Move a job into the history; how many outputs it has, and the ids of jobs that the
        history has no room for any more. Raises `StorageError`."""
        listed = listing.of_history(
            job, end.outcome, end.outputs, end.status, end.started_at, end.ended_at
        )
        count = int(listed.job.get("outputs_count", 0))
        seconds = (end.ended_at - end.started_at) / 1000
        used = UsageRow(_day(end.ended_at), job.member, running_seconds=seconds, outputs=count)
        setattr(used, end.outcome, 1)
        forgotten = await self._jobs.finish(
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
            ),
            keep=self._history_size,
            usage=[used],
            shares=shares,
            fence=self._fence,
        )
        self._changed.pop(job.order, None)
        return count, forgotten

    async def known(self, cloud_ids: Iterable[str]) -> set[str]:
        """Which of these ids of the cloud are of jobs that are stored. Raises `StorageError`."""
        asked = list(cloud_ids)
        return await self._jobs.knows(asked) if asked else set()

    @property
    def _fence(self) -> Fence | None:
        return None if self._lease is None else self._lease.fence


def _merged(older: Shares | None, newer: Shares | None) -> Shares | None:
    if older is None or newer is None:
        return older or newer
    return Shares(newer.now, {**older.members, **newer.members}, newer.slots)


def _columns(job: Job) -> dict[str, Any]:
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


def _stored(job: Job) -> StoredJob:
    return StoredJob(
        member=job.member,
        id=job.prompt_id,
        number=job.number,
        created_at=job.create_time,
        client_id=job.client_id,
        workflow_id=listing.workflow_id(job.extra_data),
        one_at_a_time=job.one_at_a_time,
        submitter=job.submitter,
        **_columns(job),
    )


def _job(stored: StoredJob, payload: Payload) -> Job:
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
        credentials={} if payload.credentials is None else codec.loads(payload.credentials),
    )


def _used(job: Job, **counts: int) -> UsageRow:
    return UsageRow(_day(job.create_time), job.member, **counts)


def _day(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).date().isoformat()
