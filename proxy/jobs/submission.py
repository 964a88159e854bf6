"""Takes jobs in: from a client's request to a job that the engine has accepted.

A submission is checked, and in the storage before the engine learns of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic

import structlog
from msgspec import Struct

from proxy.costs.job_cost import JobCost
from proxy.jobs.checks import Checks
from proxy.jobs.clients import Clients
from proxy.jobs.conversion import job_of_request, payload_of, sizes_of, stored_of, used
from proxy.jobs.engine_calls import RunningEngine, Submitted
from proxy.jobs.estimates import OverBudgetError
from proxy.jobs.live_feed import LiveFeed
from proxy.jobs.models import AnyJob, Job, JobRequest
from proxy.jobs.submission_limits import SubmissionLimits, payloads_full
from proxy.runtime import randomness
from proxy.sharing.owners import member_owner
from proxy.storage.conditions import (
    Conditions,
    DayFullError,
    Numbering,
    PayloadsFullError,
    QueueFullError,
)
from proxy.storage.database import StorageError
from proxy.storage.job_tables import Number, StoredJob
from proxy.storage.jobs import JobLivesError, JobRepository
from proxy.storage.leases import Fence
from proxy.storage.payloads import Payload, size_of
from proxy.translate.errors import LocalError, unconfirmed_refusal

log = structlog.get_logger(__name__)

#: How often entries of the history are forgotten for one job, before it is refused.
_MAX_FORGETTING = 8


class ValidationResult(Struct, frozen=True):
    """What submitting a job would find: the `error` that refuses it, what is wrong with single
    nodes, and what it would cost; `None` if a refusal comes before that is known."""

    error: LocalError | None
    node_errors: Mapping[str, Any]
    cost: JobCost | None = None


@dataclass(kw_only=True, eq=False, repr=False)
class SubmissionService(Generic[AnyJob]):
    """The entrance for the jobs of all members.

    The `limits` are asked before anything else whether a member may submit now, the `checks`
    whether the graph can run. A submission that the engine has not started after `timeout`
    seconds is withdrawn. `clients` knows who listens, the `feed` tells them of the queue. Jobs are
    a `record` of the engine's, and stored under the `fence` of the term.
    """

    engine: RunningEngine[AnyJob]
    record: type[AnyJob]
    repository: JobRepository
    feed: LiveFeed
    clients: Clients
    checks: Checks
    limits: SubmissionLimits
    timeout: float = 30.0
    fence: Fence | None = None

    def __post_init__(self) -> None:
        self.live = self.feed.live

    @asynccontextmanager
    async def submitted(
        self, member: str, request: JobRequest, *, again: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """Take a job in, and yield the answer of `POST /prompt`: `prompt_id`, `number` and
        `node_errors`. After the block, when the client has it, the job's messages flow.

        If the request is sent `again`, since a leader that has ended may have taken it in, a job of
        its id that is stored is this one.

        The number advances for refused requests too, as in ComfyUI. Raises `LocalError`, and
        `BusyError` without looking at the request while jobs come faster than they can be stored.
        """
        prompt_id = request.prompt_id or str(randomness.uuid4())
        if again and (number := await self._number_of(member, prompt_id)) is not None:
            yield {"prompt_id": prompt_id, "number": number, "node_errors": {}}
            return
        await self.limits.check(member)
        live = self.live.of(member)
        numbering = None
        if request.number is None:
            numbering = Numbering(live.number, request.front)
            live.number += 1
        found = await self.checks.check(member, request)
        if prompt_id in live.jobs:  # maybe one that has ended and is about to leave the engine
            raise _in_the_queue(prompt_id)
        job = job_of_request(self.record, member, request, found, prompt_id=prompt_id)
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

    async def _number_of(self, member: str, prompt_id: str) -> Number | None:
        """Return the number of a job that lives or has ended, `None` if there is none. Raises
        `StorageError`."""
        row = await self.repository.get(member, prompt_id)
        if row is not None:
            return row.number
        entry = await self.repository.history.entry(member, prompt_id)
        return None if entry is None else entry.number

    async def validate(self, member: str, request: JobRequest) -> ValidationResult:
        """Return what submitting a job would find, without taking it in.

        The files that nodes of packs load are not looked at. Raises `StorageError`.
        """
        try:
            await self.limits.check(member)
            found = await self.checks.check(member, request)
            prompt_id = str(randomness.uuid4())
            job = job_of_request(Job, member, request, found, prompt_id=prompt_id)
            estimate = await self.limits.estimator.estimate(job)
        except LocalError as error:
            return ValidationResult(error, error.node_errors)
        refusal = None
        try:
            await self.repository.check(member, self.limits.decision(job, estimate))
        except OverBudgetError as error:
            refusal = self.limits.refusal(member, error)
        return ValidationResult(refusal, {} if found is None else found.node_errors, estimate.cost)

    async def _insert(self, job: Job, numbering: Numbering | None) -> None:
        """Put a new job into the storage, which numbers it if it has no number. Raises
        `LocalError`, `StorageError`."""
        conditions = await self.limits.conditions(job, numbering)
        row, payload = stored_of(job), payload_of(job.loaded)
        job.loaded.size, job.loaded.run_size = sizes_of(payload)
        try:
            stored = await self._stored(row, payload, conditions)
        except JobLivesError:
            raise _in_the_queue(job.prompt_id) from None
        except (DayFullError, QueueFullError, OverBudgetError) as error:
            raise await self.limits.refused(job.member, error) from None
        job.order, job.number, job.estimate = stored.order, stored.number, stored.estimate
        self.live.keep_sent(job, payload)

    async def _stored(self, row: StoredJob, payload: Payload, conditions: Conditions) -> StoredJob:
        """Insert a job. Where the payloads of its member have no room for one more, the oldest
        entries of the history give way. Raises `LocalError`."""
        size = size_of(payload)
        if size > self.limits.payloads.most(member_owner(row.member)):
            raise payloads_full()
        for _ in range(_MAX_FORGETTING):
            try:
                return await self.repository.insert(row, payload, conditions, self.fence)
            except PayloadsFullError:
                oldest = await self.repository.history.oldest(row.member, 2 * size)
                if not oldest:
                    break
                log.info("history_shortened", member=row.member, entries=len(oldest))
                await self.feed.history.forget(row.member, oldest)
        raise payloads_full()

    async def _answer(self, job: AnyJob) -> dict[str, Any]:
        """Return what the cloud found wrong with single nodes of a job, once the engine has
        accepted it. Raises `LocalError`."""
        submitting = self.engine.submit(job)
        async with asyncio.TaskGroup() as tasks:

            def withdraw() -> None:
                tasks.create_task(self._withdraw(job, submitting), name="withdraw a late job")

            timer = asyncio.get_running_loop().call_later(self.timeout, withdraw)
            try:
                # The client gets its answer before the engine goes on with the job.
                answer = await submitting
            finally:
                timer.cancel()
        if isinstance(answer, LocalError):
            raise answer
        return dict(answer)

    async def _withdraw(self, job: Job, submitting: asyncio.Future[Submitted]) -> None:
        """Withdraw a job that the engine has not accepted in time, and answer for it, unless the
        engine does so: it may have decided by now."""
        answer: Submitted = unconfirmed_refusal(
            LocalError("submission_withdrawn", "The job was not sent in time.")
        )
        with suppress(StorageError):
            if await self.repository.withdraw(job.order, usage=[used(job, submitted=-1)]):
                answer = LocalError(
                    "submission_withdrawn",
                    "The job was not sent in time. It will not run; submit it again.",
                    kind="unavailable",
                    retry_after=5.0,
                )
            elif await self._number_of(job.member, job.prompt_id) is not None:
                answer = {}
            else:  # the engine has refused it
                await asyncio.wait([submitting], timeout=self.timeout)
        if not submitting.done():
            submitting.set_result(answer)


def _in_the_queue(prompt_id: str) -> LocalError:
    return LocalError(
        "duplicate_prompt_id",
        "A job with this prompt_id is in the queue; use another one.",
        kind="conflict",
        details=prompt_id,
    )
