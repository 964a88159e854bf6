"""How the api's half asks the engine: by a call in the same process, else over the bus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from proxy import randomness
from proxy.bus import EventBus
from proxy.jobs.messages import (
    CancelAnswered,
    CancelRequested,
    JobReceived,
    JobReleased,
    OverviewAnswered,
    OverviewRequested,
    RunAnswered,
    RunRequested,
)
from proxy.jobs.models import Job
from proxy.storage.job_tables import JobKey

T = TypeVar("T")


class RunningEngine(Protocol):
    """The engine that runs the jobs, in this process."""

    def receive(self, job: Job) -> None:
        """Take in a checked job, which is in the storage. The listener hears a `JobAnswered`."""

    def release(self, key: JobKey, *, watched: bool) -> None:
        """Let a job's messages flow: its client has the answer, and a socket if `watched`."""

    def cancel(self, wanted: CancelRequested) -> asyncio.Future[CancelAnswered]:
        """End jobs, and return where the answer comes; none does from an engine whose term ends."""

    def overview(self, member: str | None) -> OverviewAnswered:
        """Return all live jobs, or those of one member, and the accounts."""

    def run(self, key: JobKey, *, picture: bool) -> RunAnswered:
        """Return how far a job is, with its last preview if a `picture` is wanted."""


class EngineClient:
    """Asks the engine that runs the jobs, in whichever process of the `bus` it is."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self._here: RunningEngine | None = None

    def lead(self, engine: RunningEngine | None) -> None:
        """Note that an engine of this process runs the jobs, or that none does any more."""
        self._here = engine
        self.bus.leads = engine is not None

    def receive(self, job: Job) -> None:
        """Have a checked job taken in, which is in the storage. The feed hears a `JobAnswered`."""
        if self._here is not None:
            self._here.receive(job)
        else:
            self.bus.publish("engine", JobReceived(job.key, job.order))

    def release(self, key: JobKey, *, watched: bool) -> None:
        """Let a job's messages flow: its client has the answer, and a socket if `watched`."""
        if self._here is not None:
            self._here.release(key, watched=watched)
        else:
            self.bus.publish("engine", JobReleased(key, watched))

    @contextmanager
    def cancelled(
        self, keys: Iterable[JobKey], *, interrupt: bool, cleared: bool
    ) -> Iterator[EngineAnswer[CancelAnswered]]:
        """Have jobs ended, and yield where the answer comes."""
        request = randomness.uuid4().hex
        wanted = CancelRequested(request, tuple(keys), interrupt, cleared)
        if self._here is not None:
            yield EngineAnswer(self._here.cancel(wanted))
            return
        with answer_on(self.bus, f"answers.{request}", CancelAnswered) as answered:
            self.bus.publish("engine", wanted)
            yield answered

    async def overview(self, member: str | None, timeout: float) -> OverviewAnswered | None:
        """Return all live jobs, or those of one member, and the accounts; `None` if no engine
        answers within `timeout` seconds."""
        if self._here is not None:
            return self._here.overview(member)
        request = randomness.uuid4().hex
        with answer_on(self.bus, f"answers.{request}", OverviewAnswered) as answered:
            self.bus.publish("engine", OverviewRequested(request, member))
            return await answered.within(timeout)

    async def run(self, key: JobKey, timeout: float, *, picture: bool) -> RunAnswered | None:
        """Return how far a job is, with its last preview if a `picture` is wanted; `None` if no
        engine answers within `timeout` seconds."""
        if self._here is not None:
            return self._here.run(key, picture=picture)
        request = randomness.uuid4().hex
        with answer_on(self.bus, f"answers.{request}", RunAnswered) as answered:
            self.bus.publish("engine", RunRequested(request, key, picture))
            return await answered.within(timeout)


class EngineAnswer(Generic[T]):
    """What the engine answers, once it does."""

    def __init__(self, answer: asyncio.Future[T]) -> None:
        self._answer = answer

    async def within(self, seconds: float) -> T | None:
        """Wait for the answer up to `seconds`; return `None` if it does not come in time."""
        await asyncio.wait([self._answer], timeout=seconds)
        return self._answer.result() if self._answer.done() else None


@contextmanager
def answer_on(bus: EventBus, topic: str, kind: type[T]) -> Iterator[EngineAnswer[T]]:
    """Yield the answer that comes on a topic in the block, the first message of a `kind`."""
    answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def hear(message: object) -> None:
        if isinstance(message, kind) and not answer.done():
            answer.set_result(message)

    with bus.subscribe(topic, hear):
        yield EngineAnswer(answer)
