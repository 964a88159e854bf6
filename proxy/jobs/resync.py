"""Reads from the storage what the bus has lost: the jobs that live, and ends that are due."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from proxy.bus.base import MISSED, EventBus
from proxy.jobs.live import LiveJobs
from proxy.jobs.models import OUTCOMES, JobKey, now
from proxy.jobs.protocol import JobMessage, NewsMissed, TermBegan
from proxy.jobs.subscribers import Subscribers
from proxy.jobs.tracker import EventReceived, SendMessage, SnapshotReceived, Tracker
from proxy.storage.database import StorageError
from proxy.storage.jobs import HistoryEntry, JobRepository
from proxy.translate import codec
from proxy.translate.events import Message, status
from proxy.translate.snapshot import Snapshot

log = structlog.get_logger(__name__)

#: Seconds between two readings while the bus is away, and between the two after a loss: the engine
#: writes a moment behind what happens.
_INTERVAL = 0.5

#: How far back, in ms, ends are looked for of which nothing was heard: at first, and before the
#: last look.
_RECENT, _OVERLAP = 60_000, 10_000


class Resync:
    """Brings `live` and the sockets of this replica up to date."""

    def __init__(
        self, bus: EventBus, repository: JobRepository, live: LiveJobs, subscribers: Subscribers
    ) -> None:
        self._bus = bus
        self._repository = repository
        self._live = live
        self._subscribers = subscribers
        self._asked = asyncio.Event()
        #: When the last of several readings has begun (ms).
        self._read_at: int | None = None
        bus.subscribe("terms", self._hear)

    def _hear(self, news: object) -> None:
        if news is MISSED:
            self._bus.publish("sockets", NewsMissed())
        if news is MISSED or isinstance(news, TermBegan):
            self._asked.set()

    async def run(self) -> None:
        """Read twice when something may be lost, and all the time while the bus is away."""
        if self._repository.shared:
            self._bus.publish("sockets", NewsMissed())
        due = 0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL):
                    await self._asked.wait()
            if self._asked.is_set():
                self._asked.clear()
                due = 2
            if not due and self._bus.connected:
                self._read_at = None
                continue
            try:
                await self.read()
            except StorageError as error:
                log.warning("jobs_read_failed", error=str(error))
            else:
                due = max(0, due - 1)

    async def read(self) -> None:
        """Read once. Raises `StorageError`."""
        subscribers, live = self._subscribers, self._live
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
        for order, member, id_, client_id, ended_at in await self._repository.ended_since(since):
            opened_at = subscribers.opened_at(member, client_id)
            if opened_at is not None and opened_at <= ended_at:
                due.setdefault(order, JobKey(member, id_))
        for order in sorted(due.keys() - living):
            if not subscribers.is_over(order):
                await self._tell_end(order, due[order], begun=order in begun)
        self._read_at = began

    async def _tell_end(self, order: int, key: JobKey, *, begun: bool) -> None:
        """Tell of a job what its client has not heard."""
        entry = await self._repository.entry(*key)
        if entry is None or entry.key != order:
            self._subscribers.close_job(order)
            return
        client_id = codec.loads(entry.extra_data).get("client_id")
        opened_at = self._subscribers.opened_at(key.member, client_id)
        if opened_at is None or (opened_at > entry.ended_at and not begun):
            return
        log.info("end_recovered", job=key.prompt_id, member=key.member)
        for message in life_of(entry):
            told = JobMessage(
                key.member, client_id, key.prompt_id, watched=True, message=message, order=order
            )
            self._subscribers.deliver(told)


def life_of(entry: HistoryEntry) -> list[Message]:
    """The messages of an ended job, as its entry of the history has them."""
    result = codec.loads(entry.result)
    tracker = Tracker(entry.id, codec.loads(entry.graph))
    commands = []
    for type_, data in result["status"]["messages"]:
        commands += tracker.receive(EventReceived(type_, data), entry.started_at)
    snapshot = Snapshot(
        entry.id,
        OUTCOMES[entry.state],
        settled=True,
        start_time=entry.started_at,
        end_time=entry.ended_at,
        outputs=result["outputs"],
        execution_status=result["status"],
        meta=result["meta"],
    )
    commands += tracker.receive(SnapshotReceived(snapshot), entry.ended_at)
    return [one.message for one in commands if isinstance(one, SendMessage)]
