"""Follows one job on the cloud to its end.

The tracker decides what follows from what happens; the follower yields it, in order.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, TypeVar

import structlog
from msgspec import Struct

from proxy.cloud.errors import CloudError, CloudOversized
from proxy.cloud.upstream import Upstream
from proxy.engine.inbox import Inbox
from proxy.engine.localiser import Localiser, of_member
from proxy.engine.node_states import NodeReport
from proxy.engine.policy import DetailTimeouts
from proxy.engine.progress import RunProgress
from proxy.engine.run_times import RunTimes
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
from proxy.jobs.models import Job, JobState
from proxy.runtime import clock
from proxy.runtime.backoff import Backoff
from proxy.runtime.clock import now
from proxy.storage.database import StorageError, ValueRefusedError
from proxy.translate.events import Message, Preview, is_terminal
from proxy.translate.graph_shape import class_of
from proxy.translate.packs import Failure, NodeFailedError

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Between two tries to read or write what a job cannot continue without.
_RETRY = Backoff(0.05, 2.0, factor=1.7)

#: A detail that was too large so often is not read again.
_MAX_OVERSIZED = 3

#: Why the detail is read no longer, after the name of who has it.
_OVERSIZED = (
    "has a record of this job that is too large to be read; find the outputs of the job there."
)
_GONE = "no longer has this job."
_UNREPORTED = "did not report how this job ended."
_CONTINUES = GiveUp("The job continues.")
#: Why a job fails whose outputs or end the database does not take.
UNSTORABLE = (
    "The proxy cannot store what this job has made: its database refuses a name, a text or a "
    "number in it, and the log says which. Change the workflow, such as its filename_prefix, and "
    "run it again."
)

#: A value that the storage refuses so often is not tried again; two writers at once may be behind
#: the first time.
_MAX_VALUE_REFUSALS = 3

#: Inputs that are taken before others get a turn.
_BATCH = 50


async def retried(call: Callable[[], Awaitable[T]]) -> T:
    """Return the result of a call that a job cannot continue without, again and again while the
    storage refuses it. Raises `ValueRefusedError` where a value in it is refused."""
    failures = refusals = 0
    while True:
        try:
            return await call()
        except StorageError as error:
            failures += 1
            refusals += isinstance(error, ValueRefusedError)
            if refusals == _MAX_VALUE_REFUSALS:
                raise
            await asyncio.sleep(_RETRY.whole(failures))


class Starting(Struct, frozen=True):
    """The first inputs of the job come: it is about to run."""


#: What a follower reports: messages to the client, and what becomes of the job.
Happening: TypeAlias = Message | Starting | JobStarted | OutputsSent | Ended


@dataclass(eq=False, repr=False)
class JobFollower:
    """Follows one job. `post` takes inputs at any time; while the follower is `held`, nothing is
    made of them.

    `cloud` is `None` for a job that is on no account. `end_reported` is set once the cloud has
    reported an end, `ending` is true from the event of it on, and `finished` is set when nothing
    more is done for the job. With `abandoned` it has failed in the proxy, and the cloud need not
    continue with it.
    """

    job: Job
    tracker: Tracker
    localiser: Localiser
    cloud: Upstream | None
    timeouts: DetailTimeouts
    run_times: RunTimes
    inbox: Inbox
    held: bool = False
    finished: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    end_reported: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    ending: bool = field(init=False, default=False)
    abandoned: bool = field(init=False, default=False)
    #: When the job was read last while the list of its account failed.
    read_alone_at: float = field(init=False, default=-math.inf)
    _progress: RunProgress | None = field(init=False, default=None)
    #: Whether the inbox waits for more than a turn: for the answer, or while an input is taken.
    _is_held_up: bool = field(init=False, default=True)
    _news: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    #: Whether the job is to leave no trace if it turns out that it has not begun.
    _unwanted: bool = field(init=False, default=False)
    _detail_wanted: asyncio.Event = field(init=False, default_factory=asyncio.Event)

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
        """Let the messages of the job flow."""
        self.held = False
        self._news.set()

    def withdraw(self) -> None:
        """Report no end of a job that has not begun, since its client no longer wants it."""
        self._unwanted = True

    def events_lost(self) -> None:
        """Note that events of the job may have been lost."""
        self.tracker.has_gaps = True

    def read_detail(self) -> None:
        """Read the job's detail until it has ended; asking again changes nothing."""
        self._detail_wanted.set()

    # --- inputs ----------------------------------------------------------------------------

    def post(self, happening: Input) -> None:
        """Take what happened. The detail is read instead of what there is no room for."""
        view = self.localiser.view
        for what in [happening] if view is None else of_member(view, happening):
            match what:
                case EventReceived(type=type_, data=data) if is_terminal(type_, data):
                    self.ending = True
                    self.end_reported.set()
                case SnapshotReceived(snapshot=snapshot) if snapshot.ended:
                    self.end_reported.set()
            if not self.inbox.put(what, is_held_up=self._is_held_up):
                self.read_detail()
            self._news.set()

    def fail(self, failure: Failure) -> None:
        """End the job with a node that fails, whatever the cloud does."""
        self.inbox.put_first(self.localiser.failing(failure))
        self._news.set()

    # --- the way to the end ----------------------------------------------------------------

    async def follow(self) -> AsyncGenerator[Happening, None]:
        """Yield what happens to the job, in order; the last is its end, of one that is withdrawn
        only if it has begun."""
        ended, taken = False, 0
        while not ended:
            if self.inbox and not self.held:
                self._is_held_up = True
                if self.tracker.started_at is None:
                    yield Starting()
                happenings = await self._follow_from(self.inbox.pop())
                ended = self.tracker.ended
                if ended and self._unwanted and not self._has_begun(happenings):
                    break
                for happening in happenings:
                    yield happening
                self._is_held_up = False
                taken += 1
                if taken % _BATCH == 0:
                    await asyncio.sleep(0)  # let the sockets write
            else:
                self._news.clear()
                await self._news.wait()
        self.inbox.clear()

    def _has_begun(self, happenings: list[Happening]) -> bool:
        """Return whether the job has begun, which ends with these."""
        ends = [each for each in happenings if isinstance(each, Ended)]
        return self.job.state is JobState.RUNNING or any(end.has_run for end in ends)

    async def _follow_from(self, what: Input) -> list[Happening]:
        """Return what follows from an input."""
        happenings: list[Happening] = []
        try:
            local = await self._localised(what)
            for command in self.tracker.receive(local, now()):
                happenings += await self._made_of(command)
        except NodeFailedError as error:
            self.abandoned = True
            self.fail(error.failure)
        except Exception:
            log.exception("job_input_failed", input=type(what).__name__)
            self.read_detail()
        return happenings

    async def _localised(self, what: Input) -> Input:
        """Return an input in the terms of the member. Raises `NodeFailedError`, also for what the
        storage cannot take."""
        try:
            return await retried(partial(self.localiser.localised, what))
        except ValueRefusedError as error:
            log.error("job_input_refused", input=type(what).__name__, error=str(error))
            if self.abandoned:  # it is that failure
                return what
            raise NodeFailedError(self._unstorable(what)) from error

    def _unstorable(self, what: Input) -> Failure:
        match what:
            case EventReceived(data={"node": str(node)}):
                pass
            case SnapshotReceived(snapshot=snapshot) if snapshot.outputs:
                node = next(iter(snapshot.outputs))
            case _:
                node = self.node or next(iter(self.job.graph), "")
        return Failure(node, "RuntimeError", UNSTORABLE)

    async def _made_of(self, command: Command) -> list[Happening]:
        """Return what is to be reported of a command, if anything."""
        view = self.localiser.view
        match command:
            case ReadDetail():
                self.read_detail()
                return []
            case Ended(end=end) if end.outcome == "completed":
                self._log_omitted(end.outputs)
            case Preview(result=False) if not self.job.wants_previews:
                return []
            case Preview(result=False) if view is not None:
                shown = await view.preview(command)
                return [] if shown is None else [shown]
        return [command]

    def _log_omitted(self, outputs: Mapping[str, Any]) -> None:
        """Log the output nodes that delivered nothing, where that may be because it cannot be
        told."""
        if self.cloud is None or self.cloud.capabilities.tells_values:
            return
        if omitted := [node for node in self.job.outputs_to_execute if node not in outputs]:
            log.info("outputs_omitted", cloud_job=self.job.cloud_id, nodes=omitted)

    # --- the detail ------------------------------------------------------------------------

    async def read_when_wanted(self) -> None:
        """Read the detail each time that it is wanted, until cancelled."""
        while self.cloud is not None:
            await self._detail_wanted.wait()
            given_up = await self._read_detail(self.cloud)
            self._detail_wanted.clear()
            self.post(given_up)

    async def _read_detail(self, cloud: Upstream) -> GiveUp:
        """Post the detail again and again, and return why it is no longer of use."""
        title, waited = cloud.title, defaultdict[GiveUp, float](float)
        oversized = 0
        for wait in self.timeouts.growing():
            began = clock.monotonic()
            await asyncio.sleep(wait)
            try:
                snapshot = await cloud.job(self.job.cloud_id)
            except CloudOversized as error:
                log.error("detail_rejected", error=str(error))
                oversized += 1
                if oversized == _MAX_OVERSIZED:
                    return GiveUp(f"{title} {_OVERSIZED}", lost=True)
                continue
            except CloudError as error:
                log.warning("detail_read_failed", error=str(error))
                await asyncio.sleep(error.retry_after or 0.0)
                continue
            except Exception:
                log.exception("detail_read_crashed")
                continue
            if snapshot is None:
                given_up = GiveUp(f"{title} {_GONE}", lost=True)
                limit = self.timeouts.lost
            else:
                self.post(SnapshotReceived(snapshot))
                given_up, limit = _CONTINUES, self.timeouts.settle
                if snapshot.ended:
                    given_up = GiveUp(f"{title} {_UNREPORTED}", lost=True)
                    limit = self.timeouts.settle_for(snapshot)
            waited[given_up] += clock.monotonic() - began
            if waited[given_up] > limit:
                return given_up
        raise AssertionError("the waits never end")
