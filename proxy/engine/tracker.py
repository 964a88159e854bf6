"""The life of a job as a state machine without I/O and without a clock.

It takes what happened on the cloud, in whatever order, as often and as incompletely as it
arrives, and returns what to do, in order. The caller sees a life as a local ComfyUI tells it:

    execution_start, execution_cached,
    for each node: progress_state, executing, (progress, preview)*, executed,
    exactly one of execution_success, execution_error, execution_interrupted,
    and `executing` with `node: null`, once and last.

The word of `GET /api/jobs/{id}` (a snapshot) decides how a job ended; the socket gives progress.
A terminal event is held back until a snapshot has confirmed it, so that the record is complete
before a client learns of the end. Snapshots alone are enough for a complete life.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from msgspec import Struct

from proxy.costs.job_cost import reported_price
from proxy.engine.node_states import NodeStates
from proxy.jobs.models import JobEnd, Outcome
from proxy.translate import events
from proxy.translate.events import Event, Message, NodeText
from proxy.translate.frames import CloudFrame, CloudPicture
from proxy.translate.graph_shape import outer_node
from proxy.translate.snapshots import Snapshot

#: Characters at the end of a node's text in which a price is looked for.
_LAST_OF_TEXT = 2000


class EventReceived(Struct, frozen=True):
    """An event of the cloud; the file names in its `output` are local ones already."""

    type: str
    data: Mapping[str, Any]


class SnapshotReceived(Struct, frozen=True):
    """A snapshot of the job; the file names in its `outputs` are local ones already.

    `detail` tells the job's own answer, which has all there is, from an entry of a list.
    """

    snapshot: Snapshot
    detail: bool = True


class GiveUp(Struct, frozen=True):
    """Reading the detail has been given up: end with what is known, if the end is known.

    `lost` says that the job cannot continue; `reason` is then told to the client if nothing better
    is known.
    """

    reason: str
    lost: bool = False


Input: TypeAlias = EventReceived | CloudFrame | SnapshotReceived | GiveUp


class JobStarted(Struct, frozen=True):
    """The job runs now: it moves from the pending to the running ones (`at` in ms)."""

    at: int


class OutputsSent(Struct, frozen=True):
    """All outputs are in the messages that follow, or were: only the end is missing."""


class ReadDetail(Struct, frozen=True):
    """Read the job's detail, again and again with growing waits, until it has ended."""


class Ended(Struct, frozen=True):
    """The job has ended, and nothing follows.

    The end is recorded, on disk, before the client gets the `result`. After that the job leaves the
    queue, and only then the client gets the `last` message. What the cloud has ended before it
    `has_run` has begun for the client alone.
    """

    end: JobEnd
    result: Event
    last: Event
    has_run: bool = True


#: A message is sent, the others say what they are.
Command: TypeAlias = Message | JobStarted | OutputsSent | ReadDetail | Ended


@dataclass(slots=True)
class Tracker:
    """One job, known to the client as `prompt_id`, that runs `graph` (in API format).

    `output_nodes` are the nodes whose outputs it was sent for, as far as they are known.
    """

    prompt_id: str
    graph: Mapping[str, Any]
    output_nodes: InitVar[Iterable[str]] = ()
    started_at: int | None = None
    ended: bool = False
    #: Whether events may have been lost on the way.
    has_gaps: bool = field(init=False, default=False)
    _sent_cached: bool = field(init=False, default=False)
    #: Whether the cloud has said which nodes need not run, before any of them ran.
    _followed: bool = field(init=False, default=False)
    _reading: bool = field(init=False, default=False)
    _history: list[list[Any]] = field(init=False, default_factory=list)
    _terminal: dict[str, Mapping[str, Any]] = field(init=False, default_factory=dict)
    _errors: dict[str, Mapping[str, Any]] = field(init=False, default_factory=dict)
    _blocked: set[str] = field(init=False, default_factory=set)
    _prices: dict[str, int] = field(init=False, default_factory=dict)
    _last_end: Snapshot | None = field(init=False, default=None)
    #: The output nodes that have not finished, and whether `OutputsSent` was returned.
    _unfinished: set[str] = field(init=False, default_factory=set)
    _outputs_sent: bool = field(init=False, default=False)
    _commands: list[Command] = field(init=False, default_factory=list)
    nodes: NodeStates = field(init=False)

    def __post_init__(self, output_nodes: Iterable[str]) -> None:
        self._unfinished = set(output_nodes)
        # It does not hold the tracker, so that nothing goes in a circle.
        self.nodes = NodeStates(self.prompt_id, self.graph, self._commands.append)

    def receive(self, what: Input, now: int) -> list[Command]:
        """Take what happened at `now` (ms) and return what to do, in order."""
        if self.ended:
            return []
        self.nodes.now = None if isinstance(what, SnapshotReceived | GiveUp) else now
        match what:
            case EventReceived(type=type_, data=data):
                self._event(type_, events.without_additions(data), now)
            case SnapshotReceived(snapshot=snapshot, detail=detail):
                self._seen(snapshot, detail, now)
            case GiveUp():
                self._give_up(what, now)
            case _:
                self._frame(what, now)
        commands = [*self._commands]
        self._commands.clear()
        return commands

    def _event(self, type_: str, data: Mapping[str, Any], now: int) -> None:
        node = data.get("node")
        match type_:
            case "execution_start":
                self._start(events.timestamp(data, now))
            case "execution_cached":
                self._followed = True
                self._running(now, data)
            case "executing" if node is None:
                self._read_detail()
            case "executing":
                self._running(now)
                outer = outer_node(self.graph, str(node))
                data = events.executing(data, self.prompt_id, outer=outer)
                self.nodes.enter(str(node), data)
            case "progress_state":
                if isinstance(states := data.get("nodes"), dict) and states:
                    self._finish_nodes(events.finished_nodes(states))
                    self._running(now)
                    self.nodes.stated(states)
            case "progress":
                if node is not None and str(node) not in self.nodes.outputs:
                    self._running(now)
                    self.nodes.progressed(str(node), data)
            case "executed":
                if node is not None:
                    self._finish_nodes({str(node)})
                    self._running(now)
                    self.nodes.executed(str(node), data.get("output"), data.get("display_node"))
            case "execution_error" if events.is_blocked_branch(type_, data):
                self._running(now)
                self._tell_blocked(data)
            case "execution_success" | "execution_error" | "execution_interrupted":
                self._finish_nodes((), ended=True)
                self._terminal.setdefault(type_, data)
                if type_ == "execution_error":
                    self._errors.setdefault(str(data.get("node_id")), data)
                self._read_detail()
            case _:
                self._running(now)
                self._commands.append(Event(type_, {**data, "prompt_id": self.prompt_id}))

    def _finish_nodes(self, nodes: Iterable[str], *, ended: bool = False) -> None:
        """Note nodes that have finished; all outputs are there with the last output node, or when
        the run has `ended`."""
        known = bool(self._unfinished)
        self._unfinished.difference_update(nodes)
        if not self._outputs_sent and (ended or (known and not self._unfinished)):
            self._outputs_sent = True
            self._commands.append(OutputsSent())

    def _frame(self, frame: CloudFrame, now: int) -> None:
        node = frame.node_id or self.nodes.current
        if node is None or node in self.nodes.outputs:
            return
        self._running(now)
        if isinstance(frame, CloudPicture):
            self.nodes.pictured(node, frame)
        else:
            self.nodes.enter(node)
            price = reported_price(frame.text[-_LAST_OF_TEXT:])
            if price is not None:
                self._prices[node] = price
            self._commands.append(NodeText(node, frame.text))

    def _seen(self, snapshot: Snapshot, detail: bool, now: int) -> None:
        if snapshot.status == "in_progress":
            self._start(snapshot.start_time or now)
        elif snapshot.ended and detail and snapshot.settled and self._is_complete(snapshot):
            self._end(snapshot, now)
        elif snapshot.ended:
            self._last_end = snapshot
            self._read_detail()

    def _is_complete(self, snapshot: Snapshot) -> bool:
        """Return whether the outputs have arrived; the cloud may know of the end before."""
        if snapshot.status != "completed" or snapshot.outputs:
            return True
        counted = snapshot.outputs_count == 0 or bool(snapshot.execution_status)
        return counted and not snapshot.outputs_count and not self.nodes.has_files

    def _give_up(self, given_up: GiveUp, now: int) -> None:
        self._reading = False
        if self._last_end is not None:
            self._end(self._last_end, now)
        elif "execution_success" in self._terminal:
            self._end(Snapshot(self.prompt_id, "completed", settled=True), now)
        elif "execution_interrupted" in self._terminal:
            self._end(Snapshot(self.prompt_id, "cancelled", settled=True), now)
        elif given_up.lost:
            error = {"exception_type": "JobLost", "exception_message": given_up.reason}
            lost = Snapshot(self.prompt_id, "failed", settled=True, execution_error=error)
            self._end(lost, now)

    def _end(self, snapshot: Snapshot, now: int) -> None:
        has_run = self.started_at is not None or snapshot.start_time is not None
        started_at = self._start(snapshot.start_time or now)
        # What never ran has taken no time, whatever the clocks of the proxy and the cloud say.
        ended_at = snapshot.ended_at(started_at, now) if has_run else started_at
        self.nodes.ended(ended_at)
        self._running(now)
        outputs = snapshot.outputs or {}
        self.nodes.executed_all(
            {node: output for node, output in outputs.items() if output is not None}
        )
        if snapshot.status == "completed":
            success = self._terminal.get("execution_success", {})
            at = max(events.timestamp(success, ended_at), started_at)
            type_, data = "execution_success", {"prompt_id": self.prompt_id, "timestamp": at}
            self.nodes.finish()
            for error in self._errors.values():
                self._tell_blocked(error)
        else:
            type_, data = self._failure(snapshot, ended_at)
        self._history.append([type_, data])
        last = Event("executing", {"node": None, "prompt_id": self.prompt_id})
        end = self._record(snapshot, started_at, ended_at)
        self._commands.append(Ended(end, Event(type_, data), last, has_run))
        self.ended = True
        self.nodes.current = None

    def unstorable(self, ended: Ended, reason: str, now: int) -> Ended:
        """Return the end of a job instead of one that the storage refuses: a failure for this
        reason, without anything that the cloud has sent."""
        error = {"exception_type": "RuntimeError", "exception_message": reason}
        data = events.execution_error(error, now=now, **self._so_far)
        end = JobEnd(
            outcome="failed",
            outputs={},
            status={
                "status_str": "error",
                "completed": False,
                "messages": [["execution_error", data]],
            },
            meta={},
            started_at=now,
            ended_at=now,
            cost=ended.end.cost,
        )
        return Ended(end, Event("execution_error", data), ended.last)

    def _failure(self, snapshot: Snapshot, ended_at: int) -> tuple[str, dict[str, Any]]:
        type_ = "execution_interrupted" if snapshot.status == "cancelled" else "execution_error"
        # From the socket, or from the worker's own messages.
        known = self._terminal[type_] if type_ in self._terminal else snapshot.message(type_)
        if snapshot.status == "cancelled":
            return type_, events.execution_interrupted(known or {}, now=ended_at, **self._so_far)
        error = known or snapshot.execution_error or {}
        return type_, events.execution_error(error, now=ended_at, **self._so_far)

    @property
    def _so_far(self) -> dict[str, Any]:
        """The state of the run as far as the detail of a failed job shows it."""
        return {
            "prompt_id": self.prompt_id,
            "node_id": self.nodes.display_node,
            "graph": self.graph,
            "executed": self.nodes.finished,
        }

    def _tell_blocked(self, data: Mapping[str, Any]) -> None:
        """Send a blocked branch: an `execution_error` that did not end the run and is not
        recorded."""
        error = events.blocked_branch(data, **self._so_far)
        if error["node_id"] not in self._blocked:
            self._blocked.add(error["node_id"])
            self._commands.append(Event("execution_error", error))

    def _record(self, snapshot: Snapshot, started_at: int, ended_at: int) -> JobEnd:
        succeeded = snapshot.status == "completed"
        given = snapshot.meta or {}
        return JobEnd(
            outcome=cast(Outcome, snapshot.status),
            outputs=dict(self.nodes.outputs),
            status={
                "status_str": "success" if succeeded else "error",
                "completed": succeeded,
                "messages": self._history,
            },
            meta={
                node: given[node] if isinstance(given.get(node), dict) else self.nodes.meta(node)
                for node in self.nodes.outputs
            },
            started_at=started_at,
            ended_at=ended_at,
            node_times=self.nodes.times,
            followed=self._followed and not self.has_gaps,
            prices=self._prices,
            executed_by=snapshot.executed_by,
        )

    def _read_detail(self) -> None:
        if not self._reading:
            self._reading = True
            self._commands.append(ReadDetail())

    def _start(self, at: int) -> int:
        """Tell the start if nobody has; returns when it was."""
        if self.started_at is None:
            self.started_at = at
            self._commands.append(JobStarted(at))
            self._tell_kept("execution_start", {"prompt_id": self.prompt_id, "timestamp": at})
        return self.started_at

    def _running(self, now: int, cached: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Tell the start and which nodes are `cached`, if nobody has."""
        self._start(now)
        if not self._sent_cached:
            self._sent_cached = True
            nodes = cached.get("nodes")
            ids = [str(node) for node in nodes] if isinstance(nodes, list) else []
            self.nodes.cached = dict.fromkeys(ids)
            at = events.timestamp(cached, now)
            data = {"nodes": ids, "prompt_id": self.prompt_id, "timestamp": at}
            self._tell_kept("execution_cached", data)

    def _tell_kept(self, type_: str, data: dict[str, Any]) -> None:
        self._history.append([type_, data])
        self._commands.append(Event(type_, data))
