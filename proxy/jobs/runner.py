"""Drives one job's tracker: feeds it what happens and does what it says, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog

from proxy.cloud.errors import CloudError
from proxy.jobs.happenings import (
    CloudEvent,
    Command,
    Ended,
    Happening,
    ReadDetail,
    Record,
    Seen,
    Settle,
    Started,
    Tell,
)
from proxy.jobs.localising import Localiser, Names
from proxy.jobs.record import JobRecord
from proxy.jobs.tracker import Tracker
from proxy.store.base import StoreError
from proxy.translate.events import is_terminal
from proxy.translate.messages import CloudFrame, CloudPicture, Message, Preview
from proxy.translate.snapshot import Snapshot

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: So many happenings may wait for a job's turn before its previews are left out.
_CROWDED = 64


class Cloud(Protocol):
    """What a runner needs of the cloud."""

    async def job(self, cloud_id: str) -> Snapshot | None:
        """The job's detail, or `None` if the cloud does not know it."""


class Desk(Protocol):
    """Where a runner reports: the keeper of the queue and the history."""

    def tell(self, job: JobRecord, message: Message) -> None:
        """Deliver a message about the job."""

    async def turn(self, job: JobRecord) -> None:
        """Wait until a job may begin to be told of: not in the middle of another one's end."""

    async def job_started(self, job: JobRecord, at: int) -> None:
        """The job runs now (`at` in ms)."""

    def job_over(self, job: JobRecord) -> None:
        """The cloud has told of the end: the job's slot is free, whatever is still to be read."""

    async def record_end(self, job: JobRecord, end: Record) -> None:
        """Write the history entry; raises `StoreError` if the disk refuses."""

    def job_ended(self, job: JobRecord) -> None:
        """The job leaves the queue."""


@dataclass(frozen=True, slots=True)
class Waits:
    """How long to wait between readings of a job's detail, and when to stop (seconds).

    `settle` bounds the wait for the outputs of a completed job, `settle_stopped` the wait for the
    end time of a failed or cancelled one, `lost` that for a job which the cloud does not know.
    """

    first: float = 0.05
    most: float = 2.0
    settle: float = 30.0
    settle_stopped: float = 6.0
    lost: float = 60.0

    def settle_for(self, snapshot: Snapshot) -> float:
        """How long an ended job may lack what its detail should have."""
        return self.settle if snapshot.status == "completed" else self.settle_stopped

    def growing(self) -> Iterable[float]:
        """0, then `first` and ever longer up to `most`."""
        yield 0.0
        wait = self.first
        while True:
            yield wait
            wait = min(wait * 1.7, self.most)


class Runner:
    """One live job. `post` takes happenings at any time; nothing is done before `release`.

    `ending` is true once the cloud has told of an end, `finished` when it has been told to the
    client. `secrets` are what no message and no record may show, whatever a node makes of them.
    """

    def __init__(
        self,
        job: JobRecord,
        *,
        cloud: Cloud,
        names: Names,
        desk: Desk,
        secrets: tuple[str, ...],
        now: Callable[[], int],
        waits: Waits | None = None,
    ) -> None:
        self.job = job
        self.tracker = Tracker(job.prompt_id, job.graph)
        self._cloud = cloud
        self._desk = desk
        self._localiser = Localiser(job, names, secrets)
        self._now = now
        self._waits = waits or Waits()
        self._inbox: asyncio.Queue[Happening] = asyncio.Queue()
        self._released = asyncio.Event()
        self.finished = asyncio.Event()
        self.ending = False
        self._is_over = False
        self._reader: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work off what is posted."""
        self._task = asyncio.create_task(self._run(), name=f"job {self.job.prompt_id}")

    def release(self) -> None:
        """The client has its `prompt_id`: messages about the job may flow."""
        self._released.set()

    def post(self, happening: CloudEvent | CloudFrame | Seen | Settle) -> None:
        """Add to what happened; of a job that is far behind, previews are left out."""
        if isinstance(happening, CloudPicture) and self._inbox.qsize() > _CROWDED:
            return
        if isinstance(happening, CloudEvent) and is_terminal(happening.type, happening.data):
            self.ending = True
            self._over()
        elif isinstance(happening, Seen) and happening.snapshot.ended:
            self._over()
        self._inbox.put_nowait(happening)

    def _over(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._desk.job_over(self.job)

    def read_detail(self) -> None:
        """Read the job's detail until it has ended; asking again changes nothing."""
        if self._reader is None:
            self._reader = asyncio.create_task(
                self._read_detail(), name=f"detail {self.job.prompt_id}"
            )

    @property
    def reading(self) -> bool:
        """Whether the job's detail is being read already."""
        return self._reader is not None

    async def stop(self) -> None:
        """Stop following; the job itself goes on."""
        current = asyncio.current_task()
        tasks = [task for task in (self._task, self._reader) if task and task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        structlog.contextvars.bind_contextvars(job=self.job.prompt_id, member=self.job.member)
        await self._released.wait()
        while not self.tracker.ended:
            happening = await self._inbox.get()
            try:
                await self._take(happening)
            except Exception:
                log.exception("job_input_failed", happening=type(happening).__name__)
                self.read_detail()
        self.finished.set()
        if self._reader is not None:
            self._reader.cancel()

    async def _take(self, happening: Happening) -> None:
        if self.tracker.started_at is None:
            await self._desk.turn(self.job)
        local = await self._until_stored(lambda: self._localiser.localise(happening))
        for command in self.tracker.receive(local, self._now()):
            await self._do(command)

    async def _do(self, command: Command) -> None:
        match command:
            case Tell(message=Preview(result=False)) if not self.job.wants_previews:
                pass
            case Tell(message=message):
                self._desk.tell(self.job, message)
            case Started(at=at):
                await self._desk.job_started(self.job, at)
            case ReadDetail():
                self.read_detail()
            case Record():
                await self._until_stored(lambda: self._desk.record_end(self.job, command))
            case Ended():
                self._desk.job_ended(self.job)

    async def _until_stored(self, write: Callable[[], Awaitable[T]]) -> T:
        """What was accepted must not be lost because the disk refuses for a while."""
        async for wait in _pauses(self._waits.growing()):
            try:
                return await write()
            except StoreError as error:
                log.error("store_failed", error=str(error), next_try=wait)
        raise AssertionError("the waits never end")

    async def _read_detail(self) -> None:
        """Read until the tracker has ended, and tell it when the cloud has no more to say."""
        ended = unknown = running = 0.0
        async for wait in _pauses(self._waits.growing()):
            try:
                snapshot = await self._cloud.job(self.job.cloud_id)
            except CloudError as error:
                log.warning("detail_read_failed", error=str(error))
                await asyncio.sleep(error.retry_after or 0.0)
                continue
            if snapshot is None:
                unknown += wait
                if unknown > self._waits.lost:
                    self.post(Settle("Comfy Cloud does not know this job any more.", lost=True))
                continue
            self.post(Seen(snapshot))
            if snapshot.ended:
                ended += wait
                if ended > self._waits.settle_for(snapshot):
                    self.post(Settle("Comfy Cloud does not say how this job ended.", lost=True))
            else:
                running += wait
                if running > self._waits.settle:
                    self._reader = None
                    self.post(Settle("Comfy Cloud says that this job goes on."))
                    return


async def _pauses(waits: Iterable[float]) -> AsyncIterator[float]:
    """Each wait, after it has passed."""
    for wait in waits:
        await asyncio.sleep(wait)
        yield wait
