"""Takes new jobs in: at once where a slot is free, else into the queue."""

from __future__ import annotations

import asyncio

import structlog

from proxy.engine.life import JobLife
from proxy.engine.live_job import LiveJob, SlotState
from proxy.engine.outcomes import submission_failed
from proxy.engine.resources import JobResources
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import JobTable
from proxy.jobs.models import JobState, Wish
from proxy.translate.errors import LocalError, unconfirmed_refusal

log = structlog.get_logger(__name__)

#: Seconds after which a client knows of its job although the cloud has not taken it.
ANSWER_TIMEOUT = 2.5
#: The same while no events come from the account: the way to the cloud is interrupted.
_INTERRUPTED_TIMEOUT = 0.5


class Intake:
    """Begins the lives of new jobs."""

    def __init__(
        self, table: JobTable, scheduler: Scheduler, life: JobLife, resources: JobResources
    ) -> None:
        self._table = table
        self._scheduler = scheduler
        self._life = life
        self._resources = resources

    async def receive(self, job: LiveJob) -> None:
        """Take in a new job that is stored already, and bring it as far as possible now."""
        structlog.contextvars.bind_contextvars(**job.log_fields)
        try:
            await self._begin(job)
        except Exception:
            log.exception("job_take_failed")
            if not job.accepted:
                self._table.answer(job, submission_failed())

    async def _begin(self, job: LiveJob) -> None:
        # Those of a graph that was validated are known.
        outputs = job.outputs_to_execute or self._resources.output_nodes(job, {})
        needs = self._resources.catalog.needs_of(job.loaded.cloud_graph)
        self._table.add(job, answered=False, outputs_to_execute=outputs, needs=needs)
        if job.loaded.failure is None and self._scheduler.assign_at_once(job):
            await self._send(job)
        elif self._scheduler.usable(job):
            await self._life.enqueue(job)
        else:
            refusal = _no_account()
            if not await self._table.discard(job):
                refusal = unconfirmed_refusal(refusal)
            self._table.answer(job, refusal)

    async def _send(self, job: LiveJob) -> None:
        """Lead a new job through its life. If the way to the cloud takes long, its client gets its
        answer meanwhile, and the job is in the queue."""
        self._table.advance(job, JobState.SUBMITTING)
        timeout = ANSWER_TIMEOUT
        if not self._life.events_come(job):
            timeout = min(timeout, _INTERRUPTED_TIMEOUT)
        async with asyncio.TaskGroup() as tasks:

            def accept() -> None:
                # A job without a slot is about to be refused; an unknown one has been.
                is_on_its_way = job.state is JobState.SUBMITTING and job.slot is not SlotState.NONE
                if is_on_its_way and not job.accepted and job.wish is not Wish.CANCEL:
                    self._table.advance(job, accepted=True, answers=False)  # it is not refused now
                    tasks.create_task(self._table.confirm(job), name=f"accept {job.prompt_id}")

            timer = asyncio.get_running_loop().call_later(timeout, accept)
            try:
                await self._life.run(job)
            finally:
                timer.cancel()


def _no_account() -> LocalError:
    return LocalError(
        "no_account",
        "No account accepts jobs of this member; ask an admin to add the member to an account.",
        kind="forbidden",
    )
