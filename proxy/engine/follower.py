"""Follows one job on the cloud to its end.

The tracker decides what follows from what happens, the follower carries it out, in order.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field

import structlog
from msgspec import Struct

from proxy.clock import now
from proxy.cloud.client import CloudClient
from proxy.cloud.errors import CloudError, CloudOversized
from proxy.engine.announcer import Announcer
from proxy.engine.localiser import Localiser, of_member
from proxy.engine.node_states import NodeReport
from proxy.engine.outcomes import Withdrawn
from proxy.engine.policy import DetailTimeouts
from proxy.engine.progress import RunProgress
from proxy.engine.run_times import RunTimes
from proxy.engine.slots import SlotAllocator
from proxy.engine.table import FollowedJob, JobTable
from proxy.engine.tracker import (
    Command,
    EventReceived,
    GiveUp,
    Input,
    JobStarted,
    OutputsSent,
    ReadDetail,
    SnapshotReceived,
    Tracker,
)
from proxy.jobs.message_order import StepBuffer
from proxy.jobs.messages import JobMessage
from proxy.jobs.models import Job, JobEnd, JobState
from proxy.storage.database import StorageError
from proxy.translate.events import (
    TERMINAL_EVENTS,
    Binary,
    Event,
    Message,
    NodeText,
    Preview,
    is_terminal,
)
from proxy.translate.frames import CloudPicture
from proxy.translate.packs import Failure, NodeFailedError

log = structlog.get_logger(__name__)

#: Above this many waiting inputs previews are dropped.
_MAX_INPUTS = 64

#: A larger preview is not kept for those who look at the dashboard.
MAX_PREVIEW_BYTES = 1024 * 1024

#: A detail that was too large so often is not read again; what its client gets then.
_MAX_OVERSIZED = 3
_OVERSIZED = (
    "Comfy Cloud's record of this job is too large to be read; find the outputs of the job on the "
    "cloud."
)

#: Events that bring the end, or that have names which are made local first.
_SLOW = TERMINAL_EVENTS | {"executed"}

#: Inputs that are taken before others get a turn.
_BATCH = 50

#: Seconds that a job waits for the ends of its member's previous jobs to be sent.
_TURN_TIMEOUT = 2.0


class Ended(Struct, frozen=True):
    """A job has ended with `end`.

    The `commands` are to be carried out when the history has its entry. With `abandoned` it failed
    in the proxy, and the cloud need not continue with it.
    """

    end: JobEnd
    commands: Sequence[Command]
    abandoned: bool = False


@dataclass(eq=False, repr=False)
class JobFollower:
    """Follows one job. `post` takes inputs at any time; nothing is done before `release`.

    `ending` is true once the cloud has reported an end, `finished` is set when nothing more is done
    for the job. `preview` is the last one, `cloud` is `None` for a job that is on no account, and
    `topic` is where its client hears.
    """

    job: Job
    tracker: Tracker
    localiser: Localiser
    _: KW_ONLY
    cloud: CloudClient | None
    topic: str
    table: JobTable
    slots: SlotAllocator
    announcer: Announcer
    steps: StepBuffer
    timeouts: DetailTimeouts
    run_times: RunTimes
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    ending: bool = False
    preview: Preview | None = None
    _progress: RunProgress | None = None
    _inbox: deque[Input] = field(default_factory=deque)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _idle: bool = False
    _withdrawn: bool = False
    _abandoned: bool = False
    _reader: asyncio.Task[None] | None = None
    _wants_detail: bool = False
    _oversized: int = 0
    _tasks: asyncio.TaskGroup | None = None

    # --- what others see and ask -----------------------------------------------------------

    @property
    def node(self) -> str | None:
        """The node that runs, as it is shown."""
        return self.tracker.nodes.display_node

    @property
    def node_type(self) -> str | None:
        """The class of this node."""
        return None if self.node is None else self.tracker.nodes.types.get(self.node)

    @property
    def progress(self) -> RunProgress:
        """How far the job is now."""
        if self._progress is None:
            outputs = self.job.outputs_to_execute
            self._progress = RunProgress(self.run_times.expected(self.job.graph, outputs))
        nodes, began = self.tracker.nodes, self.tracker.nodes.began
        running = [] if began is None else [(began[0], float(now() - began[1]))]
        self._progress.advance(nodes.shares, nodes.cached, running)
        return self._progress

    def reports(self, limit: int) -> dict[str, NodeReport]:
        """Return how far the first `limit` nodes are of which anything is known."""
        return self.tracker.nodes.reports(limit)

    @property
    def reading(self) -> bool:
        """Whether the job's detail is being read already."""
        return self._reader is not None or self._wants_detail

    def release(self) -> None:
        """Let the messages of the job flow: it is `answered` now."""
        self._news.set()

    def withdraw(self) -> None:
        """Follow the job no further: it was cancelled before it ran."""
        self._withdrawn = True
        self._news.set()

    def explain(self, reason: str | None) -> None:
        """Show why the job cannot be followed, if it cannot."""
        self.table.show(self.job, reason=reason, message=None)

    def read_detail(self) -> None:
        """Read the job's detail until it has ended; asking again changes nothing."""
        if self.cloud is None or self.tracker.ended:
            return
        if self._tasks is None:
            self._wants_detail = True
        elif self._reader is None:
            self._reader = self._tasks.create_task(
                self._read_detail(self.cloud), name=f"read job {self.job.prompt_id}"
            )

    # --- inputs ----------------------------------------------------------------------------

    def post(self, happening: Input) -> None:
        """Take what happened; while many inputs wait, previews are dropped."""
        view = self.localiser.view
        for what in [happening] if view is None else of_member(view, happening):
            match what:
                case EventReceived(type=type_, data=data) if is_terminal(type_, data):
                    self.ending = True
                    self.slots.free(self.job)
                case SnapshotReceived(snapshot=snapshot) if snapshot.ended:
                    self.slots.free(self.job)
                case CloudPicture() if len(self._inbox) > _MAX_INPUTS:
                    continue
            if self._idle and self._is_quick(what):
                self._take_now(what)
            else:
                self._inbox.append(what)
                self._idle = False
                self._news.set()

    def fail(self, failure: Failure) -> None:
        """End the job with a node that fails, whatever the cloud does."""
        self._inbox.extendleft(reversed(self.localiser.failing(failure)))
        self._news.set()

    def _is_quick(self, what: Input) -> bool:
        """Return whether an input of a running job needs no waiting and brings no end: most events
        and frames."""
        if self.tracker.started_at is None:
            return False
        view = self.localiser.view
        match what:
            case SnapshotReceived() | GiveUp():
                return False
            case EventReceived(type="execution_cached"):
                return view is None
            case EventReceived(type=type_):
                return type_ not in _SLOW
            case CloudPicture(image_type=image_type):
                return view is None or view.shows(image_type)
        return True

    # --- the way to the end ----------------------------------------------------------------

    async def follow(self) -> Ended | Withdrawn:
        """Carry out what happens to the job until it has ended or is withdrawn."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                if self._wants_detail:
                    self.read_detail()
                outcome = await self._follow()
                if self._reader is not None:
                    self._reader.cancel()
        finally:
            # The traceback of a cancelled reader leads back here: without this circle the job's
            # memory is free at once, and not after a late collection.
            self._tasks = self._reader = None
        return outcome

    async def _follow(self) -> Ended | Withdrawn:
        taken = 0
        while not self._withdrawn:
            if self._inbox and self.job.answered:
                ended = await self._take(self._inbox.popleft())
                if ended is not None:
                    self._inbox.clear()
                    return ended
                taken += 1
                if taken % _BATCH == 0:
                    await asyncio.sleep(0)  # let the sockets write
            else:
                self._news.clear()
                self._idle = self.job.answered
                await self._news.wait()
                self._idle = False
        return Withdrawn()

    def _take_now(self, what: Input) -> None:
        try:
            for command in self.tracker.receive(what, time.time_ns() // 1_000_000):
                self._do(command)
        except Exception:
            log.exception("job_input_failed", input=type(what).__name__, job=self.job.prompt_id)
            self.read_detail()

    async def _take(self, happening: Input) -> Ended | None:
        """Do what follows from an input, in its turn; return the end if that follows."""
        view = self.localiser.view
        try:
            if self.tracker.started_at is None and (previous := self.table.ending_before(self)):
                await self._wait_for(previous)
            what = await self._localised(happening)
            commands = self.tracker.receive(what, time.time_ns() // 1_000_000)
            for index, command in enumerate(commands):
                match command:
                    case JobEnd():
                        return Ended(command, commands[index + 1 :], self._abandoned)
                    case Preview(result=False) if view is not None and self.job.wants_previews:
                        if (shown := await view.preview(command)) is not None:
                            self.tell(shown)
                    case _:
                        self._do(command)
        except NodeFailedError as error:
            self._abandoned = True
            self.fail(error.failure)
        except Exception:
            log.exception("job_input_failed", input=type(happening).__name__)
            self.read_detail()
        return None

    async def _localised(self, happening: Input) -> Input:
        """Return an input in the terms of the member, once the storage can tell them."""
        for wait in self.timeouts.growing():
            if wait:
                await asyncio.sleep(wait)
            try:
                return await self.localiser.localised(happening)
            except StorageError as error:
                log.error("store_failed", error=str(error), next_try=wait)
        raise AssertionError("the waits never end")

    async def _wait_for(self, previous: list[FollowedJob]) -> None:
        """Wait until the ends of the member's previous jobs are sent, as on a server with one GPU.

        The cloud begins the next job while the end of the last one still waits for its detail.
        """
        try:
            async with asyncio.timeout(_TURN_TIMEOUT):
                for run in reversed(previous):  # when the newest ends, most others have
                    await run.finished.wait()
        except TimeoutError:
            log.debug("previous_end_delayed", job=self.job.prompt_id)

    # --- commands --------------------------------------------------------------------------

    def _do(self, command: Command) -> None:
        match command:
            case Preview(result=False) if not self.job.wants_previews:
                pass
            case Event() | Preview() | NodeText() | Binary():
                self.tell(command)
            case JobStarted(at=at):
                if self.job.state is JobState.SUBMITTED:
                    self.table.advance(self.job, JobState.RUNNING, started_at=at)
                self.slots.started(self.job)
                self.announcer.tell_status(self.job.member)
            case OutputsSent():
                self.table.show(self.job, finishing=True)
            case ReadDetail():
                self.read_detail()

    def tell(self, message: Message) -> None:
        """Publish a message to the client."""
        number, step = self.steps.number(message)
        preview = message if isinstance(message, Preview) and step is None else None
        if preview is not None and len(preview.image) <= MAX_PREVIEW_BYTES:
            self.preview = preview
        self._publish(message, number, step, droppable=preview is not None)

    def repeat(self, epoch: int, number: int) -> None:
        """Publish the steps of the job after this one again; all of them if it is of another
        epoch."""
        received = number if epoch == self.announcer.epoch else 0
        for step in self.steps.after(received):
            self._publish(step.message, step.number, step.name)

    def close(self) -> None:
        """Note that nothing more is done for the job."""
        self.steps.close()
        self.finished.set()

    def _publish(
        self, message: Message | None, number: int, step: str | None, *, droppable: bool = False
    ) -> None:
        job = self.job
        published = JobMessage(
            job.member,
            job.client_id,
            job.prompt_id,
            job.watched,
            message,
            job.order,
            self.announcer.epoch,
            number,
            step,
        )
        self.announcer.publish(self.topic, published, droppable=droppable)

    # --- the detail ------------------------------------------------------------------------

    async def _read_detail(self, cloud: CloudClient) -> None:
        """Read until the tracker has ended, and tell it when the cloud has no more to say."""
        ended = unknown = running = 0.0
        for wait in self.timeouts.growing():
            if wait:
                await asyncio.sleep(wait)
            try:
                snapshot = await cloud.job(self.job.cloud_id)
            except CloudError as error:
                if await self._failed_for_good(error):
                    return
                continue
            except Exception:
                log.exception("detail_read_crashed")
                continue
            if snapshot is None:
                unknown += wait
                if unknown > self.timeouts.lost:
                    self.post(GiveUp("Comfy Cloud no longer has this job.", lost=True))
                continue
            self.post(SnapshotReceived(snapshot))
            if snapshot.ended:
                ended += wait
                if ended > self.timeouts.settle_for(snapshot):
                    self.post(GiveUp("Comfy Cloud did not report how this job ended.", lost=True))
            else:
                running += wait
                if running > self.timeouts.settle:
                    self._reader = None
                    self.post(GiveUp("Comfy Cloud reports that this job continues."))
                    return

    async def _failed_for_good(self, error: CloudError) -> bool:
        """Take a failed reading: wait as long as the cloud asks for, or give up a detail that was
        too large so often. Return whether it was given up."""
        if not isinstance(error, CloudOversized):
            log.warning("detail_read_failed", error=str(error))
            await asyncio.sleep(error.retry_after or 0.0)
            return False
        log.error("detail_rejected", error=str(error))
        self._oversized += 1
        if self._oversized < _MAX_OVERSIZED:
            return False
        self.post(GiveUp(_OVERSIZED, lost=True))
        return True
