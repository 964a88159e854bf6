"""The api's side of the jobs: takes requests in, answers for the queue.

A submission is in the storage before the engine learns of it. What is to be done is said on the
bus, and the engine answers there; where no answer comes, the storage tells.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog

from proxy.bus.base import EventBus
from proxy.jobs.history import History, JobQuery, Listed, ended_states, of_queue, select
from proxy.jobs.live import LiveJobs, Resync
from proxy.jobs.models import (
    Accepted,
    AccountView,
    Job,
    JobKey,
    JobRequest,
    JobView,
    Number,
    new_job,
)
from proxy.jobs.protocol import (
    CancelAnswered,
    CancelRequested,
    JobAnswered,
    JobChanged,
    JobLeft,
    JobReceived,
    JobReleased,
    JobsAhead,
    LiveJob,
    OverviewAnswered,
    OverviewRequested,
    QueueChanged,
    view_of,
)
from proxy.jobs.recorder import payload_of, stored_of, used
from proxy.jobs.subscribers import Clients, Subscribers
from proxy.members.limiter import Limiter
from proxy.members.member import Member
from proxy.storage.database import OutcomeUnknownError, StorageError
from proxy.storage.jobs import (
    DayFullError,
    JobLivesError,
    JobRepository,
    Numbering,
    QueueFullError,
)
from proxy.storage.usage import day_of
from proxy.supervisor import Supervisor
from proxy.translate import codec
from proxy.translate.errors import LocalError
from proxy.translate.events import status
from proxy.translate.helpers.rewriting import Rewriting
from proxy.translate.validation import Validation

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: What is right and wrong with a graph, `None` if only the cloud can tell. Raises `LocalError`.
Check = Callable[[str, JobRequest], Awaitable[Validation | None]]

#: What the cloud is to run instead of a member's graph with helper nodes, of which these outputs
#: run (`None`: all). Raises `LocalError`.
Rewrite = Callable[[str, dict[str, Any], list[str] | None], Awaitable[Rewriting]]

#: More entries than any history has; databases take no larger numbers.
_MOST = 2**53

#: Seconds between two looks at the storage for what the engine has not answered on the bus, and
#: while the bus is away.
_LOOK, _LOOK_AWAY = 1.0, 0.3

#: Seconds that the engine has to tell of all jobs.
_OVERVIEW_PATIENCE = 2.0


class JobService:
    """The jobs of every member, as the api asks for them; `subscribers` knows who listens here,
    `clients` who does or did anywhere, `history` what has ended.

    The `limiter` is asked before anything else whether a member may submit now, `check` whether
    the graph can run, `rewrite` for the graph that the cloud runs where one has `emulated` classes.
    A submission that the engine has not started after `patience` seconds is
    withdrawn.
    """

    def __init__(
        self,
        bus: EventBus,
        repository: JobRepository,
        *,
        clients: Clients,
        member: Callable[[str], Member] = Member,
        limiter: Limiter | None = None,
        check: Check | None = None,
        rewrite: Rewrite | None = None,
        emulated: Callable[[], frozenset[str]] = frozenset,
        status_interval: float = 5.0,
        patience: float = 30.0,
        supervisor: Supervisor,
    ) -> None:
        self.subscribers = Subscribers(bus)
        self._clients = clients
        self.history = History(bus, repository)
        self._member = member
        self._bus = bus
        self._repository = repository
        self._limiter = limiter
        self._check = check
        self._rewrite = rewrite
        self._emulated = emulated
        self._status_interval = status_interval
        self._patience = patience
        self._live = LiveJobs(bus, repository, supervisor)
        self._numbers: dict[str, int] = {}
        bus.subscribe("jobs.*", self._hear)
        bus.subscribe("sockets", clients.hear)
        self._resync = Resync(bus, repository, self._live, self.subscribers)
        supervisor.keep(self._keep_alive, "status heartbeat")

    async def start(self, supervisor: Supervisor) -> None:
        """Read what lives, and again whenever the bus may have lost something. Raises
        `StorageError`."""
        await self._resync.read()
        supervisor.keep(self._resync.run, "read what was missed")

    # --- what the engine says --------------------------------------------------------------

    def _hear(self, news: object) -> None:
        match news:
            case JobChanged(job=job):
                self._live.put(job)
                self._note_number(job.member, job.number)
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
        self.subscribers.broadcast(member, status(self._live.of(member).remaining))

    async def _keep_alive(self) -> None:
        """A `status` now and then, for clients that take a silent socket for a dead server."""
        while True:
            await asyncio.sleep(self._status_interval)
            self._beat()

    def _beat(self) -> None:
        for member, live in self._live.members():
            news = status(live.remaining)
            for client_id in {job.client_id for job in live.jobs.values()}:
                self.subscribers.tell(member, client_id, news)

    # --- taking a job in -------------------------------------------------------------------

    async def submit(self, member: str, request: JobRequest) -> Accepted:
        """Take a job in; its messages wait for `release`. Raises `LocalError`.

        The number advances for refused requests too, as in ComfyUI.
        """
        if self._limiter is not None and self._limiter.bounds_jobs(member):
            waiting, submitted = await self._repository.used(member, day_of(time.time()))
            self._limiter.admit(member, waiting=waiting, submitted=submitted)
        prompt_id = request.prompt_id or str(uuid.uuid4())
        least = self._numbers.get(member, 0)
        if request.number is None:
            self._numbers[member] = least + 1
        if self._live.get(member, prompt_id) is not None:
            raise _in_the_queue(prompt_id)
        found = None if self._check is None else await self._check(member, request)
        job = new_job(member, request, prompt_id=prompt_id)
        job.one_at_a_time = self._clients.one_at_a_time(self._member(member), request.client_id)
        if found is not None and found.node_errors:
            # The cloud may take a graph that is partly wrong for one that is refused.
            job.targets = found.outputs
        if found is not None:
            job.graph = found.kept(job.graph)
            job.outputs_to_execute = list(found.outputs)
        if self._rewrite is not None and not self._emulated().isdisjoint(_classes(job.graph)):
            outputs = job.targets if found is None else found.outputs
            job.rewriting = await self._rewrite(member, job.graph, outputs)
        await self._insert(job, None if request.number is not None else least, request.front)
        live = self._live.of(member)
        live.answering += 1
        try:
            answer = await self._answer(job, None if found is None else found.node_errors)
        except BaseException:
            live.answering -= 1
            self._bus.publish("engine", JobReleased(job.key, watched=True))
            raise
        return Accepted(prompt_id, job.number, answer)

    async def _insert(self, job: Job, least: int | None, front: bool) -> None:
        """Put a new job into the storage, which numbers it. Raises `LocalError`."""
        payload = payload_of(job)
        limiter = self._limiter
        try:
            stored = await self._repository.insert(
                stored_of(job),
                payload,
                numbering=None if least is None else Numbering(least, front),
                usage=[used(job, submitted=1)],
                most_a_day=None if limiter is None else limiter.jobs_per_day(job.member),
                most_waiting=None if limiter is None else limiter.max_queued(job.member),
            )
        except JobLivesError:
            raise _in_the_queue(job.prompt_id) from None
        except DayFullError:
            assert limiter is not None  # noqa: S101
            raise limiter.day_is_full(job.member) from None
        except QueueFullError as error:
            assert limiter is not None  # noqa: S101
            raise limiter.queue_is_full(job.member, error.waiting) from None
        except OutcomeUnknownError:
            raise
        except StorageError as error:
            log.error("job_save_failed", job=job.prompt_id, error=str(error))
            raise _store_unavailable() from error
        job.order, job.number = stored.key, stored.number
        self._note_number(job.member, job.number)
        self._live.keep_sent(job.order, payload)

    async def _answer(self, job: Job, found: dict[str, Any] | None) -> dict[str, Any]:
        """The node errors of a job that the engine has taken in. Raises `LocalError`.

        The engine may change meanwhile, and the bus lose its answer; then the storage tells.
        """
        with self._hearing(f"answers.{job.member}.{job.prompt_id}", JobAnswered) as answered:
            self._bus.publish("engine", JobReceived(job.key, job.order, found, job))
            waited, gone = 0.0, False
            while not answered.done():
                wait = _LOOK if self._bus.connected else _LOOK_AWAY
                await asyncio.wait([answered], timeout=wait)
                if answered.done():
                    break
                waited += wait
                try:
                    row = await self._repository.get(job.member, job.prompt_id)
                    if row is not None and row.key == job.order:
                        if row.accepted:
                            return found or {}
                        if waited >= self._patience and await self._repository.withdraw(
                            job.order, usage=[used(job, submitted=-1)]
                        ):
                            raise _not_taken_up()
                    elif await self._repository.ended(job.order):
                        return found or {}
                    elif gone:
                        raise _not_taken_up()
                    else:
                        gone = True  # the answer may be under way
                except StorageError as error:
                    log.warning("job_look_failed", job=job.prompt_id, error=str(error))
                    if waited >= self._patience:
                        raise OutcomeUnknownError(
                            "the database went away before the engine took the job"
                        ) from error
            answer = answered.result()
        if answer.error is not None:
            raise answer.error
        await self._bus.flush()
        return answer.node_errors or {}

    def _note_number(self, member: str, number: Number) -> None:
        """Numbers here continue behind those of other replicas."""
        if isinstance(number, int):
            self._numbers[member] = max(self._numbers.get(member, 0), abs(number) + 1)

    def release(self, member: str, prompt_id: str) -> None:
        """The client has its answer: `status` and the job's messages may go out."""
        self._live.of(member).answering -= 1
        job = self._live.get(member, prompt_id)
        listens = job is not None and self._clients.listens(member, job.client_id)
        self._bus.publish(f"jobs.{member}", QueueChanged(member))
        self._bus.publish("engine", JobReleased(JobKey(member, prompt_id), watched=listens))

    @contextmanager
    def _hearing(self, topic: str, kind: type[T]) -> Iterator[asyncio.Future[T]]:
        """What the engine answers on `topic`."""
        answered: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def hear(said: object) -> None:
            if isinstance(said, kind) and not answered.done():
                answered.set_result(said)

        with self._bus.subscribe(topic, hear):
            yield answered

    # --- the queue -------------------------------------------------------------------------

    def queue_remaining(self, member: str) -> int:
        """The member's jobs that wait or run, and others' that go before its last one."""
        return self._live.of(member).remaining

    async def queue_remaining_now(self, member: str) -> int:
        """The same for who asks, whatever the bus has lost. Raises `StorageError`."""
        return (await self._live.now(member)).remaining

    async def queue_json(self, member: str) -> bytes:
        """The body of `GET /queue`. Raises `StorageError`."""
        return await self._live.queue_json(member)

    async def list_jobs(self, member: str, query: JobQuery) -> dict[str, Any]:
        """The answer of `GET /api/jobs`. Raises `StorageError`."""
        live = list((await self._live.now(member)).jobs.values())
        live += await self._live.unanswered(member)
        ended = await self._repository.page(
            member,
            states=ended_states(query.statuses),
            workflow_id=query.workflow_id,
            by="duration" if query.sort_by == "execution_duration" else "created",
            descending=query.descending,
            limit=None if query.limit is None else min(query.offset + query.limit, _MOST),
        )
        found = [codec.loads(summary) for summary in ended.jobs if isinstance(summary, bytes)]
        known = {job["id"] for job in found}
        waiting = [of_queue(job) for job in live if job.prompt_id not in known]
        chosen = [Listed(job, query.workflow_id) for job in found]
        return select([*waiting, *chosen], query, unread=ended.total - len(found))

    async def job(self, member: str, prompt_id: str) -> dict[str, Any] | None:
        """The answer of `GET /api/jobs/{id}`, or `None`. Raises `StorageError`.

        A job that waits because no account takes it has `queue_reason` (see `JobView`) and, where
        the cloud said something, `queue_message`.
        """
        job = (await self._live.now(member)).jobs.get(prompt_id)
        entry = await self.history.entry(member, prompt_id)
        if entry is None and job is None:
            job = await self._live.read(member, prompt_id)
            if job is None:  # it may have ended meanwhile
                entry = await self.history.entry(member, prompt_id)
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
        sent = {} if job is None else await self._live.sent([job])
        if job is None or job.order not in sent:
            return None
        found = of_queue(job).job
        if job.reason is not None:
            found["queue_reason"] = job.reason
            if job.message is not None:
                found["queue_message"] = job.message
        workflow = {
            "prompt": codec.loads(sent[job.order].graph),
            "extra_data": codec.loads(sent[job.order].extra_data),
        }
        return {**found, "workflow": workflow}

    # --- what admins see -------------------------------------------------------------------

    def live(self) -> list[JobView]:
        """All jobs that are in the queue, without their places."""
        return [view_of(job) for job in self._live]

    async def accounts(self) -> tuple[AccountView, ...]:
        """The accounts; none while no engine answers."""
        return (await self.overview("")).accounts

    async def overview(self, member: str | None = None) -> OverviewAnswered:
        """All live jobs, or those of one member, with their places, and the accounts.

        While no engine answers, the jobs are there without places.
        """
        request = uuid.uuid4().hex
        with self._hearing(f"answers.{request}", OverviewAnswered) as answered:
            self._bus.publish("engine", OverviewRequested(request, member))
            if not answered.done():
                await asyncio.wait([answered], timeout=_OVERVIEW_PATIENCE)
            if answered.done():
                return answered.result()
        views = [view_of(job) for job in self._live if member in (None, job.member)]
        return OverviewAnswered(tuple(views), ())

    # --- what clients end ------------------------------------------------------------------

    async def delete_pending(self, member: str, prompt_ids: Iterable[str]) -> None:
        """Take waiting jobs out of the queue; they leave no trace, as in ComfyUI."""
        wanted = set(prompt_ids)
        pending = (await self._live.now(member)).pending()
        await self._cancel([job.key for job in pending if job.prompt_id in wanted])

    async def clear_pending(self, member: str) -> None:
        """Take all of the member's waiting jobs out of the queue."""
        await self._cancel([job.key for job in (await self._live.now(member)).pending()])

    async def interrupt(
        self,
        member: str,
        prompt_id: str | None,
        *,
        submitter: str = "",
        client_id: str | None = None,
    ) -> None:
        """Stop what runs: the job named, if it runs, or else what the caller has running.

        See `proxy.jobs.queue.interrupted` for `submitter` and `client_id`.
        """
        running = (await self._live.now(member)).running()
        if prompt_id is None:
            running = interrupted(running, submitter, client_id)
        else:
            running = [job for job in running if job.prompt_id == prompt_id]
        await self._cancel([job.key for job in running])

    async def cancel(self, member: str, prompt_id: str) -> bool:
        """Cancel a waiting or running job; false if there is none to cancel."""
        job = (await self._live.now(member)).jobs.get(prompt_id)
        if job is None:
            job = await self._live.read(member, prompt_id)
        return job is not None and await self._cancel([job.key])

    async def _cancel(self, keys: list[JobKey]) -> bool:
        """Have the engine cancel jobs; says whether any was. Raises `LocalError`.

        What the engine does not answer soon is written down for it.
        """
        if not keys:
            return False
        request = uuid.uuid4().hex
        with self._hearing(f"answers.{request}", CancelAnswered) as answered:
            self._bus.publish("engine", CancelRequested(request, tuple(keys)))
            waited, wished = 0.0, False
            while not answered.done():
                wait = _LOOK if self._bus.connected else _LOOK_AWAY
                await asyncio.wait([answered], timeout=wait)
                if answered.done():
                    break
                waited += wait
                try:
                    if not await self._repository.request_cancel(keys) and wished:
                        return True
                    wished = True
                except StorageError as error:
                    log.warning("cancel_save_failed", error=str(error))
                    raise _not_cancelled() from error
                if waited >= self._patience:
                    raise _not_cancelled()
            answer = answered.result()
        if answer.error is not None:
            raise answer.error
        await self._bus.flush()
        return answer.cancelled


def _classes(graph: dict[str, Any]) -> Iterable[str]:
    return (str(node.get("class_type")) for node in graph.values())


def _in_the_queue(prompt_id: str) -> LocalError:
    return LocalError(
        "invalid_prompt_id",
        "A job with this prompt_id is in the queue; use another one.",
        details=prompt_id,
    )


def _store_unavailable() -> LocalError:
    return LocalError(
        "store_unavailable",
        "The proxy cannot write to its data folder; free disk space or repair the disk, then "
        "submit again.",
        kind="unavailable",
    )


def _not_taken_up() -> LocalError:
    return LocalError(
        "submission_withdrawn",
        "The job was not sent in time. It will not run; submit it again.",
        kind="unavailable",
        retry_after=5.0,
    )


def _not_cancelled() -> LocalError:
    return LocalError(
        "cancel_unanswered",
        "The cancellation is stored but not done yet; check the queue later.",
        kind="unavailable",
        retry_after=5.0,
    )


def interrupted(running: Sequence[LiveJob], submitter: str, client_id: str | None) -> list[LiveJob]:
    """The jobs that an interrupt without a `prompt_id` means, of a member's running ones.

    Those of the `client_id`, if one is named; else those that the same program has submitted; else
    the one that runs longest. `submitter` is what the caller's own jobs have as theirs.
    """
    if client_id is not None:
        return [job for job in running if job.client_id == client_id]
    own = [job for job in running if submitter and job.submitter == submitter]
    return own or sorted(running, key=lambda job: (job.started_at or 0, job.order))[:1]
