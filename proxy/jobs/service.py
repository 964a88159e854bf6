"""The api's side of the jobs: takes requests in, answers for the queue and the history.

It keeps what the bus brings of live jobs, and small caches of the history, which the bus
invalidates. What it wants done it says on the bus, and the engine answers there.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

import structlog

from proxy.bus.base import EventBus
from proxy.jobs import listing
from proxy.jobs.clients import Clients, interrupted
from proxy.jobs.listing import JobQuery, Listed
from proxy.jobs.models import (
    PLACED,
    Accepted,
    Backlog,
    CancelAnswered,
    CancelRequested,
    HistoryChanged,
    Job,
    JobAnswered,
    JobChanged,
    JobKey,
    JobLeft,
    JobReceived,
    JobReleased,
    JobRequest,
    JobsAhead,
    JobState,
    JobView,
    Number,
    OverviewAnswered,
    OverviewRequested,
    new_job,
    view_of,
)
from proxy.jobs.subscribers import Subscribers
from proxy.members.member import Member
from proxy.storage.jobs import HistoryEntry, JobRepository
from proxy.supervisor import Supervisor
from proxy.translate import codec
from proxy.translate.errors import LocalError
from proxy.translate.messages import status
from proxy.translate.validation import Validation

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Whether a member may submit now: raises `LocalError` (429, 403) if not.
Admit = Callable[[str, JobRequest, Backlog], None]

#: What is right and wrong with a graph, `None` if only the cloud can tell. Raises `LocalError`.
Check = Callable[[str, JobRequest], Awaitable[Validation | None]]

#: More entries than any history has; databases take no larger numbers.
_MOST = 2**53

#: Bytes of history bodies that are kept ready to send, and of the largest one.
_CACHE_BYTES, _LARGEST = 16 * 1024 * 1024, 1024 * 1024


class LiveJobs:
    """A member's jobs that have not ended, in the order in which they were accepted."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.ahead = 0
        self.answering = 0
        self._queue_json: bytes | None = None

    def __len__(self) -> int:
        return len(self.jobs)

    @property
    def remaining(self) -> int:
        """The member's own jobs, and others' that go before its last waiting one."""
        return len(self.jobs) + self.ahead if self.jobs else 0

    def put(self, job: Job) -> None:
        """A job is in the queue, in whatever state."""
        self.jobs[job.prompt_id] = job
        self._queue_json = None

    def remove(self, job: Job) -> None:
        """A job leaves the queue."""
        if self.jobs.get(job.prompt_id) is job:
            del self.jobs[job.prompt_id]
        self._queue_json = None

    def running(self) -> list[Job]:
        """The jobs that run now."""
        return [job for job in self.jobs.values() if job.state is JobState.RUNNING]

    def pending(self) -> list[Job]:
        """The jobs that wait, in the order of their numbers, then of their coming."""
        waiting = [job for job in self.jobs.values() if job.state is not JobState.RUNNING]
        return sorted(waiting, key=lambda job: (job.number, job.order))

    def queue_json(self) -> bytes:
        """The body of `GET /queue`."""
        if self._queue_json is None:
            running = b", ".join(job.queue_item_json() for job in self.running())
            pending = b", ".join(job.queue_item_json() for job in self.pending())
            self._queue_json = (
                b'{"queue_running": [' + running + b'], "queue_pending": [' + pending + b"]}"
            )
        return self._queue_json


class HistoryCache:
    """Bodies of history answers, the ones used last, bounded in bytes."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._bytes = 0
        self.version: Counter[str] = Counter()

    def get(self, key: tuple[Any, ...]) -> bytes | None:
        """A body that was kept; its key begins with the member."""
        body = self._bodies.get(key)
        if body is not None:
            self._bodies.move_to_end(key)
        return body

    def put(self, key: tuple[Any, ...], body: bytes, version: int) -> None:
        """Keep a body that was read at a `version` of the member, unless it is a large one."""
        if len(body) > _LARGEST or key in self._bodies or self.version[key[0]] != version:
            return
        self._bodies[key] = body
        self._bytes += len(body)
        while self._bytes > _CACHE_BYTES:
            _, old = self._bodies.popitem(last=False)
            self._bytes -= len(old)

    def forget(self, member: str, prompt_ids: Iterable[str] | None) -> None:
        """The member's history has changed: drop its lists, and these entries or all."""
        self.version[member] += 1
        gone = None if prompt_ids is None else set(prompt_ids)
        for key in [key for key in self._bodies if key[0] == member]:
            if len(key) > 2 or gone is None or key[1] in gone:
                self._bytes -= len(self._bodies.pop(key))


class JobService:
    """The jobs of every member, as the api asks for them; `subscribers` knows who listens,
    `clients` who did.

    `admit` is asked before anything else whether a member may submit now, `check` whether the
    graph can run.
    """

    def __init__(
        self,
        bus: EventBus,
        repository: JobRepository,
        *,
        clients: Clients,
        member: Callable[[str], Member] = Member,
        admit: Admit | None = None,
        check: Check | None = None,
        status_interval: float = 5.0,
        supervisor: Supervisor,
    ) -> None:
        self.subscribers = Subscribers()
        self.clients = clients
        self._member = member
        self._bus = bus
        self._repository = repository
        self._admit = admit
        self._check = check
        self._status_interval = status_interval
        self._live: defaultdict[str, LiveJobs] = defaultdict(LiveJobs)
        self._cache = HistoryCache()
        self._numbers: Counter[str] = Counter()
        self._reserved: set[JobKey] = set()
        bus.subscribe("jobs.*", self._hear)
        bus.subscribe("events.*", self.subscribers.deliver)
        supervisor.keep(self._keep_alive, "status heartbeat")

    # --- what the engine says --------------------------------------------------------------

    def _hear(self, news: object) -> None:
        match news:
            case JobChanged(job=job):
                self._live[job.member].put(job)
                if isinstance(job.number, int):
                    highest = max(self._numbers[job.member], abs(job.number) + 1)
                    self._numbers[job.member] = highest
            case HistoryChanged(member=member, prompt_id=prompt_id, forgotten=forgotten):
                self._cache.forget(member, [prompt_id, *forgotten])
            case JobLeft(job=job):
                self._live[job.member].remove(job)
                self._tell_status(job.member)
            case JobsAhead(member=member, count=count, tell=tell):
                live = self._live[member]
                live.ahead = count
                if tell and not live.answering:
                    self._tell_status(member)

    def _tell_status(self, member: str) -> None:
        """Tell all sockets of the member how many jobs wait or run."""
        self.subscribers.broadcast(member, status(self._live[member].remaining))

    async def _keep_alive(self) -> None:
        """A `status` now and then, for clients that take a silent socket for a dead server."""
        while True:
            await asyncio.sleep(self._status_interval)
            self._beat()

    def _beat(self) -> None:
        for member, live in list(self._live.items()):
            news = status(live.remaining)
            for client_id in {job.client_id for job in live.jobs.values()}:
                self.subscribers.tell(member, client_id, news)

    # --- taking a job in -------------------------------------------------------------------

    async def submit(self, member: str, request: JobRequest) -> Accepted:
        """Take a job in; its messages wait for `release`. Raises `LocalError`.

        The number advances for refused requests too, as in ComfyUI.
        """
        if self._admit is not None:
            self._admit(member, request, self.backlog(member))
        prompt_id = request.prompt_id or str(uuid.uuid4())
        number = self._next_number(member, request)
        key = JobKey(member, prompt_id)
        if key in self._reserved or prompt_id in self._live[member].jobs:
            raise LocalError(
                "invalid_prompt_id",
                "A job with this prompt_id is in the queue already; choose another one.",
                details=prompt_id,
            )
        self._reserved.add(key)
        try:
            found = None if self._check is None else await self._check(member, request)
            job = new_job(member, request, prompt_id=prompt_id, number=number)
            who = self._member(member)
            job.one_at_a_time = self.clients.one_at_a_time(who, request.client_id)
            if found is not None and found.node_errors:
                # The cloud may take a graph that is partly wrong for one that is refused.
                job.targets = found.outputs
            if found is not None:
                job.graph = found.kept(job.graph)
            self._live[member].answering += 1
            try:
                answer = await self._ask(
                    f"answers.{member}.{prompt_id}",
                    JobReceived(job, None if found is None else found.node_errors),
                    JobAnswered,
                )
                if answer.error is not None:
                    raise answer.error
            except BaseException:
                self._live[member].answering -= 1
                self._bus.publish("engine", JobReleased(key, watched=True))
                raise
        finally:
            self._reserved.discard(key)
        return Accepted(prompt_id, number, answer.node_errors)

    def release(self, member: str, prompt_id: str) -> None:
        """The client has its answer: `status` and the job's messages may go out."""
        live = self._live[member]
        live.answering -= 1
        job = live.jobs.get(prompt_id)
        listens = job is not None and self.subscribers.listens(member, job.client_id)
        self._tell_status(member)
        self._bus.publish("engine", JobReleased(JobKey(member, prompt_id), watched=listens))

    def backlog(self, member: str) -> Backlog:
        """How many jobs of the member wait and how many are on the cloud."""
        states = Counter(job.state for job in self._live[member].jobs.values())
        return Backlog(
            states[JobState.QUEUED],
            sum(count for state, count in states.items() if state in PLACED),
        )

    def _next_number(self, member: str, request: JobRequest) -> Number:
        if request.number is not None:
            return request.number
        number = self._numbers[member]
        self._numbers[member] += 1
        return -number if request.front else number

    async def _ask(self, topic: str, question: object, kind: type[T]) -> T:
        """Say something to the engine and wait for what it answers on `topic`."""
        answered: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def hear(said: object) -> None:
            if isinstance(said, kind) and not answered.done():
                answered.set_result(said)

        with self._bus.subscribe(topic, hear):
            self._bus.publish("engine", question)
            return await answered

    # --- the queue -------------------------------------------------------------------------

    def queue_remaining(self, member: str) -> int:
        """The member's jobs that wait or run, and others' that go before its last one."""
        return self._live[member].remaining

    def queue_json(self, member: str) -> bytes:
        """The body of `GET /queue`."""
        return self._live[member].queue_json()

    async def list_jobs(self, member: str, query: JobQuery) -> dict[str, Any]:
        """The answer of `GET /api/jobs`. Raises `StorageError`."""
        ended = await self._repository.page(
            member,
            states=listing.ended_states(query.statuses),
            workflow_id=query.workflow_id,
            by="duration" if query.sort_by == "execution_duration" else "created",
            descending=query.descending,
            limit=None if query.limit is None else min(query.offset + query.limit, _MOST),
        )
        found = [codec.loads(summary) for summary in ended.jobs if isinstance(summary, bytes)]
        known = {job["id"] for job in found}
        live = [
            listing.of_queue(job)
            for job in self._live[member].jobs.values()
            if job.prompt_id not in known
        ]
        chosen = [Listed(job, query.workflow_id) for job in found]
        return listing.select([*live, *chosen], query, unread=ended.total - len(found))

    async def job(self, member: str, prompt_id: str) -> dict[str, Any] | None:
        """The answer of `GET /api/jobs/{id}`, or `None`. Raises `StorageError`.

        A job that waits because no account takes it has `queue_reason` (see `JobView`) and, where
        the cloud said something, `queue_message`.
        """
        entry = await self._repository.entry(member, prompt_id)
        if entry is not None:
            result = codec.loads(entry.result)
            return {
                **codec.loads(entry.summary),
                "outputs": result["outputs"],
                "execution_status": result["status"],
                "workflow": {
                    "prompt": codec.loads(entry.graph),
                    "extra_data": codec.loads(entry.extra_data),
                },
            }
        job = self._live[member].jobs.get(prompt_id)
        if job is None:
            return None
        found = listing.of_queue(job).job
        if job.reason is not None:
            found["queue_reason"] = job.reason
            if job.message is not None:
                found["queue_message"] = job.message
        return {**found, "workflow": {"prompt": job.graph, "extra_data": job.extra_data}}

    # --- what admins see -------------------------------------------------------------------

    def live(self) -> list[JobView]:
        """All jobs that are in the queue, without their places."""
        return [view_of(job) for live in self._live.values() for job in live.jobs.values()]

    async def overview(self, member: str | None = None) -> OverviewAnswered:
        """All live jobs, or those of one member, with their places, and the accounts."""
        request = uuid.uuid4().hex
        asked = OverviewRequested(request, member)
        return await self._ask(f"answers.{request}", asked, OverviewAnswered)

    # --- the history -----------------------------------------------------------------------

    async def history(
        self, member: str, *, max_items: int | None, offset: int | None
    ) -> bytes | AsyncIterator[bytes]:
        """The body of `GET /history`, oldest first; a large one in pieces. Raises `StorageError`.

        `max_items` without `offset` means the last ones, with it those from the oldest on; a
        negative `offset` counts as none. ComfyUI's own arithmetic for odd values: without offset,
        0 and less give nothing; with one, at least one item comes.
        """
        if offset is not None:
            offset = None if offset < 0 else min(offset, _MOST)
        if max_items is not None:
            max_items = min(max_items, _MOST)
        key = (member, "", max_items, offset)
        body = self._cache.get(key)
        if body is not None:
            return body
        version = self._cache.version[member]
        if offset is None:
            last = None if max_items is None else max(max_items, 0)
            pages = self._repository.entries(member, last=last)
        else:
            limit = None if max_items is None else max(max_items, 1)
            pages = self._repository.entries(member, offset=offset, limit=limit)
        pieces = _pieces(pages)
        begun: list[bytes] = []
        size = 0
        async for piece in pieces:
            begun.append(piece)
            size += len(piece)
            if size > _LARGEST:
                return _chained(begun, pieces)
        body = b"".join(begun)
        self._cache.put(key, body, version)
        return body

    async def history_entry_json(self, member: str, prompt_id: str) -> bytes:
        """The body of `GET /history/{id}`: `{}` until the job has ended. Raises `StorageError`."""
        key = (member, prompt_id)
        body = self._cache.get(key)
        if body is None:
            version = self._cache.version[member]
            entry = await self._repository.entry(member, prompt_id)
            if entry is None:
                return b"{}"
            body = b"{" + entry_json(entry) + b"}"
            self._cache.put(key, body, version)
        return body

    async def ended_summary(self, member: str, prompt_id: str) -> dict[str, Any] | None:
        """An ended job as `GET /api/jobs` lists it, or `None`. Raises `StorageError`."""
        summary = await self._repository.summary(member, prompt_id)
        return None if summary is None else dict(codec.loads(summary))

    async def failures(self, count: int) -> list[tuple[str, str]]:
        """Member and id of the jobs that failed last, the oldest first. Raises `StorageError`."""
        return await self._repository.ended_in(JobState.FAILED.value, count)

    async def delete_history(self, member: str, prompt_ids: Iterable[str]) -> None:
        """Forget ended jobs; nothing is deleted on the cloud. Raises `StorageError`."""
        await self._forget(member, list(prompt_ids))

    async def clear_history(self, member: str) -> None:
        """Forget all ended jobs of the member. Raises `StorageError`."""
        await self._forget(member, None)

    async def _forget(self, member: str, prompt_ids: list[str] | None) -> None:
        try:
            await self._repository.forget(member, prompt_ids)
        finally:
            self._cache.forget(member, prompt_ids)

    # --- what clients end ------------------------------------------------------------------

    async def delete_pending(self, member: str, prompt_ids: Iterable[str]) -> None:
        """Take waiting jobs out of the queue; they leave no trace, as in ComfyUI."""
        wanted = set(prompt_ids)
        await self._cancel([job for job in self._live[member].pending() if job.prompt_id in wanted])

    async def clear_pending(self, member: str) -> None:
        """Take all of the member's waiting jobs out of the queue."""
        await self._cancel(self._live[member].pending())

    async def interrupt(
        self,
        member: str,
        prompt_id: str | None,
        *,
        submitter: str = "",
        client_id: str | None = None,
    ) -> None:
        """Stop what runs: the job named, if it runs, or else what the caller has running.

        See `proxy.jobs.clients.interrupted` for `submitter` and `client_id`.
        """
        running = self._live[member].running()
        if prompt_id is None:
            running = interrupted(running, submitter, client_id)
        else:
            running = [job for job in running if job.prompt_id == prompt_id]
        await self._cancel(running)

    async def cancel(self, member: str, prompt_id: str) -> bool:
        """Cancel a waiting or running job; false if there is none to cancel."""
        job = self._live[member].jobs.get(prompt_id)
        return job is not None and await self._cancel([job])

    async def _cancel(self, jobs: list[Job]) -> bool:
        if not jobs:
            return False
        request = uuid.uuid4().hex
        asked = CancelRequested(request, tuple(job.key for job in jobs))
        answer = await self._ask(f"answers.{request}", asked, CancelAnswered)
        if answer.error is not None:
            raise answer.error
        return answer.cancelled


def entry_json(entry: HistoryEntry) -> bytes:
    """`"id": {"prompt": […], "outputs": …, …}`, put together from its parts."""
    parts = (
        entry.number.encode(),
        codec.dump_bytes(entry.id),
        entry.graph,
        entry.extra_data,
        entry.outputs_to_execute.encode(),
    )
    head = codec.dump_bytes(entry.id) + b': {"prompt": [' + b", ".join(parts) + b"], "
    return head + entry.result[1:]


async def _pieces(pages: AsyncIterator[list[HistoryEntry]]) -> AsyncIterator[bytes]:
    """A JSON object of entries, a page at a time."""
    lead = b"{"
    async for page in pages:
        yield lead + b", ".join(map(entry_json, page))
        lead = b", "
    yield b"{}" if lead == b"{" else b"}"


async def _chained(begun: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for piece in begun:
        yield piece
    async for piece in rest:
        yield piece
