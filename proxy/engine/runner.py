"""From the account's one event socket to the jobs that its messages concern, and their runners.

The socket carries the events of every job of the account, others' too: the router knows which job
one belongs to. A runner gives a job's tracker what happens, and does what that says, in order. Both
is in the terms of the member: the names of files, the nodes of the graph that the member has sent,
and no secrets.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import structlog
from msgspec import Struct
from msgspec.structs import replace

from proxy.cloud.client import CloudClient
from proxy.cloud.resilience import CloudError
from proxy.engine.tracker import (
    Command,
    EventReceived,
    GiveUp,
    Input,
    JobStarted,
    LeaveQueue,
    ReadDetail,
    RecordEnd,
    SendMessage,
    SnapshotReceived,
    Tracker,
)
from proxy.helpers.service import helper_of, jpeg
from proxy.jobs.models import Job, JobMessage, topic_of
from proxy.storage.database import StorageError
from proxy.translate import events
from proxy.translate.codec import credentials, redact
from proxy.translate.events import CloudFrame, CloudPicture, Message, Preview, Told, is_terminal
from proxy.translate.helper_nodes import Failure, HelperFailedError
from proxy.translate.jobs import Snapshot
from proxy.translate.rewriting import MemberView, Rewriting, failed, reachable

if TYPE_CHECKING:
    from proxy.engine.engine import Engine

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: This many inputs may wait for a job's turn before its previews are left out.
_CROWDED = 64

#: Quick inputs that are taken before others get a turn.
_AT_ONCE = 50

#: Events that carry what must be made local first, which may take a while.
_TRANSLATED = frozenset({"executed", "execution_error"})


Inbox: TypeAlias = Callable[[EventReceived | CloudFrame], None]

#: Bytes of events of unknown jobs that are kept: some ten thousand usual ones.
EVENT_BYTES = 8 * 1024 * 1024
#: Bytes of pictures of unknown jobs that are kept while a submission is under way: those that a job
#: sends as its result within the seconds that an answer takes.
PICTURE_BYTES = 16 * 1024 * 1024
#: Seconds that anything is kept while a submission is under way: longer than one is waited for.
LONGEST = 120.0
#: What a message weighs beside its contents, in bytes.
_OVERHEAD = 256


class Runner:
    """One live job. `post` takes inputs at any time; nothing is done before `release`.

    `ending` is true once the cloud has reported an end, `finished` when it was sent to the
    client. `cloud` is `None` for a job that is on no account.
    """

    def __init__(self, job: Job, engine: Engine, cloud: CloudClient | None) -> None:
        self.job = job
        self.tracker = Tracker(job.prompt_id, job.graph)
        self.finished = asyncio.Event()
        self.ending = False
        self._engine = engine
        self._cloud = cloud
        self._bus = engine.bus
        self._term = engine.recorder.term
        self._topic = topic_of(job.member, job.client_id)
        self._timeouts = engine.policy.detail
        self._local = Localiser(job, engine, self.tracker.nodes.types)
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
        """A helper node fails: the job ends, whatever the cloud does."""
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
            if self.job.rewriting is not None and what.type == "execution_cached":
                return False
            return what.type not in _TRANSLATED and not is_terminal(what.type, what.data)
        return not isinstance(what, CloudPicture) or self._local.is_distinct(what.image_type)

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
                        if (shown := await self._local.distinct(preview)) is not None:
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
        async for wait in _pauses(self._timeouts.growing()):
            try:
                snapshot = await cloud.job(self.job.cloud_id)
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


class _Early(Struct, frozen=True):
    """A message that came before anybody knew its job."""

    at: float
    number: int
    cloud_id: str
    item: EventReceived | CloudFrame
    size: int


class _Waiting:
    """Early messages of one kind, no more than `limit` bytes of them: the oldest give way."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: deque[_Early] = deque()
        self.size = 0

    def append(self, early: _Early) -> None:
        self._entries.append(early)
        self.size += early.size
        while self.size > self._limit:
            self._drop()

    def expire(self, before: float) -> None:
        while self._entries and self._entries[0].at < before:
            self._drop()

    def take(self, cloud_id: str) -> list[_Early]:
        taken = [early for early in self._entries if early.cloud_id == cloud_id]
        if taken:
            self._entries = deque(one for one in self._entries if one.cloud_id != cloud_id)
            self.size -= sum(early.size for early in taken)
        return taken

    def _drop(self) -> None:
        self.size -= self._entries.popleft().size


class EventRouter:
    """Knows which cloud id belongs to which job.

    `clock` gives seconds. An event of an unknown job is kept for `keep` seconds, or while a
    submission is under way, and then pictures are too. What is kept is bounded in bytes.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        keep: float = 5.0,
        event_bytes: int = EVENT_BYTES,
        picture_bytes: int = PICTURE_BYTES,
    ) -> None:
        self._clock = clock
        self._keep = keep
        self._inboxes: dict[str, Inbox] = {}
        self._events = _Waiting(event_bytes)
        self._pictures = _Waiting(picture_bytes)
        self._number = 0
        self._submissions = 0
        self._running: set[str] = set()
        self._latest: str | None = None

    @property
    def held(self) -> int:
        """Bytes of unknown jobs' messages that are kept, about."""
        return self._events.size + self._pictures.size

    @contextmanager
    def submission(self) -> Iterator[None]:
        """While it lasts, messages of unknown jobs are kept longer: one may be the new job's."""
        self._submissions += 1
        try:
            yield
        finally:
            self._submissions -= 1

    def add(self, cloud_id: str, inbox: Inbox) -> None:
        """Send the events of a job to `inbox`, beginning with those that came too early."""
        self._inboxes[cloud_id] = inbox
        early = [*self._events.take(cloud_id), *self._pictures.take(cloud_id)]
        for one in sorted(early, key=lambda one: one.number):
            inbox(one.item)

    def remove(self, cloud_id: str) -> None:
        """Forget a job."""
        self._inboxes.pop(cloud_id, None)
        self._running.discard(cloud_id)

    def socket_lost(self) -> None:
        """What ran when the socket was lost may have ended unseen."""
        self._running.clear()
        self._latest = None

    def on_event(self, type_: str, data: Mapping[str, Any]) -> None:
        """Take a text message of the cloud."""
        cloud_id = events.concerns_a_job(type_, data)
        if cloud_id is None:
            return
        over = type_ == "executing" and data.get("node") is None
        if over or events.is_terminal(type_, data):
            self._running.discard(cloud_id)
        elif type_ in ("executing", "progress", "progress_state"):
            self._running.add(cloud_id)
            self._latest = cloud_id
        self._deliver(cloud_id, EventReceived(type_, data))

    def on_frame(self, data: bytes) -> None:
        """Take a binary message of the cloud.

        One without a job's id belongs to the only job that runs on the account, if it is known;
        when several run it is dropped rather than guessed.
        """
        frame = events.parse_frame(data)
        if frame is None:
            return
        cloud_id = frame.prompt_id
        if cloud_id is None and len(self._running) == 1 and self._latest in self._running:
            cloud_id = self._latest
        if cloud_id is not None:
            self._deliver(cloud_id, frame)

    def _deliver(self, cloud_id: str, item: EventReceived | CloudFrame) -> None:
        inbox = self._inboxes.get(cloud_id)
        if inbox is not None:
            inbox(item)
            return
        now = self._clock()
        before = now - (LONGEST if self._submissions else self._keep)
        self._events.expire(before)
        self._pictures.expire(before)
        picture = isinstance(item, CloudPicture)
        if picture and not self._submissions:
            return
        self._number += 1
        early = _Early(now, self._number, cloud_id, item, _size(item))
        (self._pictures if picture else self._events).append(early)


def _size(item: EventReceived | CloudFrame) -> int:
    """The bytes that a message takes, about: those of its strings, and some for each value."""
    if isinstance(item, CloudPicture):
        return _OVERHEAD + len(item.image)
    size, pending = _OVERHEAD, [item.data if isinstance(item, EventReceived) else item.text]
    while pending:
        value: Any = pending.pop()
        size += 64
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, Mapping):
            pending += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            pending += value
    return size


class NodeFailedError(Exception):
    """A helper node has failed over what the cloud has made for it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(eq=False, repr=False)
class Localiser:
    """Makes what is told of one job local; `node_types` are the classes of its nodes by their ids.

    No message and no record shows the secrets of the engine or of the job, whatever a node makes
    of them.
    """

    job: Job
    engine: Engine
    node_types: Mapping[str, str]
    _results: dict[str, Told] = field(default_factory=dict)

    def __post_init__(self) -> None:
        job = self.job
        self._secrets = credentials(job.credentials)
        self._view = None if job.rewriting is None else MemberView(job.rewriting, job.graph)

    def of_member(self, what: Input) -> Iterable[Input]:
        """What happened in terms of the graph that the member has sent."""
        if self._view is None:
            return [what]
        match what:
            case EventReceived(type=type_, data=data):
                return [EventReceived(*told) for told in self._view.event(type_, data)]
            case SnapshotReceived(snapshot=snapshot):
                return [SnapshotReceived(self._view.snapshot(snapshot), what.detail)]
            case GiveUp():
                return [what]
        frame = self._view.frame(what)
        return [] if frame is None else [frame]

    async def localised(self, what: Input) -> Input:
        """Replace the cloud's names, and the account's key wherever a node shows it.

        Raises `NodeFailedError` and `StorageError`.
        """
        job = self.job
        match what:
            case EventReceived(type="executed", data=data) if isinstance(data.get("output"), dict):
                output = await self._local_output(str(data.get("node")), data["output"])
                return EventReceived("executed", {**data, "output": output})
            case EventReceived(type="execution_error", data=data):
                return EventReceived("execution_error", await self._shown(dict(data)))
            case EventReceived(type="execution_cached", data=data) if job.rewriting is not None:
                nodes = await self.engine.helpers.cached(
                    job.member, job.rewriting, self.node_types, data["nodes"]
                )
                return EventReceived("execution_cached", {**data, "nodes": nodes})
            case SnapshotReceived(snapshot=snapshot):
                return SnapshotReceived(await self._local_snapshot(snapshot), what.detail)
        return what

    async def _local_snapshot(self, snapshot: Snapshot) -> Snapshot:
        outputs = None
        if snapshot.outputs is not None:
            outputs = {
                node: await self._local_output(node, output) if isinstance(output, dict) else output
                for node, output in snapshot.outputs.items()
            }
        return replace(
            snapshot,
            outputs=outputs,
            execution_error=await self._shown(snapshot.execution_error),
            execution_status=await self._shown(snapshot.execution_status),
        )

    async def _shown(self, value: T) -> T:
        """What a failure shows, without secrets and without the cloud's names."""
        shown: T = await self.engine.files.reveal(self.job.member, self._redacted(value))
        return shown

    async def _local_output(self, node: str, output: dict[str, Any]) -> dict[str, Any] | Told:
        job, graph = self.job, self.job.graph
        if job.rewriting is not None:
            if node in job.rewriting.tells:
                return await self._result(job.rewriting, node, output)
            graph = job.rewriting.graph
        local = await self.engine.files.outputs.localise(
            job.member, job.prompt_id, node, graph.get(node), output, account=job.account
        )
        return self._redacted(local)

    async def _result(self, rewriting: Rewriting, node: str, output: dict[str, Any]) -> Told:
        """The messages to the client about a helper node's result, found out once."""
        job, helper = self.job, helper_of(self.job.graph.get(node))
        if node not in self._results:
            if helper is None:
                return Told(ui={})
            try:
                self._results[node] = await self.engine.helpers.told(
                    job.member, job.prompt_id, node, helper, rewriting, output, account=job.account
                )
            except HelperFailedError as error:
                raise NodeFailedError(failed(node, job.graph, error)) from error
        return self._results[node]

    def _redacted(self, value: T) -> T:
        return redact(value, *self.engine.secrets, *self._secrets)

    def failing(self, failure: Failure) -> list[EventReceived | SnapshotReceived]:
        """The run of a node that fails, and the end of the job with it."""
        node = failure.node_id
        live = reachable(self.job.graph, self.job.outputs_to_execute or None)
        error = {
            "node_id": node,
            "exception_type": failure.exception_type,
            "exception_message": f"{failure.message}\n",
            "traceback": [f"{failure.exception_type}: {failure.message}\n"],
            "current_inputs": failure.inputs,
            "current_outputs": [one for one in self.job.graph if one in live],
        }
        ended = Snapshot(self.job.prompt_id, "failed", settled=True, execution_error=error)
        running = EventReceived("executing", {"node": node, "display_node": node})
        return [running, SnapshotReceived(ended)]

    def is_distinct(self, image_type: str) -> bool:
        """Whether no client takes a preview for a result: with helper nodes a PNG is one."""
        return self.job.rewriting is None or image_type != "image/png"

    async def distinct(self, preview: Preview) -> Preview | None:
        """A preview that no client takes for a result; `None` for one that is left out."""
        if self.is_distinct(preview.image_type):
            return preview
        image = await asyncio.to_thread(jpeg, preview.image)
        return None if image is None else replace(preview, image=image, image_type="image/jpeg")
