"""Gives the tracker of a job what happens to it, and does what the tracker says, in order."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import structlog

from proxy.cloud.client import CloudClient
from proxy.cloud.resilience import CloudError, CloudOversized
from proxy.engine.tracker import (
    Command,
    EventReceived,
    GiveUp,
    Input,
    JobStarted,
    LeaveQueue,
    OutputsSent,
    ReadDetail,
    RecordEnd,
    SendMessage,
    SnapshotReceived,
    Tracker,
)
from proxy.jobs.models import Job, JobMessage, topic_of
from proxy.storage.database import StorageError
from proxy.translate import workflow_metadata
from proxy.translate.events import CloudPicture, Message, Preview, is_terminal
from proxy.translate.packs import Failure, NodeFailedError

if TYPE_CHECKING:
    from proxy.engine.engine import Engine

from proxy.engine.localiser import Localiser

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: This many inputs may wait for a job's turn before its previews are left out.
_CROWDED = 64

#: A detail that was too large so often is not read again; what its client gets then.
_MAX_OVERSIZED = 3
_OVERSIZED = (
    "Comfy Cloud's record of this job is too large to be read; find the outputs of the job on the "
    "cloud."
)

#: Quick inputs that are taken before others get a turn.
_AT_ONCE = 50

#: Events that carry what must be made local first, which may take a while.
_TRANSLATED = frozenset({"executed", "execution_error"})


class Runner:
    """One live job. `post` takes inputs at any time; nothing is done before `release`.

    `ending` is true once the cloud has reported an end, `finished` when it was sent to the
    client. `cloud` is `None` for a job that is on no account.
    """

    def __init__(self, job: Job, engine: Engine, cloud: CloudClient | None) -> None:
        self.job = job
        self.tracker = Tracker(
            job.prompt_id,
            job.graph,
            job.outputs_to_execute,
            workflow_metadata.of_job(job.extra_data),
        )
        self.finished = asyncio.Event()
        self.ending = False
        self._engine = engine
        self._cloud = cloud
        self._bus = engine.bus
        self._term = engine.recorder.term
        self._topic = topic_of(job.member, job.client_id)
        self._timeouts = engine.policy.detail
        self._local = Localiser(job, engine)
        self._inbox: deque[Input] = deque()
        self._released = False
        self._end: RecordEnd | None = None
        self._reader: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def release(self) -> None:
        """The client has its `prompt_id`: messages about the job may flow."""
        self._released = True
        self._work_off()

    def post(self, what: Input) -> None:
        """Add to what happened; of a job that is far behind, previews are left out."""
        for one in self._local.of_member(what):
            self._post(one)

    def fail(self, failure: Failure) -> None:
        """A node fails: the job ends, whatever the cloud does."""
        for what in self._local.failing(failure):
            self._post(what)

    def _post(self, what: Input) -> None:
        if self._released and self._task is None and self._is_quick(what):
            self._take_now(what)
            return
        if isinstance(what, CloudPicture) and len(self._inbox) > _CROWDED:
            return
        if isinstance(what, EventReceived) and is_terminal(what.type, what.data):
            self.ending = True
            self._engine.over(self.job)
        elif isinstance(what, SnapshotReceived) and what.snapshot.ended:
            self._engine.over(self.job)
        self._inbox.append(what)
        self._work_off()

    def read_detail(self) -> None:
        """Read the job's detail until it has ended; asking again changes nothing."""
        if self._stopped:
            return
        if self._reader is None and self._cloud is not None and not self.tracker.ended:
            self._reader = self._engine.spawn(
                self._read_detail(self._cloud), f"read job {self.job.prompt_id}"
            )

    def explain(self, reason: str | None) -> None:
        """Show why the job cannot be followed, if it cannot."""
        self._engine.announcer.explain(self.job, reason)

    @property
    def reading(self) -> bool:
        """Whether the job's detail is being read already."""
        return self._reader is not None

    async def stop(self) -> None:
        """Stop following; the job itself continues."""
        self._stopped = True
        current = asyncio.current_task()
        tasks = [task for task in (self._task, self._reader) if task and task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- inputs ----------------------------------------------------------------------------

    def _is_quick(self, what: Input) -> bool:
        """Whether an input of a running job needs no waiting: most events and frames."""
        if self.tracker.started_at is None or isinstance(what, SnapshotReceived | GiveUp):
            return False
        if isinstance(what, EventReceived):
            if what.type == "execution_cached" and not self._local.view.is_plain:
                return False
            return what.type not in _TRANSLATED and not is_terminal(what.type, what.data)
        return not isinstance(what, CloudPicture) or self._local.view.shows(what.image_type)

    def _take_now(self, what: Input) -> None:
        try:
            for command in self.tracker.receive(what, time.time_ns() // 1_000_000):
                self._do(command)
        except Exception:
            log.exception("job_input_failed", input=type(what).__name__, job=self.job.prompt_id)
            self.read_detail()

    def _work_off(self) -> None:
        if self._released and self._task is None and self._inbox and not self._stopped:
            self._task = self._engine.spawn(self._run(), f"job {self.job.prompt_id}")

    async def _run(self) -> None:
        structlog.contextvars.bind_contextvars(job=self.job.prompt_id, member=self.job.member)
        taken = 0
        try:
            while self._inbox and not self.tracker.ended:
                what = self._inbox.popleft()
                if self._is_quick(what):
                    self._take_now(what)
                    taken += 1
                    if taken % _AT_ONCE == 0:
                        await asyncio.sleep(0)  # let the sockets write
                    continue
                try:
                    await self._take(what)
                except Exception:
                    log.exception("job_input_failed", input=type(what).__name__)
                    self.read_detail()
        finally:
            self._task = None
        if self.tracker.ended:
            self._inbox.clear()
            self.finished.set()
            if self._reader is not None:
                self._reader.cancel()

    async def _take(self, what: Input) -> None:
        if self.tracker.started_at is None:
            await self._engine.turn(self.job)
        try:
            local: list[Input] = [await self._until_stored(lambda: self._local.localised(what))]
        except NodeFailedError as error:
            local = [*self._local.failing(error.failure)]
            self._engine.abandon(self.job)
        for one in local:
            for command in self.tracker.receive(one, time.time_ns() // 1_000_000):
                match command:
                    case RecordEnd():
                        self._end = command
                        await self._until_stored(
                            lambda end=command: self._engine.record(self.job, end)  # type: ignore[misc]
                        )
                    case SendMessage(message=Preview(result=False) as preview) if (
                        self.job.wants_previews
                    ):
                        if (shown := await self._local.view.preview(preview)) is not None:
                            self._publish(shown)
                    case _:
                        self._do(command)

    def _do(self, command: Command) -> None:
        match command:
            case SendMessage(message=Preview(result=False)) if not self.job.wants_previews:
                pass
            case SendMessage(message=message):
                self._publish(message)
            case JobStarted(at=at):
                self._engine.started(self.job, at)
            case OutputsSent():
                self.job.finishing = True
                self._engine.announcer.changed(self.job)
            case ReadDetail():
                self.read_detail()
            case LeaveQueue() if self._end is not None:
                self._engine.ended(self.job, self._end)

    def _publish(self, message: Message) -> None:
        job = self.job
        if time.monotonic() >= self._term.until:
            return
        told = JobMessage(job.member, job.client_id, job.prompt_id, job.watched, message, job.order)
        preview = isinstance(message, Preview) and not message.result
        self._bus.publish(self._topic, told, droppable=preview)

    async def _until_stored(self, write: Callable[[], Awaitable[T]]) -> T:
        """What was accepted must not be lost because the disk refuses for a while."""
        async for wait in _pauses(self._timeouts.growing()):
            try:
                return await write()
            except StorageError as error:
                log.error("store_failed", error=str(error), next_try=wait)
        raise AssertionError("the waits never end")

    async def _read_detail(self, cloud: CloudClient) -> None:
        """Read until the tracker has ended, and tell it when the cloud has no more to say."""
        structlog.contextvars.bind_contextvars(job=self.job.prompt_id, member=self.job.member)
        ended = unknown = running = 0.0
        oversized = 0
        async for wait in _pauses(self._timeouts.growing()):
            try:
                snapshot = await cloud.job(self.job.cloud_id)
            except CloudOversized as error:
                log.error("detail_rejected", error=str(error))
                oversized += 1
                if oversized == _MAX_OVERSIZED:
                    self.post(GiveUp(_OVERSIZED, lost=True))
                    return
                continue
            except CloudError as error:
                log.warning("detail_read_failed", error=str(error))
                await asyncio.sleep(error.retry_after or 0.0)
                continue
            if snapshot is None:
                unknown += wait
                if unknown > self._timeouts.lost:
                    self.post(GiveUp("Comfy Cloud no longer has this job.", lost=True))
                continue
            self.post(SnapshotReceived(snapshot))
            if snapshot.ended:
                ended += wait
                if ended > self._timeouts.settle_for(snapshot):
                    self.post(GiveUp("Comfy Cloud did not report how this job ended.", lost=True))
            else:
                running += wait
                if running > self._timeouts.settle:
                    self._reader = None
                    self.post(GiveUp("Comfy Cloud reports that this job continues."))
                    return


async def _pauses(waits: Iterable[float]) -> AsyncIterator[float]:
    """Each wait, after it has passed."""
    for wait in waits:
        if wait:
            await asyncio.sleep(wait)
        yield wait
