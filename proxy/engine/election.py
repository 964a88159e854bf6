"""Which replica's engine runs the jobs, for how long, and how it continues with those it finds.

A term begins with the lease. It is over when its own clock says that the lease may have run out,
when a write was refused because another replica has the lease, or when the process stops. A new
term begins with a new engine, which knows what the storage knows. `Recovery` continues jobs whose
state is not fully known (after a start, or when an answer got lost), `Cancellation` ends those that
clients want no more.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from proxy.bus import EventBus
from proxy.cloud.resilience import Backoff, CloudError, CloudRefused
from proxy.engine.dispatcher import AGAIN, EnginePart
from proxy.engine.recorder import Term
from proxy.jobs.models import (
    AccountView,
    CancelAnswered,
    CancelRequested,
    Job,
    JobState,
    LeaseReleased,
    TermBegan,
)
from proxy.storage.database import StorageError
from proxy.storage.leases import ENGINE, LeaseRepository
from proxy.supervisor import Supervisor
from proxy.translate.errors import LocalError, from_cloud

if TYPE_CHECKING:
    from proxy.engine.accounts import Account
    from proxy.engine.engine import Engine

log = structlog.get_logger(__name__)

#: The part of the lease's length after which it is renewed, or tried for, and the part at its end
#: in which nothing is done under it: clocks run differently, and calls take time.
_RENEWAL, _MARGIN = 1 / 3, 0.1


@dataclass(eq=False, repr=False)
class Election:
    """Takes the lease when it is free, and runs an engine while it lasts.

    `make` makes the engine of a term. The lease is taken for `length` seconds. With `alone` no
    other process can want it: it is taken at once and does not run out.
    """

    leases: LeaseRepository
    bus: EventBus
    make: Callable[[Term], Engine]
    by_name: Mapping[str, Account]
    holder: str
    length: float
    alone: bool
    engine: Engine | None = None
    _term: Term | None = None
    _free: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._heard = self.bus.subscribe("terms", self._hear)

    def is_active(self) -> bool:
        """Whether the engine of this process runs the jobs."""
        return self.engine is not None

    def accounts(self) -> Sequence[AccountView]:
        """The accounts that the engine of this process runs; none while it is a standby."""
        return () if self.engine is None else self.engine.announcer.accounts()

    async def use_key(self, account: str, key: str) -> None:
        """Take another key of an account."""
        if self.engine is not None:
            await self.engine.use_key(account, key)
        else:
            self.by_name[account].use_key(key)

    async def start(self, supervisor: Supervisor) -> None:
        """Try for the lease once, then continue until `leave`. Raises `StorageError`."""
        await self._begin()
        self._task = supervisor.keep(self._run, "election")

    async def leave(self) -> None:
        """Let another replica take over at once; once more is nothing. The jobs continue."""
        self._heard.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        term = self._term
        lasted = term is not None and term.lasts
        await self._end()
        if term is not None and lasted:
            try:
                await self.leases.release(term.lease)
            except StorageError as error:
                log.error("lease_release_failed", error=str(error))
            self.bus.publish("terms", LeaseReleased())
            await self.bus.flush()

    # --- terms -----------------------------------------------------------------------------

    def _hear(self, news: object) -> None:
        if isinstance(news, LeaseReleased):
            self._free.set()

    async def _run(self) -> None:
        while True:
            try:
                if self._term is None:
                    await self._begin()
                if self._term is not None:
                    await self._hold(self._term)
            except StorageError as error:
                log.warning("lease_failed", error=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(self.length * _RENEWAL):
                    await self._free.wait()
            self._free.clear()

    async def _begin(self) -> None:
        """Take the lease if it is free, and start an engine. Raises `StorageError`."""
        began = time.monotonic()
        lease = await self.leases.acquire(ENGINE, self.holder, self.length, alone=self.alone)
        if lease is None:
            return
        term = self._term = Term(lease, self._until(began))
        engine = self.make(term)
        log.info("engine_started", epoch=lease.epoch)
        try:
            await engine.start()
        except BaseException:
            self._term = None
            await engine.close(write=False)
            await self.leases.release(lease)
            raise
        self.engine = engine
        self.bus.publish("terms", TermBegan())

    async def _hold(self, term: Term) -> None:
        """Renew the lease until the term is over; then nothing of its engine is left."""
        try:
            while term.lasts:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(self._next(term)):
                        await term.over.wait()
                if not self.alone:
                    await self._renew(term)
        finally:
            if not term.lasts:
                log.warning("engine_stopped", epoch=term.lease.epoch)
                await self._end()

    def _next(self, term: Term) -> float | None:
        """When the lease is to be renewed next, in the time of the event loop."""
        if self.alone:
            return None
        wait = min(self.length * _RENEWAL, term.until - time.monotonic())
        return asyncio.get_running_loop().time() + max(0.0, wait)

    async def _renew(self, term: Term) -> None:
        if not term.lasts:
            return
        began = time.monotonic()
        try:
            async with asyncio.timeout(term.until - began):
                if not await self.leases.renew(term.lease, self.length):
                    term.end()
                elif not term.over.is_set():
                    term.until = self._until(began)
        except (StorageError, TimeoutError) as error:
            log.warning("lease_renewal_failed", error=str(error))

    async def _end(self) -> None:
        """Stop the engine; what it has not written is written if its term lasts."""
        engine, term = self.engine, self._term
        self.engine = self._term = None
        if engine is not None and term is not None:
            await engine.close(write=term.lasts)
            term.end()

    def _until(self, began: float) -> float:
        return math.inf if self.alone else began + self.length * (1 - _MARGIN)


#: Between two looks for a job whose submission was not answered.
_LOOKS = Backoff(first=0.5, longest=10.0)


class Recovery(EnginePart):
    """Brings an engine's jobs back to where they are."""

    def restore(self, job: Job) -> None:
        """Continue with a job from before the start."""
        self._jobs[job.key] = job
        if job.state in (JobState.RECEIVED, JobState.QUEUED):
            new = job.state is JobState.RECEIVED
            if new:
                job.to(JobState.QUEUED)
            job.accepted = True
            self._announcer.changed(job)
            if not self._engine.dispatcher.fails(job):
                self._scheduler.queue.add(job)
            if new:
                self._recorder.changed(job)
                self._announcer.accepted(job)
                self._engine.dispatcher.answer(job.key)
            return
        worker = self._workers.get(job.account)
        if worker is None:
            self._engine.spawn(self._find_home(job), f"find the account of {job.prompt_id}")
            self._announcer.changed(job)
            return
        self._scheduler.keep(job)
        if job.cancel_requested and job.started_at is not None:
            job.cancel_requested = False
            self._engine.follow(job, worker)
            self._engine.spawn(
                self._engine.cancellation.cancel(CancelRequested("", (job.key,))),
                f"cancel {job.prompt_id}",
            )
        elif job.cloud_id and job.cancel_requested:
            self._engine.spawn(worker.cancel_on_its_way(job), f"cancel {job.prompt_id}")
        elif job.cloud_id:
            self._engine.follow(job, worker)
            worker.reconciler.read_soon()
        else:
            if job.state is JobState.SUBMITTING:
                job.to(JobState.UNKNOWN)
            # Another replica may have told the client that the job is there.
            if self._recorder.jobs.shared and not job.accepted:
                job.accepted = True
                self._recorder.changed(job)
            self.seek(job)

    async def _find_home(self, job: Job) -> None:
        """Find the account of a job whose own is in the settings no more, by asking all.

        The job is shown with the reason, and ends as lost after `lost_timeout`.
        """
        since = time.monotonic()
        self._announcer.explain(job, "no_account")
        for failures in itertools.count(1):
            for worker in self._workers.values():
                with suppress(CloudError):
                    if job.cloud_id:
                        there = await worker.cloud.job(job.cloud_id) is not None
                    else:
                        found = await worker.submitter.find(job)
                        there, job.cloud_id = found is not None, found or ""
                    if there:
                        job.reason, job.account = None, worker.name
                        self._scheduler.keep(job)
                        self._engine.taken(job, job.cloud_id)
                        return
            lost = self._policy.lost_timeout
            if lost and time.monotonic() - since >= lost:
                error = LocalError(
                    "JobLost",
                    f"The Comfy Cloud account {job.account} of this job was removed from the "
                    "settings, and no other account has the job; find its outputs on the cloud "
                    "with that account.",
                    kind="not_found",
                )
                self._engine.dispatcher.refuse(job, error)
                return
            await asyncio.sleep(AGAIN.after(failures))

    # --- submissions without an answer -----------------------------------------------------

    def lose_answer(self, job: Job) -> None:
        """Nobody knows whether the cloud has taken the job."""
        job.to(JobState.UNKNOWN)
        self._recorder.changed(job)
        self.seek(job)
        self._announcer.tell_status(job.member)

    def seek(self, job: Job) -> None:
        """List a job of which nobody knows whether the cloud has it, and look for it there.

        It counts as pending, so that a client which looks for it does not submit it again.
        """
        if not job.cancel_requested:
            self._announcer.changed(job)
        self._engine.spawn(self._settle(job), f"look for {job.prompt_id}")

    async def _settle(self, job: Job) -> None:
        structlog.contextvars.bind_contextvars(job=job.prompt_id, member=job.member)
        cloud_id = await self._look(job)
        if cloud_id is not None:
            log.info("unanswered_job_adopted", cloud_job=cloud_id)
            new = not job.accepted and not job.cancel_requested
            self._engine.taken(job, cloud_id)
            if new:
                self._announcer.accepted(job)
            self._announcer.tell_status(job.member)
            return
        log.info("unanswered_job_dismissed")
        if job.accepted and not job.cancel_requested:
            await self._engine.dispatcher.not_taken(job, None)
            return
        await self._engine.dispatcher.drop(job)
        if not job.cancel_requested:
            self._announcer.discarded(job)

    async def _look(self, job: Job) -> str | None:
        """The cloud id of the job, or `None` when it is certain that the cloud does not have it.

        The process ended, or the account could not be read, between the call and its answer. A job
        that is not found for `adoption_patience` seconds, counted from the first look that
        succeeded, is not there.
        """
        submitter = self._workers[job.account].submitter
        since: float | None = None
        for looks in itertools.count(1):
            begun = time.monotonic()
            try:
                cloud_id = await submitter.find(job)
            except CloudError as error:
                log.warning("unanswered_job_read_failed", error=str(error))
            else:
                since = begun if since is None else since
                certain = begun - since >= self._policy.adoption_patience
                if cloud_id is not None or certain:
                    return cloud_id
            await asyncio.sleep(_LOOKS.after(looks))
        raise AssertionError("the looks never end")


class Cancellation(EnginePart):
    """Takes an engine's jobs out of the queue, or has the cloud end them."""

    async def cancel(self, asked: CancelRequested) -> None:
        """End jobs, and say whether that did it."""
        jobs = [job for key in asked.keys if (job := self._jobs.get(key)) is not None]
        try:
            answer = CancelAnswered(await self._cancel_all(jobs))
        except LocalError as error:
            answer = CancelAnswered(error=error)
        if self._recorder.term.lasts:
            self._bus.publish(f"answers.{asked.request}", answer)

    async def _cancel_all(self, jobs: list[Job]) -> bool:
        """Cancel live jobs; says whether any was cancelled by this. Raises `LocalError`."""
        waiting = [job for job in jobs if job in self._scheduler.queue]
        others = [job for job in jobs if job not in waiting]
        if waiting:
            await self._withdraw(waiting)
        results = await asyncio.gather(*map(self._cancel_placed, others), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return bool(waiting) or any(results)

    async def _withdraw(self, jobs: list[Job]) -> None:
        """Take waiting jobs out without a trace; if they cannot be removed they still wait."""
        for job in jobs:
            self._scheduler.queue.remove(job)
        try:
            await self._recorder.discard(*jobs)
        except StorageError as error:
            for job in jobs:
                self._scheduler.queue.add(job)
            raise LocalError(
                "store_unavailable",
                "The proxy cannot write to its data folder, so the jobs stay in the queue; free "
                "disk space or repair the disk, then try again.",
                kind="unavailable",
            ) from error
        finally:
            self._engine.dispatcher.pump()
        for job in jobs:
            self._jobs.pop(job.key, None)
            self._gone(job)

    async def _cancel_placed(self, job: Job) -> bool:
        """Cancel a job that has left the queue.

        One that does not run is gone at once, a running one when the cloud says so.
        """
        if not job.cloud_id:
            job.cancel_requested = True
            self._gone(job)
            self._recorder.changed(job)
            return True
        worker, runner = self._workers.get(job.account), job.runner
        if worker is None or runner is None:
            return False
        try:
            self._recorder.term.check()
            cancelled = await worker.cloud.cancel(job.cloud_id)
        except CloudRefused as error:
            raise from_cloud(error.status, error.body, error.retry_after) from error
        except CloudError as error:
            raise LocalError(
                "cloud_unreachable",
                "The job could not be cancelled on Comfy Cloud and continues; try again.",
                kind="unavailable",
                details=job.prompt_id,
                retry_after=error.retry_after or 10.0,
            ) from error
        live = self._jobs.get(job.key) is job
        if not cancelled or job.started_at is not None or not live:
            runner.read_detail()
            return cancelled
        await runner.stop()
        await self._engine.dispatcher.discard(job)
        self._engine.forget(job)
        self._gone(job)
        return True

    def _gone(self, job: Job) -> None:
        """A job has left the queue without a trace."""
        if job.state not in (JobState.SUBMITTING, JobState.UNKNOWN):
            job.to(JobState.CANCELLED)
        log.info(
            "job_discarded", job=job.prompt_id, member=job.member, cloud_job=job.cloud_id or None
        )
        self._announcer.discarded(job)
