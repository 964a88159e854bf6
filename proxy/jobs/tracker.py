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

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from proxy.jobs.models import Outcome
from proxy.jobs.nodes import NodeStates
from proxy.translate import events
from proxy.translate.events import CloudFrame, CloudPicture, Event, Message, NodeText
from proxy.translate.graph import cost_of
from proxy.translate.snapshot import Snapshot

#: Characters of a node's last text that are kept to find a price in.
_LAST_OF_TEXT = 2000

# --- what happened -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventReceived:
    """An event of the cloud; the file names in its `output` are local ones already."""

    type: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SnapshotReceived:
    """A snapshot of the job; the file names in its `outputs` are local ones already.

    `detail` tells the job's own answer, which has all there is, from an entry of a list.
    """

    snapshot: Snapshot
    detail: bool = True


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Reading the detail has been given up: end with what is known, if the end is known.

    `lost` says that the job cannot continue; `reason` is then told to the client if nothing better
    is known.
    """

    reason: str
    lost: bool = False


Input: TypeAlias = EventReceived | CloudFrame | SnapshotReceived | GiveUp


# --- what to do ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Deliver a message about the job."""

    message: Message


@dataclass(frozen=True, slots=True)
class JobStarted:
    """The job runs now: it moves from the pending to the running ones (`at` in ms)."""

    at: int


@dataclass(frozen=True, slots=True)
class ReadDetail:
    """Read the job's detail, again and again with growing waits, until it has ended."""


@dataclass(frozen=True, slots=True)
class RecordEnd:
    """Keep how the job ended, on disk, before anything that follows is done (times in ms).

    `node_times` are those of `NodeStates`, `cost` is what nodes say that they have cost.
    """

    outcome: Outcome
    outputs: dict[str, Any]
    status: dict[str, Any]
    meta: dict[str, Any]
    started_at: int
    ended_at: int
    node_times: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeaveQueue:
    """The job leaves the queue; the `status` that tells so goes out now."""


Command: TypeAlias = SendMessage | JobStarted | ReadDetail | RecordEnd | LeaveQueue


# --- the machine ---------------------------------------------------------------------------


@dataclass(slots=True)
class Tracker:
    """One job, known to the client as `prompt_id`, that runs `graph` (in API format)."""

    prompt_id: str
    graph: Mapping[str, Any]
    started_at: int | None = None
    ended: bool = False
    _told_cached: bool = False
    _reading: bool = False
    _history: list[list[Any]] = field(default_factory=list)
    _terminal: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _errors: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _blocked: set[str] = field(default_factory=set)
    _texts: dict[str, str] = field(default_factory=dict)
    _last_end: Snapshot | None = None
    _commands: list[Command] = field(default_factory=list)
    _nodes: NodeStates = field(init=False)

    def __post_init__(self) -> None:
        self._nodes = NodeStates(self.prompt_id, self.graph, self._tell)

    @property
    def node_types(self) -> Mapping[str, str]:
        """The class names of the graph's nodes by their ids."""
        return self._nodes.types

    @property
    def display_node(self) -> str | None:
        """The node that runs now, for a reconnecting client."""
        return None if self.ended else self._nodes.display_node

    @property
    def progress(self) -> float:
        """How much of the graph is done, from 0 to 1: nodes, and the part of those that run."""
        return self._nodes.progress

    def receive(self, what: Input, now: int) -> list[Command]:
        """Take what happened at `now` (ms) and return what to do, in order."""
        if self.ended:
            return []
        self._nodes.now = None if isinstance(what, SnapshotReceived | GiveUp) else now
        match what:
            case EventReceived(type=type_, data=data):
                self._event(type_, data, now)
            case SnapshotReceived(snapshot=snapshot, detail=detail):
                self._seen(snapshot, detail, now)
            case GiveUp():
                self._give_up(what, now)
            case _:
                self._frame(what, now)
        commands, self._commands = self._commands, []
        return commands

    # --- events ----------------------------------------------------------------------------

    def _event(self, type_: str, data: Mapping[str, Any], now: int) -> None:
        match type_:
            case "execution_start":
                self._start(events.timestamp(data, now))
            case "execution_cached":
                self._start(now)
                self._tell_cached(data, now)
            case "executing":
                self._on_executing(data, now)
            case "progress_state":
                self._on_progress_state(data, now)
            case "progress":
                self._on_progress(data, now)
            case "executed":
                self._on_executed(data, now)
            case "execution_error" if events.is_blocked_branch(type_, data):
                self._running(now)
                self._tell_blocked(data)
            case "execution_success" | "execution_error" | "execution_interrupted":
                self._terminal.setdefault(type_, data)
                if type_ == "execution_error":
                    self._errors.setdefault(str(data.get("node_id")), data)
                self._read_detail()
            case _:
                self._running(now)
                self._tell(Event(type_, {**data, "prompt_id": self.prompt_id}))

    def _on_executing(self, data: Mapping[str, Any], now: int) -> None:
        if data.get("node") is None:
            self._read_detail()
            return
        self._running(now)
        self._nodes.executing(events.executing(data, self.prompt_id))

    def _on_progress_state(self, data: Mapping[str, Any], now: int) -> None:
        nodes = data.get("nodes")
        if not isinstance(nodes, dict) or not nodes:
            return
        self._running(now)
        self._nodes.stated(nodes)

    def _on_progress(self, data: Mapping[str, Any], now: int) -> None:
        node = data.get("node")
        if node is None or str(node) in self._nodes.outputs:
            return
        self._running(now)
        self._nodes.progressed(str(node), data)

    def _on_executed(self, data: Mapping[str, Any], now: int) -> None:
        node = data.get("node")
        if node is None:
            return
        self._running(now)
        self._nodes.executed(str(node), data.get("output"), data.get("display_node"))

    def _frame(self, frame: CloudFrame, now: int) -> None:
        node = frame.node_id or self._nodes.current
        if node is None or node in self._nodes.outputs:
            return
        self._running(now)
        if isinstance(frame, CloudPicture):
            self._nodes.pictured(node, frame)
        else:
            self._nodes.enter(node)
            self._texts[node] = frame.text[-_LAST_OF_TEXT:]
            self._tell(NodeText(node, frame.text))

    # --- snapshots -------------------------------------------------------------------------

    def _seen(self, snapshot: Snapshot, detail: bool, now: int) -> None:
        if snapshot.status == "in_progress":
            self._start(snapshot.start_time or now)
        elif snapshot.ended and detail and snapshot.settled and self._is_complete(snapshot):
            self._end(snapshot, now)
        elif snapshot.ended:
            self._last_end = snapshot
            self._read_detail()

    def _is_complete(self, snapshot: Snapshot) -> bool:
        """Whether the outputs have arrived; the cloud may know of the end before."""
        if snapshot.status != "completed" or snapshot.outputs:
            return True
        nothing_due = snapshot.outputs_count == 0 or bool(snapshot.execution_status)
        return nothing_due and not snapshot.outputs_count and not self._nodes.outputs

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

    # --- the end ---------------------------------------------------------------------------

    def _end(self, snapshot: Snapshot, now: int) -> None:
        started_at = self._start(snapshot.start_time or now)
        ended_at = snapshot.ended_at(started_at, now)
        self._nodes.ended(ended_at)
        self._tell_cached({}, now)
        for node, output in (snapshot.outputs or {}).items():
            self._nodes.executed(node, output)
        if snapshot.status == "completed":
            self._nodes.finish()
        type_, data = self._last_event(snapshot, started_at, ended_at)
        if snapshot.status == "completed":
            for error in self._errors.values():
                self._tell_blocked(error)
        self._history.append([type_, data])
        self._commands.append(self._record(snapshot, started_at, ended_at))
        self._tell(Event(type_, data))
        self._commands.append(LeaveQueue())
        self._tell(Event("executing", {"node": None, "prompt_id": self.prompt_id}))
        self.ended = True

    def _last_event(
        self, snapshot: Snapshot, started_at: int, ended_at: int
    ) -> tuple[str, dict[str, Any]]:
        common: dict[str, Any] = {
            "prompt_id": self.prompt_id,
            "node_id": self._nodes.current,
            "node_types": self._nodes.types,
            "executed": self._nodes.finished,
            "now": ended_at,
        }
        if snapshot.status == "completed":
            data = self._terminal.get("execution_success", {})
            at = max(events.timestamp(data, ended_at), started_at)
            return "execution_success", {"prompt_id": self.prompt_id, "timestamp": at}
        if snapshot.status == "cancelled":
            data = self._known("execution_interrupted", snapshot) or {}
            return "execution_interrupted", events.execution_interrupted(data, **common)
        error = self._known("execution_error", snapshot) or snapshot.execution_error or {}
        return "execution_error", events.execution_error(error, **common)

    def _known(self, type_: str, snapshot: Snapshot) -> Mapping[str, Any] | None:
        """The terminal event itself, from the socket or from the worker's own messages."""
        return self._terminal[type_] if type_ in self._terminal else snapshot.message(type_)

    def _tell_blocked(self, data: Mapping[str, Any]) -> None:
        """A blocked branch: an `execution_error` that did not end the run and is not recorded."""
        error = events.blocked_branch(
            data,
            prompt_id=self.prompt_id,
            node_id=self._nodes.current,
            node_types=self._nodes.types,
            executed=self._nodes.finished,
        )
        if error["node_id"] not in self._blocked:
            self._blocked.add(error["node_id"])
            self._tell(Event("execution_error", error))

    def _record(self, snapshot: Snapshot, started_at: int, ended_at: int) -> RecordEnd:
        succeeded = snapshot.status == "completed"
        outcome: Outcome = "completed" if succeeded else "failed"
        if snapshot.status == "cancelled":
            outcome = "cancelled"
        given = snapshot.meta or {}
        return RecordEnd(
            outcome=outcome,
            outputs=dict(self._nodes.outputs),
            status={
                "status_str": "success" if succeeded else "error",
                "completed": succeeded,
                "messages": self._history,
            },
            meta={
                node: given[node] if isinstance(given.get(node), dict) else self._nodes.meta(node)
                for node in self._nodes.outputs
            },
            started_at=started_at,
            ended_at=ended_at,
            node_times=self._nodes.times,
            cost=cost_of(self._texts.values()),
        )

    # --- telling, in order -----------------------------------------------------------------

    def _tell(self, message: Message) -> None:
        self._commands.append(SendMessage(message))

    def _read_detail(self) -> None:
        if not self._reading:
            self._reading = True
            self._commands.append(ReadDetail())

    def _start(self, at: int) -> int:
        """SendMessage the start if nobody has; returns when it was."""
        if self.started_at is None:
            self.started_at = at
            self._commands.append(JobStarted(at))
            self._tell_kept("execution_start", {"prompt_id": self.prompt_id, "timestamp": at})
        return self.started_at

    def _tell_cached(self, data: Mapping[str, Any], now: int) -> None:
        if self._told_cached:
            return
        self._told_cached = True
        nodes = data.get("nodes")
        self._nodes.cached = [str(node) for node in nodes] if isinstance(nodes, list) else []
        at = events.timestamp(data, now)
        self._tell_kept(
            "execution_cached",
            {"nodes": self._nodes.cached, "prompt_id": self.prompt_id, "timestamp": at},
        )

    def _tell_kept(self, type_: str, data: dict[str, Any]) -> None:
        self._history.append([type_, data])
        self._tell(Event(type_, data))

    def _running(self, now: int) -> None:
        self._start(now)
        self._tell_cached({}, now)
