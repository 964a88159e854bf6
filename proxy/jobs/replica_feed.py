"""The feed of one of several replicas, which hears of jobs over a bus that may lose messages.

Where it has lost something, `ReplicaFeed` reads from the storage which jobs live and which ends are
due, and asks the engine for the steps that are missing of those that run. No clock of a replica
decides what is due: the ends of a member are counted in the storage, and a socket opens after one
of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from proxy import clock
from proxy.bus import MISSED
from proxy.clock import now
from proxy.jobs.live_feed import LiveFeed
from proxy.jobs.message_order import KnownEnds
from proxy.jobs.messages import (
    JobAnswered,
    JobChanged,
    JobLeft,
    JobRecorded,
    JobsAhead,
    JobsMissed,
    NewsMissed,
    StepsMissed,
    StepsReceived,
)
from proxy.jobs.models import JobState
from proxy.jobs.replica_jobs import ReplicaJobs
from proxy.jobs.subscribers import Moment
from proxy.logging import FailureLines
from proxy.storage.database import StorageError
from proxy.storage.job_tables import HistoryEntry, JobKey
from proxy.supervisor import Supervisor
from proxy.translate.events import Message, status
from proxy.waits import until_set

log = structlog.get_logger(__name__)

#: Seconds between two readings while the bus is away, and between the two after a loss: the engine
#: writes a moment after the event.
_INTERVAL = 0.5
#: Seconds that a socket waits for the clock of the database before it opens.
_MOMENT_TIMEOUT = 1.0


@dataclass(kw_only=True, eq=False, repr=False)
class ReplicaFeed(LiveFeed):
    """A `LiveFeed` that hears of jobs on the bus of `live`, and reads what that loses.

    `replay` gives the messages of an ended job, as its entry of the history has them.
    """

    live: ReplicaJobs = field(kw_only=False)
    replay: Callable[[HistoryEntry], Iterable[Message]]
    #: The newest epoch of an engine that has told of a job.
    _epoch: int = field(init=False, default=0)
    _lines: FailureLines = field(init=False, default_factory=FailureLines)
    #: The known ends of members with sockets here.
    _ends: dict[str, KnownEnds] = field(init=False, default_factory=dict)
    #: How far the clock of the database was before the monotonic one, in ms.
    _database_clock: float = field(init=False)

    def __post_init__(self) -> None:
        self.bus, self.repository = self.live.bus, self.live.repository
        self._deliveries = self.subscribers.deliveries
        self._database_clock = now() - 1000 * clock.monotonic()
        self.bus.subscribe("jobs", self._receive)

    async def start(self, supervisor: Supervisor) -> None:
        """Read what lives, and again whenever the bus may have lost something. Raises
        `StorageError`.

        What the engine told before this replica could hear it may not be written yet: it is asked
        to tell it again.
        """
        self.bus.publish("sockets", NewsMissed())
        self._read_soon()
        await self.read()
        supervisor.keep(self.run, "read what was missed")
        await super().start(supervisor)

    def _receive(self, news: object) -> None:
        """Take what the bus brings of jobs. Their messages come on the topics of sockets."""
        match news:
            case JobChanged(job=job):
                # What an engine said in time may come late, also when its replica has stood still
                # and another one has taken over: the job may have ended since.
                if job.epoch >= self._epoch and not self.live.has_ended(job.order):
                    self._epoch = job.epoch
                    self.hear(news)
            case JobLeft(key=key, order=order, withdrawn=withdrawn):
                if withdrawn:
                    self._deliveries.withdraw(order)
                else:
                    self.live.end(key, order)
                    self.history.ended(key)
                self.hear(news)
            case JobAnswered() | JobsAhead():
                self.hear(news)
            case JobRecorded(key=key, order=order, client_id=client_id, ordinal=ordinal):
                self.hear(news)
                # Messages about the end are due: they are read if the bus loses them.
                if self.subscribers.listens(key.member, client_id):
                    self._deliveries.expect(order, key, client_id)
                if ordinal and key.member in self._ends:
                    self._ends[key.member].add(ordinal)
            case JobsMissed():
                self._read_soon()
            case _ if news is MISSED:
                self.bus.publish("sockets", NewsMissed())
                self._read_soon()

    # --- sockets ---------------------------------------------------------------------------

    async def moment(self, member: str) -> Moment:
        """Return the moment in which a socket of a member opens; ask before it does."""
        monotonic = 1000 * clock.monotonic()
        try:
            async with asyncio.timeout(_MOMENT_TIMEOUT):
                at, ended = await self.repository.history.moment(member)
        except (StorageError, TimeoutError) as error:
            if (more := self._lines.due("moment_read_failed")) is not None:
                log.warning("moment_read_failed", error=str(error), **more)
            return Moment(round(monotonic + self._database_clock), None)
        self._lines.ended("moment_read_failed")
        self._database_clock = at - monotonic
        return Moment(at, ended)

    def _expect(self, member: str, client_id: str) -> None:
        for job in self.live.of(member).jobs.values():
            if job.state == JobState.RUNNING and job.client_id in (client_id, None):
                self._deliveries.expect(job.order, job.key, job.client_id, running=True)

    # --- what the bus has lost -------------------------------------------------------------

    def _read_soon(self) -> None:
        """Read from the storage at once and again soon, and rely on the bus only then."""
        self.live.doubt()
        self._deliveries.missed.set()

    async def run(self) -> None:
        """Read twice when something may be lost, and all the time while something is missing or the
        bus is away."""
        due, missed = 0, self._deliveries.missed
        while True:
            if await until_set(missed, _INTERVAL):
                missed.clear()
                due = 2
            if not due and self.bus.whole:
                continue
            try:
                await self.read()
            except StorageError as error:
                if (more := self._lines.due("jobs_read_failed")) is not None:
                    log.warning("jobs_read_failed", error=str(error), **more)
            else:
                self._lines.ended("jobs_read_failed")
                due = max(due - 1, int(self._deliveries.lack or self._has_hidden()))
                if not due and not missed.is_set():
                    self.live.trust()

    async def read(self) -> None:
        """Read once. Raises `StorageError`."""
        subscribers, live = self.subscribers, self.live
        begun = self._deliveries.unfinished()
        before = {member: jobs.remaining for member, jobs in live.members()}
        living, gone = await live.reload()
        for member, jobs in live.members():
            if jobs.remaining != before.get(member, 0) and not jobs.answering:
                subscribers.broadcast(member, status(jobs.remaining))
        lasts = {member: self._last_end(member) for member in subscribers.members()}
        ends, read = await self.repository.history.ends_after(lasts)
        due = {order: begun_job.key for order, begun_job in begun.items() if order not in living}
        due |= {
            job.order: job.key for job in gone if subscribers.listens(job.member, job.client_id)
        }
        due |= {
            end.order: JobKey(end.member, end.prompt_id)
            for end in ends
            if subscribers.opened_before(end.member, end.client_id, end.ordinal)
        }
        untold = {order: due[order] for order in sorted(due) if not self._deliveries.is_over(order)}
        for order, key in untold.items():
            self.bus.publish("jobs", JobLeft(key, order))
        if untold:
            await self.bus.flush()
        for order, key in untold.items():
            await self._tell_end(order, key)
        self._mark_read(read)
        self._ask_for_steps(living)

    def _has_hidden(self) -> bool:
        """Whether messages were sent of a job that is in no queue and has no end: its row leaves
        the storage at any time, of which nobody tells."""
        live = {job.order for job in self.live}
        return any(order not in live for order in self._deliveries.unfinished())

    def _last_end(self, member: str) -> int | None:
        """Return the last end of a member up to which all are known here; `None` if none is."""
        ends = self._ends.get(member)
        return self.subscribers.ends_before(member) if ends is None else ends.last

    def _mark_read(self, read: Mapping[str, int]) -> None:
        """Note up to which end of each member with sockets all have been read."""
        known = self._ends
        self._ends = {member: known.get(member) or KnownEnds(last) for member, last in read.items()}
        for member, last in read.items():
            self._ends[member].read(last)

    async def _tell_end(self, order: int, key: JobKey) -> None:
        """Send what its client has not received of a job that has ended."""
        entry = await self.repository.history.entry(*key)
        if entry is None or entry.order != order:
            self._deliveries.close(order)
            return
        if self.subscribers.end(order, key, entry.client_id, entry.ordinal, self.replay(entry)):
            log.info("end_recovered", job=key.prompt_id, member=key.member)

    def _ask_for_steps(self, living: Collection[int]) -> None:
        """Ask the engine for what was missed of jobs that run."""
        subscribers = self.subscribers
        for job in self.live:
            if job.state == JobState.RUNNING and subscribers.listens(job.member, job.client_id):
                self._deliveries.expect(job.order, job.key, job.client_id)
        received = tuple(
            StepsReceived(delivery.key, order, delivery.epoch, delivery.number)
            for order, delivery in self._deliveries.unfinished().items()
            if delivery.number is not None and order in living
        )
        if received and self.bus.connected:
            # If it is lost, nobody misses it: it is asked again.
            self.bus.publish("engine", StepsMissed(received), droppable=True)
