"""From a client's request to a job that the engine has accepted.

A submission is checked, and in the storage before the engine learns of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import structlog
from msgspec import Struct

from proxy import randomness
from proxy.bus import EventBus
from proxy.costs.job_cost import JobCost
from proxy.jobs.checks import Checks
from proxy.jobs.clients import Clients
from proxy.jobs.conversion import job_of_request, payload_of, stored_of, used
from proxy.jobs.engine_client import EngineClient
from proxy.jobs.estimates import OverBudgetError
from proxy.jobs.live_feed import LiveFeed
from proxy.jobs.messages import JobAnswered
from proxy.jobs.models import Job, JobRequest
from proxy.jobs.submission_limits import SubmissionLimits, payloads_full
from proxy.logging import FailureLines
from proxy.owners import member_owner
from proxy.storage.conditions import (
    Conditions,
    DayFullError,
    Numbering,
    PayloadsFullError,
    QueueFullError,
)
from proxy.storage.database import OutcomeUnknownError, StorageError
from proxy.storage.job_tables import StoredJob
from proxy.storage.jobs import JobLivesError, JobRepository
from proxy.storage.payloads import Payload, size_of
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: How often entries of the history are forgotten for one job, before it is refused.
_MAX_FORGETTING = 8


def poll_interval(bus: EventBus) -> float:
    """Return the seconds between two reads of the storage while the engine has not answered on the
    bus."""
    return 1.0 if bus.connected else 0.3


class Trial(Struct, frozen=True):
    """What submitting a job would find: the `error` that refuses it, what is wrong with single
    nodes, and what it would cost; `None` if a refusal comes before that is known."""

    error: LocalError | None
    node_errors: Mapping[str, Any]
    cost: JobCost | None = None


@dataclass(kw_only=True, eq=False, repr=False)
class SubmissionService:
    """The entrance for the jobs of all members.

    The `limits` are asked before anything else whether a member may submit now, the `checks`
    whether the graph can run. A submission that the engine has not started after `timeout`
    seconds is withdrawn. `clients` knows who listens, the `feed` brings the answers of the engine.
    """

    engine: EngineClient
    repository: JobRepository
    feed: LiveFeed
    clients: Clients
    checks: Checks
    limits: SubmissionLimits
    timeout: float = 30.0

    def __post_init__(self) -> None:
        self.bus, self.live = self.engine.bus, self.feed.live
        self._lines = FailureLines()
        self.bus.subscribe("sockets", self.clients.hear)

    @asynccontextmanager
    async def submitted(self, member: str, request: JobRequest) -> AsyncIterator[dict[str, Any]]:
        """Take a job in, and yield the answer of `POST /prompt`: `prompt_id`, `number` and
        `node_errors`. After the block, when the client has it, the job's messages flow.

        The number advances for refused requests too, as in ComfyUI. Raises `LocalError`, and
        `BusyError` without looking at the request while jobs come faster than they can be stored.
        """
        await self.limits.check(member)
        prompt_id = request.prompt_id or str(randomness.uuid4())
        live = self.live.of(member)
        numbering = None
        if request.number is None:
            numbering = Numbering(live.number, request.front)
            live.number += 1
        found = await self.checks.check(member, request)
        if prompt_id in live.jobs:  # maybe one that has ended and is about to leave the engine
            raise _in_the_queue(prompt_id)
        job = job_of_request(member, request, found, prompt_id=prompt_id)
        job.one_at_a_time = self.clients.one_at_a_time(
            self.limits.member(member), request.client_id
        )
        content = job.loaded
        outputs = content.targets if found is None else found.outputs
        content.rewriting = await self.checks.packs.rewrite(member, content.graph, outputs)
        await self._insert(job, numbering)
        node_errors = {} if found is None else found.node_errors
        try:
            with self.feed.answering(member):
                node_errors = {**node_errors, **await self._answer(job)}
                yield {"prompt_id": prompt_id, "number": job.number, "node_errors": node_errors}
        finally:
            watched = self.clients.listens(member, request.client_id)
            self.engine.release(job.key, watched=watched)

    async def trial(self, member: str, request: JobRequest) -> Trial:
        """Return what submitting a job would find, without taking it in.

        The files that nodes of packs load are not looked at. Raises `StorageError`.
        """
        try:
            await self.limits.check(member)
            found = await self.checks.check(member, request)
            job = job_of_request(member, request, found, prompt_id=str(randomness.uuid4()))
            reservation = await self.limits.reservation(job)
        except LocalError as error:
            return Trial(error, error.node_errors)
        spending, typical_ms = await self.repository.expectation(
            member, reservation.day, reservation.shape
        )
        refusal = None
        try:
            reservation.decide(spending, typical_ms)
        except OverBudgetError as error:
            refusal = self.limits.refusal(member, error)
        cost = await self.limits.estimator.cost(job, typical_ms)
        return Trial(refusal, {} if found is None else found.node_errors, cost)

    async def _insert(self, job: Job, numbering: Numbering | None) -> None:
        """Put a new job into the storage, which numbers it if it has no number. Raises
        `LocalError`, `StorageError`."""
        conditions = await self.limits.conditions(job, numbering)
        row, payload = stored_of(job), payload_of(job.loaded)
        try:
            stored = await self._stored(row, payload, conditions)
        except JobLivesError:
            raise _in_the_queue(job.prompt_id) from None
        except (DayFullError, QueueFullError, OverBudgetError) as error:
            raise await self.limits.refused(job.member, error) from None
        job.order, job.number, job.estimate = stored.order, stored.number, stored.estimate
        self.live.keep_sent(stored, payload)

    async def _stored(self, row: StoredJob, payload: Payload, conditions: Conditions) -> StoredJob:
        """Insert a job. Where the payloads of its member have no room for one more, the oldest
        entries of the history give way. Raises `LocalError`."""
        size = size_of(payload)
        if size > self.limits.payloads.most(member_owner(row.member)):
            raise payloads_full()
        for _ in range(_MAX_FORGETTING):
            try:
                return await self.repository.insert(row, payload, conditions)
            except PayloadsFullError:
                oldest = await self.repository.history.oldest(row.member, 2 * size)
                if not oldest:
                    break
                log.info("history_shortened", member=row.member, entries=len(oldest))
                await self.feed.history.forget(row.member, oldest)
        raise payloads_full()

    async def _answer(self, job: Job) -> dict[str, Any]:
        """Return what the cloud found wrong with single nodes of a job, once the engine has
        accepted it. Raises `LocalError`."""
        with self.feed.answers.awaited(job.key) as answers:
            self.engine.receive(job)
            try:
                # The client gets its answer before the engine goes on with the job.
                async with asyncio.timeout(poll_interval(self.bus)):
                    message: JobAnswered | None = await answers.get()
            except TimeoutError:
                message = await self._late_answer(job, answers)
        if message is None:
            return {}
        if message.error is not None:
            raise message.error
        await self.bus.flush()
        return dict(message.node_errors or {})

    async def _late_answer(
        self, job: Job, answers: asyncio.Queue[JobAnswered]
    ) -> JobAnswered | None:
        """Look into the storage until the answer comes, or `None` if it has the job as accepted.

        The engine may change meanwhile, and the bus lose its answer. Raises `LocalError`.
        """
        waited, gone = 0.0, False
        while answers.empty():  # else it came as the time was over
            waited += poll_interval(self.bus)
            try:
                row = await self.repository.get(job.member, job.prompt_id)
                self._lines.ended("job_look_failed")
                if row is not None and row.order == job.order:
                    if row.accepted:
                        return None
                    if waited >= self.timeout and await self.repository.withdraw(
                        job.order, usage=[used(job, submitted=-1)]
                    ):
                        raise _not_taken_up()
                elif await self.repository.history.has(job.order):
                    return None
                elif gone:
                    raise _taken_out()
                else:
                    gone = True  # the answer may be under way
            except StorageError as error:
                if (more := self._lines.due("job_look_failed")) is not None:
                    log.warning("job_look_failed", job=job.prompt_id, error=str(error), **more)
                if waited >= self.timeout:
                    raise OutcomeUnknownError(
                        "the connection to the database was lost before the engine took the job"
                    ) from error
            with suppress(TimeoutError):
                async with asyncio.timeout(poll_interval(self.bus)):
                    return await answers.get()
        return answers.get_nowait()


def _in_the_queue(prompt_id: str) -> LocalError:
    return LocalError(
        "duplicate_prompt_id",
        "A job with this prompt_id is in the queue; use another one.",
        kind="conflict",
        details=prompt_id,
    )


def _not_taken_up() -> LocalError:
    return _withdrawn("The job was not sent in time. It will not run; submit it again.")


def _taken_out() -> LocalError:
    """Return the answer about a job that somebody else took out: it may have begun to run before
    its client cancelled it."""
    return _withdrawn(
        "The job was cancelled, or not sent. If you did not cancel it, submit it again."
    )


def _withdrawn(message: str) -> LocalError:
    return LocalError("submission_withdrawn", message, kind="unavailable", retry_after=5.0)
