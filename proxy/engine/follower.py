"""Follows one job on the cloud to its end.

The tracker decides what follows from what happens, the follower carries it out, in order.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import takewhile
from typing import Any, TypeAlias, TypeVar

import structlog

from proxy import clock
from proxy.clock import now
from proxy.cloud.errors import CloudError, CloudOversized
from proxy.cloud.resilience import Backoff
from proxy.cloud.upstream import Upstream
from proxy.engine.announcer import Announcer
from proxy.engine.localiser import Localiser, of_member
from proxy.engine.node_states import NodeReport
from proxy.engine.outcomes import Withdrawn
from proxy.engine.policy import DetailTimeouts
from proxy.engine.progress import RunProgress
from proxy.engine.run_times import RunTimes
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import JobTable
from proxy.engine.tracker import (
    Command,
    Ended,
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
from proxy.jobs.models import Job, JobState
from proxy.storage.database import StorageError
from proxy.translate.events import (
    Binary,
    Event,
    Message,
    NodeText,
    Preview,
    is_terminal,
    with_metadata,
)
from proxy.translate.frames import CloudPicture
from proxy.translate.graph_shape import class_of
from proxy.translate.packs import Failure, NodeFailedError

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Between two tries to read or write what a job cannot continue without.
_RETRY = Backoff(0.05, 2.0, factor=1.7)

#: Above this many waiting inputs pictures are dropped.
_MAX_INPUTS = 64

#: A larger preview is not kept for those who look at the dashboard.
MAX_PREVIEW_BYTES = 1024 * 1024

#: A detail that was too large so often is not read again.
_MAX_OVERSIZED = 3

#: Why the detail is read no longer.
_OVERSIZED = GiveUp(
    "Comfy Cloud's record of this job is too large to be read; find the outputs of the job on the "
    "cloud.",
    lost=True,
)
_GONE = GiveUp("Comfy Cloud no longer has this job.", lost=True)
_UNREPORTED = GiveUp("Comfy Cloud did not report how this job ended.", lost=True)
_CONTINUES = GiveUp("Comfy Cloud reports that this job continues.")

#: Inputs that are taken before others get a turn.
_BATCH = 50

#: Seconds that a job waits for the ends of its member's previous jobs to be sent.
_TURN_TIMEOUT = 2.0


async def retried(call: Callable[[], Awaitable[T]]) -> T:
    """Return the result of a call that a job cannot continue without, again and again while the
    storage refuses it."""
    failures = 0
    while True:
        try:
            return await call()
        except StorageError as error:
            failures += 1
            wait = _RETRY.whole(failures)
            log.error("store_failed", error=str(error), next_try=wait)
            await asyncio.sleep(wait)


@dataclass(eq=False, repr=False)
class JobFollower:
    """Follows one job. `post` takes inputs at any time; nothing is done before `release`.

    `ending` is true once the cloud has reported an end, `finished` is set when nothing more is done
    for the job. With `abandoned` it has failed in the proxy, and the cloud need not continue with
    it. `preview` is the last one, `cloud` is `None` for a job that is on no account, `topic` is
    where its client hears, and the `metadata` goes into all messages about it. `runs` has all that
    is followed.
    """

    job: Job
    tracker: Tracker
    localiser: Localiser
    _: KW_ONLY
    cloud: Upstream | None
    topic: str
    metadata: Mapping[str, Any]
    runs: Runs
    table: JobTable
    scheduler: Scheduler
    announcer: Announcer
    steps: StepBuffer
    timeouts: DetailTimeouts
    run_times: RunTimes
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    ending: bool = False
    abandoned: bool = False
    preview: Preview | None = None
    _progress: RunProgress | None = None
    _inbox: deque[Input] = field(default_factory=deque)
    #: Whether the inbox waits for more than a turn: for the answer, or while an input is taken.
    _is_held_up: bool = True
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _withdrawn: bool = False
    _detail_wanted: asyncio.Event = field(default_factory=asyncio.Event)

    # --- what others see and ask -----------------------------------------------------------

    @property
    def node(self) -> str | None:
        """The node that runs, as it is shown."""
        return self.tracker.nodes.display_node

    @property
    def node_type(self) -> str | None:
        """The class of this node."""
        return None if self.node is None else class_of(self.tracker.graph.get(self.node)) or None

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
        return self._detail_wanted.is_set()

    def release(self) -> None:
        """Let the messages of the job flow: its client has the answer, or will not get it."""
        self.table.note(self.job, answered=True)
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
        self._detail_wanted.set()

    # --- inputs ----------------------------------------------------------------------------

    def post(self, happening: Input) -> None:
        """Take what happened; while one input is long in its turn and many wait, pictures are
        dropped."""
        view = self.localiser.view
        for what in [happening] if view is None else of_member(view, happening):
            match what:
                case EventReceived(type=type_, data=data) if is_terminal(type_, data):
                    self.ending = True
                    self.scheduler.free(self.job)
                case SnapshotReceived(snapshot=snapshot) if snapshot.ended:
                    self.scheduler.free(self.job)
                case CloudPicture() if self._is_held_up and len(self._inbox) > _MAX_INPUTS:
                    continue
            self._inbox.append(what)
            self._news.set()

    def fail(self, failure: Failure) -> None:
        """End the job with a node that fails, whatever the cloud does."""
        self._inbox.extendleft(reversed(self.localiser.failing(failure)))
        self._news.set()

    # --- the way to the end ----------------------------------------------------------------

    async def follow(self) -> Ended | Withdrawn:
        """Carry out what happens to the job until it has ended or is withdrawn."""
        outcome, taken = None, 0
        if not self.job.answered:
            asyncio.get_running_loop().call_later(self.announcer.answer_timeout, self.release)
        async with asyncio.TaskGroup() as tasks:
            name = f"read job {self.job.prompt_id}"
            reader = tasks.create_task(self._read_when_wanted(), name=name)
            while outcome is None and not self._withdrawn:
                if self._inbox and self.job.answered:
                    self._is_held_up = True
                    outcome = await self._take(self._inbox.popleft())
                    self._is_held_up = False
                    taken += 1
                    if taken % _BATCH == 0:
                        await asyncio.sleep(0)  # let the sockets write
                else:
                    self._news.clear()
                    await self._news.wait()
            reader.cancel()
        self._inbox.clear()
        return outcome or Withdrawn()

    async def _take(self, happening: Input) -> Ended | None:
        """Do what follows from an input, in its turn; return the end if that follows."""
        try:
            if self.tracker.started_at is None and (previous := self._previous_ending()):
                await self._wait_for(previous)
            what = await retried(partial(self.localiser.localised, happening))
            for command in self.tracker.receive(what, clock.now()):
                if isinstance(command, Ended):
                    return command
                await self._do(command)
        except NodeFailedError as error:
            self.abandoned = True
            self.fail(error.failure)
        except Exception:
            log.exception("job_input_failed", input=type(happening).__name__)
            self.read_detail()
        return None

    def _previous_ending(self) -> list[JobFollower]:
        """Return what follows previous jobs of the member that are about to end."""
        runs = self.runs[self.job.member].values()
        return [run for run in takewhile(lambda run: run is not self, runs) if run.ending]

    async def _wait_for(self, previous: list[JobFollower]) -> None:
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

    async def _do(self, command: Command) -> None:
        view = self.localiser.view
        match command:
            case Preview(result=False) if not self.job.wants_previews:
                pass
            case Preview(result=False) if view is not None:
                if (shown := await view.preview(command)) is not None:
                    self.tell(shown)
            case Event() | Preview() | NodeText() | Binary():
                self.tell(command)
            case JobStarted(at=at):
                if self.job.state is JobState.SUBMITTED:
                    self.table.advance(self.job, JobState.RUNNING, started_at=at)
                self.scheduler.started(self.job)
            case OutputsSent():
                self.table.show(self.job, finishing=True)
            case ReadDetail():
                self.read_detail()

    def tell(self, message: Message) -> None:
        """Publish a message to the client."""
        if self.metadata:
            message = with_metadata(message, self.metadata)
        numbered = self.steps.numbered(message)
        droppable = isinstance(message, Preview) and not message.result
        if isinstance(message, Preview) and droppable and len(message.image) <= MAX_PREVIEW_BYTES:
            self.preview = message
        self.announcer.publish(self.topic, numbered, droppable=droppable)

    def repeat(self, epoch: int, number: int) -> None:
        """Publish the steps of the job after this one again; all of them if it is of another
        epoch."""
        for step in self.steps.after(epoch, number):
            self.announcer.publish(self.topic, step)

    def close(self) -> None:
        """Note that nothing more is done for the job."""
        self.steps.close()
        self.finished.set()

    # --- the detail ------------------------------------------------------------------------

    async def _read_when_wanted(self) -> None:
        """Read the detail each time that it is wanted, until the cloud has no more to say."""
        while self.cloud is not None:
            await self._detail_wanted.wait()
            given_up = await self._read_detail(self.cloud)
            self._detail_wanted.clear()
            self.post(given_up)

    async def _read_detail(self, cloud: Upstream) -> GiveUp:
        """Post the detail again and again, and return why it is no longer of use."""
        waited: defaultdict[GiveUp, float] = defaultdict(float)
        oversized = 0
        for wait in self.timeouts.growing():
            await asyncio.sleep(wait)
            try:
                snapshot = await cloud.job(self.job.cloud_id)
            except CloudOversized as error:
                log.error("detail_rejected", error=str(error))
                oversized += 1
                if oversized == _MAX_OVERSIZED:
                    return _OVERSIZED
                continue
            except CloudError as error:
                log.warning("detail_read_failed", error=str(error))
                await asyncio.sleep(error.retry_after or 0.0)
                continue
            except Exception:
                log.exception("detail_read_crashed")
                continue
            if snapshot is None:
                given_up, limit = _GONE, self.timeouts.lost
            else:
                self.post(SnapshotReceived(snapshot))
                given_up, limit = _CONTINUES, self.timeouts.settle
                if snapshot.ended:
                    given_up, limit = _UNREPORTED, self.timeouts.settle_for(snapshot)
            waited[given_up] += wait
            if waited[given_up] > limit:
                return given_up
        raise AssertionError("the waits never end")


#: What follows jobs, by their members, in the order in which it began.
Runs: TypeAlias = defaultdict[str, dict[Job, JobFollower]]
