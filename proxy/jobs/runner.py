"""Drives one job's tracker: gives it what happens and does what it says, in order."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from proxy.cloud.client import CloudClient
from proxy.cloud.errors import CloudError
from proxy.helpers.decoding import jpeg
from proxy.helpers.service import helper_of
from proxy.jobs.models import Job
from proxy.jobs.protocol import JobMessage, topic_of
from proxy.jobs.tracker import (
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
from proxy.storage.database import StorageError
from proxy.translate.codec import credentials, redact
from proxy.translate.events import is_terminal
from proxy.translate.helpers.helper import Failure, HelperFailedError
from proxy.translate.helpers.rewriting import MemberView, Rewriting, failed, reachable
from proxy.translate.messages import CloudFrame, CloudPicture, Message, Preview, Told
from proxy.translate.snapshot import Snapshot

if TYPE_CHECKING:
    from proxy.jobs.engine import Engine

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: This many inputs may wait for a job's turn before its previews are left out.
_CROWDED = 64

#: Events that carry what must be made local first, which may take a while.
_TRANSLATED = frozenset({"executed", "execution_error"})


class Runner:
    """One live job. `post` takes inputs at any time; nothing is done before `release`.

    `ending` is true once the cloud has reported an end, `finished` when it was sent to the
    client. No message and no record shows the secrets of the engine or of the job, whatever a
    node makes of them. `cloud` is `None` for a job that is on no account.
    """

    def __init__(self, job: Job, engine: Engine, cloud: CloudClient | None) -> None:
        self.job = job
        self.tracker = Tracker(job.prompt_id, job.graph)
        self.finished = asyncio.Event()
        self.ending = False
        self._engine = engine
        self._cloud = cloud
        self._names = engine.files
        self._bus = engine.bus
        self._topic = topic_of(job.member, job.client_id)
        self._timeouts = engine.policy.detail
        self._secrets = credentials(job.credentials)
        self._view = None if job.rewriting is None else MemberView(job.rewriting, job.graph)
        self._results: dict[str, Told] = {}
        self._inbox: deque[Input] = deque()
        self._released = False
        self._reader: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def release(self) -> None:
        """The client has its `prompt_id`: messages about the job may flow."""
        self._released = True
        self._work_off()

    def post(self, what: EventReceived | CloudFrame | SnapshotReceived | GiveUp) -> None:
        """Add to what happened; of a job that is far behind, previews are left out."""
        if self._view is None:
            self._post(what)
            return
        for one in _of_member(self._view, what):
            self._post(one)

    def fail(self, failure: Failure) -> None:
        """A helper node fails: the job ends, whatever the cloud does."""
        for what in self._failing(failure):
            self._post(what)

    def _post(self, what: EventReceived | CloudFrame | SnapshotReceived | GiveUp) -> None:
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
        current = asyncio.current_task()
        tasks = [task for task in (self._task, self._reader) if task and task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- inputs ----------------------------------------------------------------------------

    def _is_quick(self, what: Input) -> bool:
        """Whether an input of a running job needs no waiting: most events and all frames."""
        if self.tracker.started_at is None or isinstance(what, SnapshotReceived | GiveUp):
            return False
        if isinstance(what, EventReceived):
            if self._view is not None and what.type == "execution_cached":
                return False
            return what.type not in _TRANSLATED and not is_terminal(what.type, what.data)
        return True

    def _take_now(self, what: Input) -> None:
        try:
            for command in self.tracker.receive(what, time.time_ns() // 1_000_000):
                self._do(command)
        except Exception:
            log.exception("job_input_failed", input=type(what).__name__, job=self.job.prompt_id)
            self.read_detail()

    def _work_off(self) -> None:
        if self._released and self._task is None and self._inbox:
            self._task = self._engine.spawn(self._run(), f"job {self.job.prompt_id}")

    async def _run(self) -> None:
        structlog.contextvars.bind_contextvars(job=self.job.prompt_id, member=self.job.member)
        try:
            while self._inbox and not self.tracker.ended:
                what = self._inbox.popleft()
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
            local: list[Input] = [await self._until_stored(lambda: self._localised(what))]
        except _NodeFailedError as error:
            local = [*self._failing(error.failure)]
            self._engine.abandon(self.job)
        for one in local:
            for command in self.tracker.receive(one, time.time_ns() // 1_000_000):
                if isinstance(command, RecordEnd):
                    await self._until_stored(
                        lambda end=command: self._engine.record(self.job, end)  # type: ignore[misc]
                    )
                else:
                    self._do(command)

    def _failing(self, failure: Failure) -> list[EventReceived | SnapshotReceived]:
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

    def _do(self, command: Command) -> None:
        match command:
            case SendMessage(message=Preview(result=False) as preview):
                if self.job.wants_previews and (shown := self._distinct(preview)) is not None:
                    self._publish(shown)
            case SendMessage(message=message):
                self._publish(message)
            case JobStarted(at=at):
                self._engine.started(self.job, at)
            case ReadDetail():
                self.read_detail()
            case LeaveQueue():
                self._engine.ended(self.job)

    def _distinct(self, preview: Preview) -> Preview | None:
        """A preview that no client takes for a result: with helper nodes a PNG is one."""
        if self.job.rewriting is None or preview.image_type != "image/png":
            return preview
        image = jpeg(preview.image)
        return None if image is None else replace(preview, image=image, image_type="image/jpeg")

    def _publish(self, message: Message) -> None:
        job = self.job
        if not self._engine.recorder.term.lasts:
            return
        told = JobMessage(job.member, job.client_id, job.prompt_id, job.watched, message, job.order)
        if isinstance(message, Preview):
            size = len(message.image)
            self._bus.publish(self._topic, told, size=size, droppable=not message.result)
        else:
            self._bus.publish(self._topic, told)

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

    # --- local names -----------------------------------------------------------------------

    async def _localised(self, what: Input) -> Input:
        """Replace the cloud's names, and the account's key wherever a node shows it."""
        match what:
            case EventReceived(type="executed", data=data) if isinstance(data.get("output"), dict):
                output = await self._local_output(str(data.get("node")), data["output"])
                return EventReceived("executed", {**data, "output": output})
            case EventReceived(type="execution_error", data=data):
                return EventReceived("execution_error", await self._shown(dict(data)))
            case EventReceived(type="execution_cached", data=data) if self._view is not None:
                return EventReceived("execution_cached", await self._known_cached(data))
            case SnapshotReceived(snapshot=snapshot):
                return replace(what, snapshot=await self._local_snapshot(snapshot))
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
        shown: T = await self._names.reveal(self.job.member, self._redacted(value))
        return shown

    async def _local_output(self, node: str, output: dict[str, Any]) -> dict[str, Any] | Told:
        job, graph = self.job, self.job.graph
        if job.rewriting is not None:
            if node in job.rewriting.tells:
                return await self._result(job.rewriting, node, output)
            graph = job.rewriting.graph
        local = await self._names.localise(
            job.member, job.prompt_id, node, graph.get(node), output, account=job.account
        )
        return self._redacted(local)

    # --- helper nodes ----------------------------------------------------------------------

    async def _known_cached(self, data: Mapping[str, Any]) -> dict[str, Any]:
        job, helpers = self.job, self._engine.helpers
        if helpers is None or job.rewriting is None:
            return dict(data)
        types = self.tracker.node_types
        nodes = await helpers.cached(job.member, job.rewriting, types, data["nodes"])
        return {**data, "nodes": nodes}

    async def _result(self, rewriting: Rewriting, node: str, output: dict[str, Any]) -> Told:
        """The messages to the client about a helper node's result, found out once."""
        job, helper = self.job, helper_of(self.job.graph.get(node))
        if node not in self._results:
            if self._engine.helpers is None or helper is None:
                return Told(ui={})
            try:
                self._results[node] = await self._engine.helpers.told(
                    job.member, job.prompt_id, node, helper, rewriting, output, account=job.account
                )
            except HelperFailedError as error:
                raise _NodeFailedError(failed(node, job.graph, error)) from error
        return self._results[node]

    def _redacted(self, value: T) -> T:
        return redact(value, *self._engine.secrets, *self._secrets)


class _NodeFailedError(Exception):
    """A helper node has failed over what the cloud has made for it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _of_member(
    view: MemberView, what: EventReceived | CloudFrame | SnapshotReceived | GiveUp
) -> Iterable[EventReceived | CloudFrame | SnapshotReceived | GiveUp]:
    """What happened in terms of the graph that the member has sent."""
    match what:
        case EventReceived(type=type_, data=data):
            return [EventReceived(*told) for told in view.event(type_, data)]
        case SnapshotReceived(snapshot=snapshot):
            return [replace(what, snapshot=view.snapshot(snapshot))]
        case GiveUp():
            return [what]
    frame = view.frame(what)
    return [] if frame is None else [frame]


async def _pauses(waits: Iterable[float]) -> AsyncIterator[float]:
    """Each wait, after it has passed."""
    for wait in waits:
        await asyncio.sleep(wait)
        yield wait
