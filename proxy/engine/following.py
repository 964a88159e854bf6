"""Jobs that are followed: from the first thing that happens to one to its history entry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from itertools import takewhile
from typing import Any

import structlog
from msgspec.structs import replace

from proxy.costs.job_cost import JobCost
from proxy.engine.follower import UNSTORABLE, JobFollower, Starting, retried
from proxy.engine.live_job import LiveJob
from proxy.engine.recorder import JobRecorder
from proxy.engine.resources import JobResources
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import JobTable
from proxy.engine.tracker import Ended, JobStarted, OutputsSent
from proxy.jobs.conversion import run_of
from proxy.jobs.models import JobState
from proxy.runtime.clock import now
from proxy.runtime.waits import finish, until_set
from proxy.sharing.loop_turns import Driver
from proxy.storage.database import ValueRefusedError
from proxy.translate.events import Message

log = structlog.get_logger(__name__)

#: Nodes of a graph whose cost is computed on the event loop: more prices take longer than a few ms.
MAX_NODES_INLINE = 100

#: Seconds after which a client is taken to have the answer about its job.
_ANSWER_TIMEOUT = 5.0
#: Seconds that a job waits for the ends of its member's previous jobs to be sent.
_TURN_TIMEOUT = 2.0
#: Seconds that an end, which may be read as soon as a leader begins, waits for the list of nodes,
#: also for a second attempt to fetch it, 10 s after one that failed.
_CATALOG_TIMEOUT = 15.0
#: Seconds for which an end is still stored and told when the engine stops, while the term lasts.
_END_TIMEOUT = 1.0


class Following:
    """Carries out what followers report: frees slots, changes the table, sends messages."""

    def __init__(
        self,
        table: JobTable,
        recorder: JobRecorder,
        scheduler: Scheduler,
        resources: JobResources,
    ) -> None:
        self._table = table
        self._recorder = recorder
        self._scheduler = scheduler
        self._resources = resources

    @asynccontextmanager
    async def follows(self, job: LiveJob, follower: JobFollower) -> AsyncIterator[None]:
        """Have a job followed in the block; its slot is free when it is over, at the latest."""
        self._table.follow(job, follower)
        try:
            yield
        finally:
            self._scheduler.free(job)
            self._table.unfollow(job)
            follower.inbox.clear()
            follower.finished.set()

    async def lead_to_end(
        self, job: LiveJob, follower: JobFollower, beside: Iterable[Coroutine[Any, Any, None]] = ()
    ) -> None:
        """Do what follows from what happens to a job that is followed, until it is over, and more
        `beside` it. Its member is charged."""
        turns = self._resources.loop_turns
        driver = Driver(turns, turns.of_member(job.member), "")
        await driver.drive(self._lead_to_end(job, follower, beside))

    async def _lead_to_end(
        self, job: LiveJob, follower: JobFollower, beside: Iterable[Coroutine[Any, Any, None]]
    ) -> None:
        ended = None
        if not job.answered:
            asyncio.get_running_loop().call_later(_ANSWER_TIMEOUT, follower.release)
        async with asyncio.TaskGroup() as tasks, aclosing(follower.follow()) as happenings:
            name = f"read job {job.prompt_id}"
            side_tasks = [
                tasks.create_task(follower.read_when_wanted(), name=name),
                tasks.create_task(self._free_slot(job, follower), name=f"free {job.prompt_id}"),
                *map(tasks.create_task, beside),
            ]
            async for happening in happenings:
                if isinstance(happening, Ended):
                    ended = happening
                else:
                    await self._carry_out(job, happening)
            for task in side_tasks:
                task.cancel()
        if ended is None:
            await self.withdraw(job, is_answered=job.answered)
        else:
            await self._finish(job, follower, ended)

    async def _free_slot(self, job: LiveJob, follower: JobFollower) -> None:
        """Free the slot of a job as soon as the cloud has reported its end."""
        await follower.end_reported.wait()
        self._scheduler.free(job)

    async def _carry_out(
        self, job: LiveJob, happening: Message | Starting | JobStarted | OutputsSent
    ) -> None:
        """Do what follows; a fault in it ends no job."""
        try:
            match happening:
                case Starting():
                    await self._wait_for_previous(job)
                case JobStarted(at=at):
                    if job.state is JobState.SUBMITTED:
                        self._table.advance(job, JobState.RUNNING, started_at=at)
                    self._scheduler.started(job)
                case OutputsSent():
                    self._table.show(job, finishing=True)
                case message:
                    self._table.message(job, message)
        except Exception:
            log.exception("job_happening_failed", happening=type(happening).__name__)
            if job.follower is not None:
                job.follower.read_detail()

    async def _wait_for_previous(self, job: LiveJob) -> None:
        """Wait until the ends of the member's previous jobs are sent, as on a server with one GPU.

        The cloud begins the next job while the end of the last one still waits for its detail.
        """
        previous = [
            other.follower
            for other in takewhile(lambda other: other is not job, self._table.followed(job.member))
            if other.follower is not None and other.follower.ending
        ]
        try:
            async with asyncio.timeout(_TURN_TIMEOUT):
                for follower in reversed(
                    previous
                ):  # when the newest has ended, most others have, too
                    await follower.finished.wait()
        except TimeoutError:
            log.debug("previous_end_delayed", job=job.prompt_id)

    def release(self, job: LiveJob) -> None:
        """Send the messages of a job from now on: its client has the answer."""
        self._table.change(job, answered=True)
        if job.released is not None:
            job.released.set()
        if job.follower is not None:
            job.follower.release()

    async def withdraw(self, job: LiveJob, *, is_answered: bool) -> None:
        """Remove a job without a trace, once its client has the answer about it or will not get
        it."""
        self._scheduler.free(job)
        if not is_answered:
            await until_set(job.awaited_release(), _ANSWER_TIMEOUT)
        await self._table.discard(job)
        self._scheduler.released(job)

    async def _finish(self, job: LiveJob, follower: JobFollower, ended: Ended) -> None:
        """Record an end, then tell it: the history has the entry before the client hears of it,
        and before that the outputs are in the output directory, if there is one."""
        await self._resources.catalog.fetched(_CATALOG_TIMEOUT)  # it has the prices of nodes
        priced = partial(self._resources.pricing.cost_of, run_of(job, ended.end))
        large = len(job.graph) > MAX_NODES_INLINE
        cost = await asyncio.to_thread(priced) if large else priced()
        end = replace(ended.end, cost=cost)
        if self._resources.files.output_directory is not None:
            await self._resources.files.output_directory.save(job.member, end.outputs)
        self._scheduler.ended(job, end.ms / 1000)
        # A next leader does not tell of an end that is stored.
        await finish(self._end(job, follower, replace(ended, end=end)), self._time_to_end)

    def _time_to_end(self) -> float:
        """Return for how long an end is still stored when the engine stops."""
        return _END_TIMEOUT if self._recorder.term.lasts else 0.0

    async def _end(self, job: LiveJob, follower: JobFollower, ended: Ended) -> None:
        """Store an end, then tell it."""
        ended = await self._record(job, follower, ended)
        end = ended.end
        if end.outcome == "completed":
            self._resources.run_times.learn(job.graph, end.node_times, job.member, end.ms)
            await self._estimate_again(job)
        self._table.message(job, ended.result)
        self._table.leave(job, end)
        self._scheduler.released(job)
        self._table.message(job, ended.last)

    async def _record(self, job: LiveJob, follower: JobFollower, ended: Ended) -> Ended:
        """Move a job into the history, and return its end: a failure, where the storage does not
        take what the cloud has sent, and without a trace where it takes nothing of the job."""
        for candidate in _ends_to_store(follower, ended):
            try:
                await retried(partial(self._table.finish, job, candidate.end))
            except ValueRefusedError as error:
                log.error("job_end_refused", error=str(error))
            else:
                return candidate
        await self._recorder.discard_soon(job)
        return candidate

    async def _estimate_again(self, job: LiveJob) -> None:
        """Let the member's waiting jobs of the same shape be expected to run as long as it has
        shown."""
        gate = self._resources.gate
        cost = None if gate is None else gate.running_cost(job)
        if gate is None or cost is None:
            return
        for waiting in self._scheduler.queue.of(job.member):
            if waiting.shape == job.shape:
                self._table.change(waiting, estimate=waiting.partner_nodes + cost)
        self._scheduler.changed()
        await gate.save_running_cost(job, cost)


def _ends_to_store(follower: JobFollower, ended: Ended) -> Iterator[Ended]:
    """Yield the end, and those that take its place while the storage refuses the one before."""
    yield ended
    failed = follower.tracker.unstorable(ended, UNSTORABLE, now())
    yield failed
    yield replace(failed, end=replace(failed.end, cost=JobCost()))
