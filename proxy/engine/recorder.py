"""What becomes of jobs, written to the storage and told on the bus.

A job is in the storage, with its graph, before the engine learns of it. Changes of state are some
bytes each; they are gathered for a moment and written together, in order, behind what happens.
Every write carries the fence of the engine's lease.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import structlog
from msgspec.structs import replace

from proxy.bus import BusMessage
from proxy.engine.tracker import RecordEnd
from proxy.jobs.conversion import columns, job_of, of_history, used
from proxy.jobs.models import (
    ENDS,
    AccountView,
    Job,
    JobChanged,
    JobKey,
    JobLeft,
    JobsAhead,
    JobState,
    LiveJob,
    NodeRuns,
    Outcome,
    OverviewAnswered,
    live_of,
    now,
    topic_of,
)
from proxy.storage.database import FencedError, StorageError
from proxy.storage.history import EndedJob
from proxy.storage.jobs import JobRepository, Shares, day_of
from proxy.storage.leases import Lease
from proxy.storage.usage import UsageRow
from proxy.translate import codec

if TYPE_CHECKING:
    from proxy.engine.engine import AccountWorker, Engine

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


@dataclass(eq=False, repr=False)
class JobRecorder:
    """Where the engine keeps its jobs. `history_size` counts entries of each member."""

    jobs: JobRepository
    term: Term
    history_size: int
    _changed: dict[int, Job] = field(default_factory=dict)
    _shares: Shares | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _flushing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def load(self) -> tuple[list[Job], Shares]:
        """The jobs that have not ended, as they came, and the fair shares.

        Raises `StorageError`, also for a job that cannot be read.
        """
        stored = await self.jobs.live()
        payloads = await self.jobs.payloads([one.key for one in stored])
        try:
            jobs = [
                job_of(one, payloads[one.key])
                for one in stored
                if one.state != JobState.RECEIVED or one.key in payloads  # withdrawn meanwhile
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"a job in the database cannot be read: {error!r}") from error
        return jobs, await self.jobs.load_shares()

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
        stored = await self.jobs.get(*key)
        payload = await self.jobs.payload(order)
        if stored is None or stored.key != order or payload is None:
            return None
        return job_of(stored, payload)

    # --- writing ---------------------------------------------------------------------------

    def changed(self, job: Job, shares: Shares | None = None) -> None:
        """Write the job's state soon."""
        self._note(job, shares)
        self._news.set()

    async def save(self, job: Job, shares: Shares | None = None) -> bool:
        """Write the job's state now; false if the job is no longer stored. Raises
        `StorageError`."""
        self._note(job, shares)
        await self.flush()
        return job.stored

    def _note(self, job: Job, shares: Shares | None) -> None:
        self._changed[job.order] = job
        self._shares = _merged(self._shares, shares)

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
                self.jobs.update(
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
            self.jobs.discard(
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
        summary = of_history(job, end)
        seconds = (end.ended_at - end.started_at) / 1000
        used = UsageRow(
            day_of(end.ended_at / 1000),
            job.member,
            running_seconds=seconds,
            outputs=summary["outputs_count"],
        )
        setattr(used, end.outcome, 1)
        forgotten = await self._write(
            self.jobs.finish(
                job.order,
                EndedJob(
                    state=ENDS[end.outcome].value,
                    started_at=end.started_at,
                    ended_at=end.ended_at,
                    summary=codec.dump_bytes(summary),
                    result=codec.dump_bytes(
                        {"outputs": end.outputs, "status": end.status, "meta": end.meta}
                    ),
                    outputs_to_execute=job.outputs_to_execute,
                    details=codec.dump_bytes(
                        {"account": job.account, "nodes": end.node_times, "cost": end.cost}
                    ),
                    cloud_id=job.cloud_id or None,
                ),
                keep=self.history_size,
                usage=[used],
                shares=shares,
                fence=self.term.fence,
            )
        )
        self._changed.pop(job.order, None)
        return forgotten

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


# --- what is told on the bus ---------------------------------------------------------------

#: Seconds in which changes for others' queues are gathered before they are told.
_TELLING = 0.05


class Announcer:
    """Tells of an engine's jobs, as long as its term lasts.

    What becomes of a job is counted here, once for all replicas.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._bus = engine.bus
        self._term = engine.recorder.term
        self._scheduler = engine.scheduler
        self._metrics = engine.metrics
        self._ahead: dict[str, int] = {}
        self._telling: asyncio.TimerHandle | None = None
        self._telling_all: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Tell nothing more."""
        for timer in (self._telling, self._telling_all):
            if timer is not None:
                timer.cancel()

    # --- telling ---------------------------------------------------------------------------

    def publish(self, member: str, news: BusMessage) -> None:
        """Tell what becomes of a member's jobs, while this engine runs them."""
        if self._term.lasts:
            self._bus.publish(f"jobs.{member}", news)

    def changed(self, job: Job) -> None:
        """A job is in the queue in its state."""
        self.publish(job.member, JobChanged(live_of(job)))

    def accepted(self, job: Job) -> None:
        """The client learns that its job is in the queue."""
        if self._term.lasts:
            self._metrics.accepted(job)

    def dispatched(self, job: Job) -> None:
        """The cloud has taken a job."""
        if self._term.lasts:
            self._metrics.dispatched(job, max(0, now() - job.create_time) / 1000)

    def discarded(self, job: Job) -> None:
        """A job has left the queue without a trace."""
        self.publish(job.member, JobLeft(live_of(job)))
        if self._term.lasts and job.accepted:
            self._metrics.discarded(job)

    def ended(self, job: Job, outcome: Outcome, seconds: float) -> None:
        """A job has left the queue for the history; it has run for so long."""
        self.publish(job.member, JobLeft(live_of(job)))
        if self._term.lasts:
            self._metrics.ended(job, outcome, seconds)

    def tell_status(self, member: str) -> None:
        """Let the member's sockets hear how many jobs are left."""
        self.publish(member, JobsAhead(member, self._ahead.get(member, 0), tell=True))

    def explain(self, job: Job, reason: str | None, message: str | None = None) -> None:
        """Show why a job does not continue, in a word and in a sentence."""
        if (job.reason, job.message) != (reason, message):
            job.reason, job.message = reason, message
            self.changed(job)

    def tell_running(self, member: str, client_id: str, socket: str) -> None:
        """Tell a socket that has just opened which node of its client runs."""
        for job in reversed(self._engine.followed.values()):
            if job.client_id == client_id and job.member == member and job.runner is not None:
                node = job.runner.tracker.nodes.display_node
                if node is not None and self._term.lasts:
                    news = NodeRuns(member, client_id, socket, node)
                    self._bus.publish(topic_of(member, client_id), news)
                    return

    def tell_all(self) -> None:
        """Tell of all jobs in a while, once for all who ask meanwhile."""
        if self._telling_all is None:
            loop = asyncio.get_running_loop()
            self._telling_all = loop.call_later(_TELLING, self._tell_all)

    def _tell_all(self) -> None:
        """Tell of all jobs once more, for those who have missed something."""
        self._telling_all = None
        for job in self._engine.jobs.values():
            known = job.accepted or job.state is JobState.UNKNOWN
            if known and not job.cancel_requested:
                self.changed(job)
        for member, count in self._ahead.items():
            self.publish(member, JobsAhead(member, count))

    def tell_ahead(self) -> None:
        """Tell members whose waiting jobs have moved up because of somebody else, in a while."""
        self._scheduler.changed()
        if self._telling is None and (self._ahead or len(self._scheduler.queue)):
            self._telling = asyncio.get_running_loop().call_later(_TELLING, self._tell_others)

    def _tell_others(self) -> None:
        self._telling = None
        self._note_blocked()
        members = self._scheduler.queue.members()
        if len(members) > 1:
            self._scheduler.forecast()  # of all members at once
        for member in {*members, *self._ahead}:
            self.note_ahead(member, tell=True)

    def _note_blocked(self) -> None:
        """Note on waiting jobs why their accounts take none."""
        for member in self._scheduler.queue.members():
            for found in self._scheduler.waiting(member, self._scheduler.queue.of(member)):
                self.explain(*found)

    def note_ahead(self, member: str, *, tell: bool) -> None:
        """Tell how many jobs of others go before the member's last one, if that has changed."""
        ahead = self._scheduler.before(member)
        if ahead != self._ahead.get(member, 0):
            if ahead:
                self._ahead[member] = ahead
            else:
                self._ahead.pop(member, None)
            self.publish(member, JobsAhead(member, ahead, tell))

    # --- what admins see -------------------------------------------------------------------

    def overview(self, member: str | None) -> OverviewAnswered:
        """All live jobs, or those of one member, and the accounts."""
        rank = {"running": 0, "pending": 1, "sending": 2}
        views = [
            _seen(job)
            for job in self._engine.jobs.values()
            if job.state not in (JobState.RECEIVED, JobState.QUEUED)
            and (job.accepted or job.state is JobState.UNKNOWN)
            and not job.cancel_requested
            and member in (None, job.member)
        ]
        views.sort(key=lambda view: (rank[view.shown], view.started_at or view.create_time))
        views += [
            replace(live_of(place.job), account="", before=place.before, reason=place.reason)
            for place in self._scheduler.forecast()
            if member in (None, place.job.member)
        ]
        return OverviewAnswered(tuple(views), self.accounts())

    def accounts(self) -> tuple[AccountView, ...]:
        """Return the accounts as they are now."""
        return tuple(map(self._account_view, self._engine.workers.values()))

    def _account_view(self, worker: AccountWorker) -> AccountView:
        health = worker.health
        rest = health.until - time.monotonic()
        return AccountView(
            worker.name,
            worker.slots.count,
            self._scheduler.used(worker.name),
            health.reason,
            now() + int(rest * 1000) if not health.well and rest > 0 else None,
            worker.socket.connected,
            worker.socket.refused,
        )


def _seen(job: Job) -> LiveJob:
    """A live job as admins see it, with the node that runs."""
    view = live_of(job)
    if job.runner is None or job.state is not JobState.RUNNING:
        return view
    tracker = job.runner.tracker
    node = tracker.nodes.display_node
    type_ = None if node is None else tracker.nodes.types.get(node)
    return replace(view, progress=tracker.nodes.progress, node=node, node_type=type_)
