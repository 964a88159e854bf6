"""Keeps all members' live jobs and history: in memory, in the store and on the sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import structlog

from proxy.jobs import listing
from proxy.jobs.happenings import Record
from proxy.jobs.hub import Hub
from proxy.jobs.ledger import Ledger
from proxy.jobs.record import EndedJob, JobRecord
from proxy.jobs.router import Router
from proxy.jobs.runner import Cloud, Names, Runner, Waits
from proxy.store.base import Delete, Put, Store
from proxy.translate import codec
from proxy.translate.messages import Message, status

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: How long, in seconds, a job waits for the end of another one to be told.
TURN_PATIENCE = 2.0

LIVE = "jobs"
HISTORY = "history"


class Keeper:
    """Where the runners report (a `runner.Desk`).

    `runners` has the live jobs by cloud id. `secret` is the account's key, which no record may
    show; `history_size` bounds the entries of each member.
    """

    def __init__(
        self,
        *,
        store: Store,
        cloud: Cloud,
        names: Names,
        secret: str,
        history_size: int,
        waits: Waits,
    ) -> None:
        self.hub = Hub()
        self.router = Router(time.monotonic)
        self.ledgers: defaultdict[str, Ledger] = defaultdict(Ledger)
        self.runners: dict[str, Runner] = {}
        self._store = store
        self._cloud = cloud
        self._names = names
        self._secrets: tuple[str, ...] = (secret,)
        self._history_size = history_size
        self._waits = waits
        self._sequence = 0
        self._ended_ids: set[str] = set()

    async def load(self) -> list[JobRecord]:
        """Read what was kept and follow again what has not ended.

        Returns the jobs whose submission had not been answered when they were written. A record
        that cannot be read is left where it is, and out.
        """
        ended = [job async for job in self._scan(HISTORY, EndedJob.from_bytes)]
        for job in sorted(ended, key=lambda job: job.sequence):
            self.ledgers[job.member].add_ended(job)
            self._ended_ids.add(job.cloud_id)
            self._sequence = max(self._sequence, job.sequence + 1)
        unanswered = []
        async for record in self._scan(LIVE, JobRecord.from_bytes):
            if record.cloud_id:
                self.follow(record).release()
            else:
                unanswered.append(record)
        return unanswered

    async def _scan(self, collection: str, read: Callable[[bytes], T]) -> AsyncIterator[T]:
        async for key, data in self._store.scan(collection):
            try:
                yield read(data)
            except (ValueError, TypeError) as error:
                log.error("record_unreadable", kind=collection, key=key, error=str(error))

    async def close(self) -> None:
        """Stop following; the jobs go on on the cloud."""
        for runner in list(self.runners.values()):
            await runner.stop()

    def knows(self, cloud_id: str) -> bool:
        """Whether a job of the account is one of ours, live or in the history."""
        return cloud_id in self.runners or cloud_id in self._ended_ids

    def hide(self, secret: str) -> None:
        """Keep one more key of the account out of the records of later jobs."""
        self._secrets = (secret, *self._secrets)

    async def save(self, record: JobRecord) -> None:
        """Write a live job to disk. Raises `StoreError`."""
        await self._store.put(LIVE, record.key, record.to_bytes())

    async def discard(self, record: JobRecord) -> None:
        """Take a live job from the disk without a trace. Raises `StoreError`."""
        await self._store.delete(LIVE, record.key)

    async def forget(self, member: str, prompt_ids: list[str]) -> None:
        """Take ended jobs out of the history, on disk too. Raises `StoreError`."""
        gone = self.ledgers[member].forget(prompt_ids)
        self._ended_ids.difference_update(job.cloud_id for job in gone)
        await self._store.write([Delete(HISTORY, job.key) for job in gone])

    def follow(self, record: JobRecord, credentials: tuple[str, ...] = ()) -> Runner:
        """Put a job in the queue and follow it; its messages wait for `Runner.release`.

        `credentials` are the client's own, which are on no disk and so unknown after a restart.
        """
        runner = Runner(
            record,
            cloud=self._cloud,
            names=self._names,
            desk=self,
            secrets=(*self._secrets, *credentials),
            now=now,
            waits=self._waits,
        )
        self.runners[record.cloud_id] = runner
        self.ledgers[record.member].add(record)
        self.router.add(record.cloud_id, runner.post)
        runner.start()
        return runner

    def leave(self, job: JobRecord) -> None:
        """Take a job out of the queue and tell everybody how many are left."""
        self.router.remove(job.cloud_id)
        self.runners.pop(job.cloud_id, None)
        self.ledgers[job.member].remove(job.prompt_id)
        self.tell_status(job.member)

    def tell_status(self, member: str) -> None:
        """Tell all sockets of the member how many jobs wait or run."""
        self.hub.broadcast(member, status(len(self.ledgers[member])))

    # --- what the runners report -----------------------------------------------------------

    def tell(self, job: JobRecord, message: Message) -> None:
        """Deliver a message about a job."""
        self.hub.tell(job.member, job.client_id, message, watched=job.watched)

    async def turn(self, job: JobRecord) -> None:
        """Let the ends of the member's other jobs be told first, as on a server with one GPU.

        The cloud begins the next job while the end of the last one still waits for its detail.
        """
        earlier = itertools.takewhile(lambda one: one.job is not job, self.runners.values())
        ending = [
            runner.finished.wait()
            for runner in earlier
            if runner.job.member == job.member and runner.ending
        ]
        if ending:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TURN_PATIENCE):
                    await asyncio.gather(*ending)

    def job_started(self, job: JobRecord, at: int) -> None:
        """The job runs now (`at` in ms)."""
        self.ledgers[job.member].started(job.prompt_id, at)
        self.tell_status(job.member)

    async def record_end(self, job: JobRecord, end: Record) -> None:
        """Put the history entry on disk and among the records."""
        ledger = self.ledgers[job.member]
        before = ledger.ended.get(job.prompt_id)
        sequence = self._sequence if before is None else before.sequence
        self._sequence += 1
        listed = listing.of_history(
            job, end.outcome, end.outputs, end.status, end.started_at, end.ended_at
        )
        entry = {
            "prompt": job.queue_item(),
            "outputs": end.outputs,
            "status": end.status,
            "meta": end.meta,
        }
        ended = EndedJob(
            prompt_id=job.prompt_id,
            member=job.member,
            cloud_id=job.cloud_id,
            sequence=sequence,
            outcome=end.outcome,
            summary=listed.job,
            workflow_id=listed.workflow_id,
            entry=codec.dump_bytes(entry),
        )
        changes: list[Put | Delete] = [
            Put(HISTORY, ended.key, ended.to_bytes()),
            Delete(LIVE, job.key),
        ]
        over = len(ledger.ended) + (before is None) - self._history_size
        oldest = [old for old, _ in zip(ledger.ended.values(), range(over), strict=False)]
        changes += [Delete(HISTORY, old.key) for old in oldest]
        await self._store.write(changes)
        ledger.forget(old.prompt_id for old in oldest)
        ledger.add_ended(ended)
        self._ended_ids.add(job.cloud_id)

    def job_ended(self, job: JobRecord) -> None:
        """The job leaves the queue."""
        self.leave(job)
        log.info("job_ended", cloud_job=job.cloud_id)


def now() -> int:
    """The time in ms since 1970."""
    return time.time_ns() // 1_000_000
