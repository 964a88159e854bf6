"""The feed of a replica: it brings the live jobs and the sockets up to date.

The bus feeds all of this. Where it has lost something, `LiveFeed` reads from the storage which jobs
live, and which ends are due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from proxy.bus import MISSED, EventBus
from proxy.jobs.models import (
    JobChanged,
    JobLeft,
    JobMessage,
    JobsAhead,
    NewsMissed,
    QueueChanged,
    TermBegan,
    now,
)
from proxy.jobs.subscribers import Subscribers
from proxy.jobs.views import LiveJobs
from proxy.storage.database import StorageError
from proxy.storage.history import HistoryEntry
from proxy.storage.jobs import JobKey, JobRepository
from proxy.translate import codec
from proxy.translate.events import Message, status

log = structlog.get_logger(__name__)

#: Seconds between two readings while the bus is away, and between the two after a loss: the engine
#: writes a moment after the event.
_INTERVAL = 0.5


#: How far back, in ms, ends are looked for of which nothing was heard: at first, and before the
#: last look.
_RECENT, _OVERLAP = 60_000, 10_000


@dataclass(eq=False, repr=False)
class LiveFeed:
    """The feed that brings `live` and the sockets of this replica up to date.

    Clients of live jobs hear a `status` each `status_interval` seconds. `replay` gives the
    messages of an ended job, as its entry of the history has them.
    """

    bus: EventBus
    repository: JobRepository
    live: LiveJobs
    subscribers: Subscribers
    replay: Callable[[HistoryEntry], Iterable[Message]]
    status_interval: float = 5.0
    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    #: When the last of several readings has begun (ms).
    _read_at: int | None = None

    def __post_init__(self) -> None:
        self.bus.subscribe("jobs.*", self._hear)
        self.bus.subscribe("terms", self._hear_of_terms)

    def _hear(self, news: object) -> None:
        match news:
            case JobChanged(job=job, progress=progress):
                self.live.put(job, progress)
            case JobLeft(job=job, more=more):
                self.live.remove(job)
                if not more:
                    self._tell_status(job.member)
            case QueueChanged(member=member):
                self._tell_status(member)
            case JobsAhead(member=member, count=count, tell=tell):
                live = self.live.of(member)
                live.ahead = count
                if tell and not live.answering:
                    self._tell_status(member)

    def _tell_status(self, member: str) -> None:
        """Tell all sockets of the member how many jobs wait or run."""
        self.subscribers.broadcast(member, status(self.live.of(member).remaining))

    async def keep_alive(self) -> None:
        """Send a `status` now and then, for clients that take a silent socket for a dead server."""
        while True:
            await asyncio.sleep(self.status_interval)
            self._beat()

    def _beat(self) -> None:
        for member, live in self.live.members():
            news = status(live.remaining)
            for client_id in {job.client_id for job in live.jobs.values()}:
                self.subscribers.tell(member, client_id, news)

    # --- what the bus has lost -------------------------------------------------------------

    def _hear_of_terms(self, news: object) -> None:
        if news is MISSED:
            self.bus.publish("sockets", NewsMissed())
        if news is MISSED or isinstance(news, TermBegan):
            self.live.doubt()
            self._asked.set()

    async def run(self) -> None:
        """Read twice when something may be lost, and all the time while the bus is away."""
        if self.repository.shared:
            self.bus.publish("sockets", NewsMissed())
        due = 0
        while True:
            # One process has its bus in memory, which is never away.
            interval = _INTERVAL if due or self.repository.shared else None
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._asked.wait()
            if self._asked.is_set():
                self._asked.clear()
                due = 2
            if not due and self.bus.whole:
                continue
            try:
                await self.read()
            except StorageError as error:
                log.warning("jobs_read_failed", error=str(error))
            else:
                due = max(0, due - 1)
                if not due and self.bus.whole:
                    self._read_at = None
                if not due and not self._asked.is_set():
                    self.live.trust()

    async def read(self) -> None:
        """Read once. Raises `StorageError`."""
        subscribers, live = self.subscribers, self.live
        began = now()
        since = began - _RECENT if self._read_at is None else self._read_at - _OVERLAP
        before = {member: jobs.remaining for member, jobs in live.members()}
        living, gone = await live.reload()
        for member, jobs in live.members():
            if jobs.remaining != before.get(member, 0) and not jobs.answering:
                subscribers.broadcast(member, status(jobs.remaining))
        if not subscribers.members():
            return
        begun = dict(subscribers.unfinished())
        due = begun | {
            job.order: job.key
            for job in gone
            if subscribers.opened_at(job.member, job.client_id) is not None
        }
        for order, member, id_, client_id, ended_at in await self.repository.history.since(since):
            opened_at = subscribers.opened_at(member, client_id)
            if opened_at is not None and opened_at <= ended_at:
                due.setdefault(order, JobKey(member, id_))
        for order in sorted(due.keys() - living):
            if not subscribers.is_over(order):
                await self._tell_end(order, due[order], begun=order in begun)
        self._read_at = began

    async def _tell_end(self, order: int, key: JobKey, *, begun: bool) -> None:
        """Tell of a job what its client has not heard."""
        entry = await self.repository.history.entry(*key)
        if entry is None or entry.order != order:
            self.subscribers.close_job(order)
            return
        client_id = codec.loads(entry.extra_data).get("client_id")
        opened_at = self.subscribers.opened_at(key.member, client_id)
        if opened_at is None or (opened_at > entry.ended_at and not begun):
            return
        log.info("end_recovered", job=key.prompt_id, member=key.member)
        for message in self.replay(entry):
            news = JobMessage(
                key.member, client_id, key.prompt_id, watched=True, message=message, order=order
            )
            self.subscribers.deliver(news)
