"""What this replica knows of live jobs.

The bus feeds it. Where that has lost something the storage is read: the jobs that live, and ends
that are due.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog

from proxy.bus.base import MISSED, EventBus
from proxy.jobs.history import life_of
from proxy.jobs.models import (
    JobChanged,
    JobKey,
    JobLeft,
    JobMessage,
    JobsAhead,
    JobState,
    LiveJob,
    NewsMissed,
    Number,
    QueueChanged,
    TermBegan,
    live_of_stored,
    now,
)
from proxy.jobs.subscribers import Subscribers
from proxy.storage.database import StorageError
from proxy.storage.jobs import JobRepository, Payload, StoredJob
from proxy.supervisor import Supervisor
from proxy.translate import codec
from proxy.translate.events import status

log = structlog.get_logger(__name__)

#: Bytes of graphs and `extra_data` of live jobs that are kept ready to show.
_PAYLOAD_BYTES = 64 * 1024 * 1024

#: Seconds for which the jobs without an answer are not read again.
_UNANSWERED_AGE = 0.3


@dataclass(slots=True)
class QueueItem:
    """What the client sent, as JSON, and what is around it in the queue."""

    graph: bytes
    extra_data: bytes
    _outputs: tuple[str, ...] | None = None
    _head: bytes = b""
    _tail: bytes = b""

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.graph) + len(self.extra_data)

    def item(self, job: LiveJob) -> bytes:
        """`[number, prompt_id, prompt, extra_data, outputs_to_execute]`, as `/queue` shows it."""
        if self._outputs != job.outputs_to_execute:
            self._outputs = job.outputs_to_execute
            number, prompt_id = codec.dump_bytes(job.number), codec.dump_bytes(job.prompt_id)
            self._head = b"[%b, %b, " % (number, prompt_id)
            self._tail = b", %b]" % codec.dump_bytes(job.outputs_to_execute)
        return b"".join((self._head, self.graph, b", ", self.extra_data, self._tail))


class MemberJobs:
    """A member's jobs that have not ended, in the order in which they were accepted.

    `ahead` jobs of others go before the last waiting one, `answering` are being submitted here.
    `number` is the least that the next job may have: it continues behind those of other replicas.
    `body` is that of `GET /queue`, until something changes.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, LiveJob] = {}
        self.ahead = 0
        self.answering = 0
        self.number = 0
        self.body: bytes | None = None

    @property
    def remaining(self) -> int:
        """The member's own jobs, and others' that go before its last waiting one."""
        return len(self.jobs) + self.ahead if self.jobs else 0

    def put(self, job: LiveJob) -> None:
        """A job is in the queue, in whatever state."""
        self.jobs[job.prompt_id] = job
        self.body = None
        self.note_number(job.number)

    def remove(self, job: LiveJob) -> None:
        """A job leaves the queue."""
        known = self.jobs.get(job.prompt_id)
        if known is not None and known.order == job.order:
            del self.jobs[job.prompt_id]
            self.body = None

    def note_number(self, number: Number) -> None:
        """A job has this number."""
        if isinstance(number, int):
            self.number = max(self.number, abs(number) + 1)

    def running(self) -> list[LiveJob]:
        """The jobs that run now."""
        return [job for job in self.jobs.values() if job.state is JobState.RUNNING]

    def pending(self) -> list[LiveJob]:
        """The jobs that wait, in the order of their numbers, then of their coming."""
        waiting = [job for job in self.jobs.values() if job.state is not JobState.RUNNING]
        return sorted(waiting, key=_place)


class LiveJobs:
    """The live jobs of all members, with what was sent for them in a cache bounded in bytes."""

    def __init__(self, bus: EventBus, repository: JobRepository, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._bus = bus
        self._repository = repository
        self._shared = repository.shared
        self._members: defaultdict[str, MemberJobs] = defaultdict(MemberJobs)
        #: What each reading under way has to do once more: a job, and whether it has left.
        self._readings: list[list[tuple[LiveJob, bool]]] = []
        self._unanswered: list[LiveJob] = []
        self._reading_unanswered: asyncio.Task[StorageError | None] | None = None
        self._unanswered_at = -math.inf
        self._sent: OrderedDict[int, QueueItem] = OrderedDict()
        self._sent_bytes = 0

    def __iter__(self) -> Iterator[LiveJob]:
        for member in self._members.values():
            yield from member.jobs.values()

    def of(self, member: str) -> MemberJobs:
        """The jobs of a member, as far as the bus has reported them."""
        return self._members[member]

    async def now(self, member: str) -> MemberJobs:
        """The jobs of a member as they are now. Raises `StorageError`."""
        if self._bus.connected:
            await self._bus.catch_up()
        else:
            await self.reload(member)
        return self._members[member]

    def members(self) -> list[tuple[str, MemberJobs]]:
        """All members of whom anything is known."""
        return list(self._members.items())

    def get(self, member: str, prompt_id: str) -> LiveJob | None:
        """A job by its id."""
        return self._members[member].jobs.get(prompt_id)

    async def read(self, member: str, prompt_id: str) -> LiveJob | None:
        """A job as it is stored, whether or not the bus has reported it; `None` for one that is to
        be cancelled. Raises `StorageError`."""
        row = await self._repository.get(member, prompt_id)
        return None if row is None or row.cancel_requested else live_of_stored(row)

    async def unanswered(self, member: str) -> list[LiveJob]:
        """The jobs whose replica may have died before it answered. Raises `StorageError`."""
        if not self._shared:
            return []
        began = time.monotonic()
        if began - self._unanswered_at > _UNANSWERED_AGE:
            if self._reading_unanswered is None:  # those who ask meanwhile share what it finds
                self._reading_unanswered = self._supervisor.spawn(
                    self._read_unanswered(began), "read unanswered jobs"
                )
            error = await asyncio.shield(self._reading_unanswered)
            if error is not None:
                raise error
        known = self._members[member].jobs
        return [
            job for job in self._unanswered if job.member == member and job.prompt_id not in known
        ]

    async def _read_unanswered(self, began: float) -> StorageError | None:
        """Read them for all who ask; why it could not be done."""
        try:
            rows = await self._repository.unanswered()
            self._unanswered = [live_of_stored(row) for row in rows]
            self._unanswered_at = began
            return None
        except StorageError as error:
            return error
        finally:
            self._reading_unanswered = None

    # --- changes ---------------------------------------------------------------------------

    def put(self, job: LiveJob) -> None:
        """A job is in the queue, in whatever state."""
        self._members[job.member].put(job)
        for reading in self._readings:
            reading.append((job, False))

    def remove(self, job: LiveJob) -> None:
        """A job leaves the queue."""
        self._members[job.member].remove(job)
        for reading in self._readings:
            reading.append((job, True))
        gone = self._sent.pop(job.order, None)
        if gone is not None:
            self._sent_bytes -= gone.size

    async def reload(self, member: str | None = None) -> tuple[set[int], list[LiveJob]]:
        """Read the jobs of a member or of all, where the bus may have lost something: the orders of
        those that live, and the jobs that do no more. Raises `StorageError`.
        """
        heard: list[tuple[LiveJob, bool]] = []
        self._readings.append(heard)
        try:
            rows = await self._repository.live(member)
        finally:
            # By identity: two readings that have heard the same are equal.
            self._readings = [one for one in self._readings if one is not heard]
        known = {job.order: job for job in self if member in (None, job.member)}
        news = {job.order for job, _ in heard}
        living = {row.key for row in rows} | {job.order for job, left in heard if not left}
        gone = [job for order, job in known.items() if order not in living]
        for row in rows:
            if row.key not in news and _is_newer(row, known.get(row.key)):
                if _is_shown(row):
                    self._members[row.member].put(live_of_stored(row))
                elif row.key in known:
                    self.remove(known[row.key])
        for job in gone:
            self.remove(job)
        return living, gone

    # --- what was sent ---------------------------------------------------------------------

    def keep_sent(self, order: int, payload: Payload) -> None:
        """Keep what was sent for a job, to show it."""
        if order in self._sent:
            return
        sent = self._sent[order] = QueueItem(payload.graph, payload.extra_data)
        self._sent_bytes += sent.size
        while self._sent_bytes > _PAYLOAD_BYTES and len(self._sent) > 1:
            _, old = self._sent.popitem(last=False)
            self._sent_bytes -= old.size

    async def sent(self, jobs: list[LiveJob]) -> Mapping[int, QueueItem]:
        """What was sent for jobs, by their order, without those that are gone. Raises
        `StorageError`."""
        found = {job.order: self._sent[job.order] for job in jobs if job.order in self._sent}
        lacking = [job.order for job in jobs if job.order not in found]
        if lacking:
            for order, payload in (await self._repository.payloads(lacking)).items():
                found[order] = QueueItem(payload.graph, payload.extra_data)
                self.keep_sent(order, payload)
        return found

    async def queue_json(self, member: str) -> bytes:
        """The body of `GET /queue`. Raises `StorageError`."""
        live = await self.now(member)
        unanswered = await self.unanswered(member)
        if live.body is not None and not unanswered:
            return live.body
        jobs = list(live.jobs.values())
        sent = await self.sent([*jobs, *unanswered])
        running, pending = (
            b", ".join([sent[job.order].item(job) for job in some if job.order in sent])
            for some in (live.running(), sorted([*live.pending(), *unanswered], key=_place))
        )
        body = b'{"queue_running": [%b], "queue_pending": [%b]}' % (running, pending)
        if jobs == list(live.jobs.values()) and not unanswered:
            live.body = body
        return body


def _place(job: LiveJob) -> tuple[Number, int]:
    """Where a waiting job is in the queue."""
    return job.number, job.order


def _is_shown(row: StoredJob) -> bool:
    """Whether clients may know of a job; one that runs is there until its end."""
    known = row.accepted or row.state == JobState.UNKNOWN
    return known and (not row.cancel_requested or row.started_at is not None)


def _is_newer(row: StoredJob, known: LiveJob | None) -> bool:
    """Whether the storage knows more of a job than the bus has reported."""
    return known is None or (
        row.changed_at >= known.changed_at and (row.state != known.state or not _is_shown(row))
    )


#: Seconds between two readings while the bus is away, and between the two after a loss: the engine
#: writes a moment behind what happens.
_INTERVAL = 0.5

#: How far back, in ms, ends are looked for of which nothing was heard: at first, and before the
#: last look.
_RECENT, _OVERLAP = 60_000, 10_000


class LiveFeed:
    """Brings `live` and the sockets of this replica up to date.

    Clients of live jobs hear a `status` each `status_interval` seconds.
    """

    def __init__(
        self,
        bus: EventBus,
        repository: JobRepository,
        live: LiveJobs,
        subscribers: Subscribers,
        status_interval: float = 5.0,
    ) -> None:
        self._bus = bus
        self._repository = repository
        self._live = live
        self._subscribers = subscribers
        self._status_interval = status_interval
        self._asked = asyncio.Event()
        #: When the last of several readings has begun (ms).
        self._read_at: int | None = None
        bus.subscribe("jobs.*", self._hear)
        bus.subscribe("terms", self._hear_of_terms)

    def _hear(self, news: object) -> None:
        match news:
            case JobChanged(job=job):
                self._live.put(job)
            case JobLeft(job=job):
                self._live.remove(job)
                self._tell_status(job.member)
            case QueueChanged(member=member):
                self._tell_status(member)
            case JobsAhead(member=member, count=count, tell=tell):
                live = self._live.of(member)
                live.ahead = count
                if tell and not live.answering:
                    self._tell_status(member)

    def _tell_status(self, member: str) -> None:
        """Tell all sockets of the member how many jobs wait or run."""
        self._subscribers.broadcast(member, status(self._live.of(member).remaining))

    async def keep_alive(self) -> None:
        """A `status` now and then, for clients that take a silent socket for a dead server."""
        while True:
            await asyncio.sleep(self._status_interval)
            self._beat()

    def _beat(self) -> None:
        for member, live in self._live.members():
            news = status(live.remaining)
            for client_id in {job.client_id for job in live.jobs.values()}:
                self._subscribers.tell(member, client_id, news)

    # --- what the bus has lost -------------------------------------------------------------

    def _hear_of_terms(self, news: object) -> None:
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
            # One process has its bus in memory, which is never away.
            interval = _INTERVAL if due or self._repository.shared else None
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._asked.wait()
            if self._asked.is_set():
                self._asked.clear()
                due = 2
            if not due and self._bus.connected:
                continue
            try:
                await self.read()
            except StorageError as error:
                log.warning("jobs_read_failed", error=str(error))
            else:
                due = max(0, due - 1)
                if not due and self._bus.connected:
                    self._read_at = None

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
        for order, member, id_, client_id, ended_at in await self._repository.history.since(since):
            opened_at = subscribers.opened_at(member, client_id)
            if opened_at is not None and opened_at <= ended_at:
                due.setdefault(order, JobKey(member, id_))
        for order in sorted(due.keys() - living):
            if not subscribers.is_over(order):
                await self._tell_end(order, due[order], begun=order in begun)
        self._read_at = began

    async def _tell_end(self, order: int, key: JobKey, *, begun: bool) -> None:
        """Tell of a job what its client has not heard."""
        entry = await self._repository.history.entry(*key)
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
