"""Keeps all members' live jobs and history: in memory, in the store and on the sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

import structlog

from proxy.jobs import listing
from proxy.jobs.happenings import Record, Seen
from proxy.jobs.hub import Hub
from proxy.jobs.lane import Lane
from proxy.jobs.ledger import Ledger
from proxy.jobs.localising import Names
from proxy.jobs.observer import Observers
from proxy.jobs.record import EndedJob, JobRecord, Outcome
from proxy.jobs.runner import Runner, Waits
from proxy.store.base import Delete, Put, Store, StoreError
from proxy.translate import codec
from proxy.translate.messages import Message, status
from proxy.translate.snapshot import Snapshot

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: How long, in seconds, a job waits for the end of another one to be told.
TURN_PATIENCE = 2.0

LIVE = "jobs"
HISTORY = "history"
TURNS = "turns"


class Places(Protocol):
    """What the keeper tells of the places on the accounts, and asks about the queue."""

    def started(self, job: JobRecord) -> None:
        """A job runs."""

    def left(self, job: JobRecord, running_seconds: float | None = None) -> None:
        """A job needs its slot no more; once it has been recorded it is known how long it ran."""

    def remaining(self, member: str) -> int:
        """How many jobs a member has before it and of its own."""


class Keeper:
    """Where the runners report (a `runner.Desk`).

    `runners` has the jobs on the cloud by cloud id, and refused ones by their key. `secrets` are
    the accounts' keys, which no record may show; `history_size` bounds the entries of each
    member. `places` is set by who hands out the slots.
    """

    places: Places

    def __init__(
        self,
        *,
        store: Store,
        lanes: Mapping[str, Lane],
        names: Names,
        secrets: Iterable[str],
        history_size: int,
        waits: Waits,
        observers: Observers | None = None,
    ) -> None:
        self.hub = Hub()
        self.observers = observers or Observers()
        self.ledgers: defaultdict[str, Ledger] = defaultdict(Ledger)
        self.runners: dict[str, Runner] = {}
        self._store = store
        self._lanes = lanes
        self._names = names
        self._secrets: tuple[str, ...] = tuple(secrets)
        self._history_size = history_size
        self._waits = waits
        self._sequence = 0
        self._ended_ids: set[str] = set()
        self._ends: dict[str, tuple[Outcome, float, int]] = {}
        self.told: dict[str, int] = {}

    async def load(self) -> list[JobRecord]:
        """Read what was kept; returns the jobs that have not ended, in the order of their coming.

        A record that cannot be read is left where it is, and out.
        """
        ended = [job async for job in self._scan(HISTORY, EndedJob.from_bytes)]
        for job in sorted(ended, key=lambda job: job.sequence):
            self.ledgers[job.member].add_ended(job)
            self._ended_ids.add(job.cloud_id)
            self._sequence = max(self._sequence, job.sequence + 1)
        live = [record async for record in self._scan(LIVE, JobRecord.from_bytes)]
        return sorted(live, key=lambda record: (record.order, record.create_time))

    async def load_turns(self, restore: Callable[[Mapping[str, Any]], None]) -> None:
        """Give the kept state of the turns to `restore`, if there is one that can be read."""
        async for _ in self._scan(TURNS, lambda data: restore(codec.loads(data))):
            pass

    async def _scan(self, collection: str, read: Callable[[bytes], T]) -> AsyncIterator[T]:
        async for key, data in self._store.scan(collection):
            try:
                yield read(data)
            except (ValueError, TypeError, KeyError) as error:
                log.error("record_rejected", kind=collection, key=key, error=str(error))

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

    async def save(self, record: JobRecord, turns: Mapping[str, Any] | None = None) -> None:
        """Write a live job to disk, with the state of the turns if given. Raises `StoreError`."""
        await self._store.write([Put(LIVE, record.key, record.to_bytes()), *_kept(turns)])

    async def discard(self, *records: JobRecord, turns: Mapping[str, Any] | None = None) -> None:
        """Take live jobs from the disk without a trace. Raises `StoreError`."""
        await self._store.write([*(Delete(LIVE, one.key) for one in records), *_kept(turns)])

    async def forget(self, member: str, prompt_ids: list[str]) -> None:
        """Take ended jobs out of the history, on disk too. Raises `StoreError`."""
        gone = self.ledgers[member].forget(prompt_ids)
        self._ended_ids.difference_update(job.cloud_id for job in gone)
        await self._store.write([Delete(HISTORY, job.key) for job in gone])

    def follow(self, record: JobRecord, credentials: tuple[str, ...] = ()) -> Runner:
        """Put a job in the queue and follow it; its messages wait for `Runner.release`.

        `credentials` are the client's own, which are on no disk and so unknown after a restart.
        """
        lane = self._lanes[record.account]
        runner = Runner(
            record,
            cloud=lane.cloud,
            names=self._names,
            desk=self,
            secrets=(*self._secrets, *credentials),
            now=now,
            waits=self._waits,
        )
        self.runners[record.cloud_id] = runner
        self.ledgers[record.member].add(record)
        lane.router.add(record.cloud_id, runner.post)
        runner.start()
        lane.reconciler.job_added()
        return runner

    def refuse(self, record: JobRecord, error: Mapping[str, Any]) -> Runner:
        """Let a waiting job, which is on no account, end as failed with a life of its own."""
        lane = next(iter(self._lanes.values()))
        runner = Runner(
            record,
            cloud=lane.cloud,
            names=self._names,
            desk=self,
            secrets=self._secrets,
            now=now,
            waits=self._waits,
        )
        self.runners[record.key] = runner
        runner.start()
        runner.post(
            Seen(Snapshot(record.prompt_id, "failed", settled=True, execution_error=dict(error)))
        )
        return runner

    def leave(self, job: JobRecord) -> None:
        """Take a job out of the queue and tell everybody how many are left."""
        if job.account in self._lanes:
            self._lanes[job.account].router.remove(job.cloud_id)
        self.runners.pop(job.cloud_id or job.key, None)
        self.ledgers[job.member].remove(job.prompt_id)
        self.places.left(job)
        self.tell_status(job.member)

    def tell_status(self, member: str) -> None:
        """Tell all sockets of the member how many jobs wait or run."""
        remaining = self.told[member] = self.places.remaining(member)
        self.hub.broadcast(member, status(remaining))

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

    async def job_started(self, job: JobRecord, at: int) -> None:
        """The job runs now (`at` in ms)."""
        ledger = self.ledgers[job.member]
        again = job.started_at is not None
        if ledger.live.get(job.prompt_id) is job and not again:
            ledger.started(job.prompt_id, at)
        self.places.started(job)
        self.tell_status(job.member)
        if job.cloud_id and not again:
            try:
                await self.save(job)
            except StoreError as error:
                log.warning("start_save_failed", error=str(error))

    def job_over(self, job: JobRecord) -> None:
        """The cloud has told of the end: the slot is free."""
        self.places.left(job)

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
        if job.cloud_id:
            self._ended_ids.add(job.cloud_id)
        self._ends[job.key] = (
            end.outcome,
            (end.ended_at - end.started_at) / 1000,
            int(listed.job.get("outputs_count", 0)),
        )

    def job_ended(self, job: JobRecord) -> None:
        """The job leaves the queue."""
        outcome, seconds, count = self._ends.pop(job.key)
        self.places.left(job, seconds)
        self.leave(job)
        log.info("job_ended", cloud_job=job.cloud_id, outcome=outcome, seconds=round(seconds, 3))
        self.observers.ended(job, outcome, seconds, count)


def _kept(turns: Mapping[str, Any] | None) -> list[Put]:
    """The writing of the state of the turns, if there is one to write."""
    return [] if turns is None else [Put(TURNS, "state", codec.dump_bytes(turns))]


def now() -> int:
    """The time in ms since 1970."""
    return time.time_ns() // 1_000_000
