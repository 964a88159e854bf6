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

from collections.abc import Callable, Iterable, Mapping
from dataclasses import InitVar, dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from msgspec import Struct

from proxy.jobs.models import JobEnd, Outcome
from proxy.translate import events
from proxy.translate.events import CloudFrame, CloudPicture, Event, Message, NodeText, Preview, Told
from proxy.translate.jobs import Snapshot, cost_of, is_twin, sources

#: Characters of a node's last text that are kept to find a price in.
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


class SendMessage(Struct, frozen=True):
    """Deliver a message about the job."""

    message: Message


class JobStarted(Struct, frozen=True):
    """The job runs now: it moves from the pending to the running ones (`at` in ms)."""

    at: int


class OutputsSent(Struct, frozen=True):
    """All outputs are in the messages that follow, or were: only the end is missing."""


class ReadDetail(Struct, frozen=True):
    """Read the job's detail, again and again with growing waits, until it has ended."""


class RecordEnd(JobEnd, frozen=True):
    """Keep how the job ended, on disk, before anything that follows is done.

    `node_times` are those of `NodeStates`.
    """


class LeaveQueue(Struct, frozen=True):
    """The job leaves the queue; the `status` that tells so goes out now."""


Command: TypeAlias = SendMessage | JobStarted | OutputsSent | ReadDetail | RecordEnd | LeaveQueue


@dataclass(slots=True)
class Tracker:
    """One job, known to the client as `prompt_id`, that runs `graph` (in API format).

    `output_nodes` are the nodes whose outputs it was sent for, as far as they are known; the
    `metadata` goes into all messages.
    """

    prompt_id: str
    graph: Mapping[str, Any]
    output_nodes: InitVar[Iterable[str]] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
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
    #: The output nodes that have not finished, and whether `OutputsSent` was returned.
    _unfinished: set[str] = field(default_factory=set)
    _outputs_sent: bool = False
    _commands: list[Command] = field(default_factory=list)
    nodes: NodeStates = field(init=False)

    def __post_init__(self, output_nodes: Iterable[str]) -> None:
        self._unfinished = set(output_nodes)
        types = {
            node_id: str(node.get("class_type", ""))
            for node_id, node in self.graph.items()
            if isinstance(node, Mapping)
        }
        self.nodes = NodeStates(self.prompt_id, self.graph, self._tell, types)

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
        commands, self._commands = self._commands, []
        return [OutputsSent(), *commands] if self._ends_outputs(what) else commands

    def _ends_outputs(self, what: Input) -> bool:
        """Note the output nodes that an event finishes; return whether these are the last."""
        if self._outputs_sent or not isinstance(what, EventReceived):
            return False
        if events.is_terminal(what.type, what.data):
            self._outputs_sent = True
        elif self._unfinished:
            if what.type == "executed":
                self._unfinished.discard(str(what.data.get("node")))
            elif what.type == "progress_state":
                self._unfinished -= events.finished_nodes(what.data)
            self._outputs_sent = not self._unfinished
        return self._outputs_sent

    def _event(self, type_: str, data: Mapping[str, Any], now: int) -> None:
        node = data.get("node")
        match type_:
            case "execution_start":
                self._start(events.timestamp(data, now))
            case "execution_cached":
                self._running(now, data)
            case "executing" if node is None:
                self._read_detail()
            case "executing":
                self._running(now)
                self.nodes.executing(events.executing(data, self.prompt_id))
            case "progress_state":
                if isinstance(states := data.get("nodes"), dict) and states:
                    self._running(now)
                    self.nodes.stated(states)
            case "progress":
                if node is not None and str(node) not in self.nodes.outputs:
                    self._running(now)
                    self.nodes.progressed(str(node), data)
            case "executed":
                if node is not None:
                    self._running(now)
                    self.nodes.executed(str(node), data.get("output"), data.get("display_node"))
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

    def _frame(self, frame: CloudFrame, now: int) -> None:
        node = frame.node_id or self.nodes.current
        if node is None or node in self.nodes.outputs:
            return
        self._running(now)
        if isinstance(frame, CloudPicture):
            self.nodes.pictured(node, frame)
        else:
            self.nodes.enter(node)
            self._texts[node] = frame.text[-_LAST_OF_TEXT:]
            self._tell(NodeText(node, frame.text))

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
        started_at = self._start(snapshot.start_time or now)
        ended_at = snapshot.ended_at(started_at, now)
        self.nodes.ended(ended_at)
        self._running(now)
        for node, output in (snapshot.outputs or {}).items():
            if output is not None:
                self.nodes.executed(node, output)
        type_, data = self._last_event(snapshot, started_at, ended_at)
        if snapshot.status == "completed":
            self.nodes.finish()
            for error in self._errors.values():
                self._tell_blocked(error)
        self._history.append([type_, data])
        self._commands.append(self._record(snapshot, started_at, ended_at))
        self._tell(Event(type_, data))
        self._commands.append(LeaveQueue())
        self._tell(Event("executing", {"node": None, "prompt_id": self.prompt_id}))
        self.ended = True
        self.nodes.current = None

    def _last_event(
        self, snapshot: Snapshot, started_at: int, ended_at: int
    ) -> tuple[str, dict[str, Any]]:
        if snapshot.status == "completed":
            data = self._terminal.get("execution_success", {})
            at = max(events.timestamp(data, ended_at), started_at)
            return "execution_success", {"prompt_id": self.prompt_id, "timestamp": at}
        type_ = "execution_interrupted" if snapshot.status == "cancelled" else "execution_error"
        # From the socket, or from the worker's own messages.
        known = self._terminal[type_] if type_ in self._terminal else snapshot.message(type_)
        if snapshot.status == "cancelled":
            return type_, events.execution_interrupted(known or {}, now=ended_at, **self._so_far)
        error = known or snapshot.execution_error or {}
        return type_, events.execution_error(error, now=ended_at, **self._so_far)

    @property
    def _so_far(self) -> dict[str, Any]:
        """What a failure tells of the run."""
        return {
            "prompt_id": self.prompt_id,
            "node_id": self.nodes.current,
            "node_types": self.nodes.types,
            "executed": self.nodes.finished,
        }

    def _tell_blocked(self, data: Mapping[str, Any]) -> None:
        """A blocked branch: an `execution_error` that did not end the run and is not recorded."""
        error = events.blocked_branch(data, **self._so_far)
        if error["node_id"] not in self._blocked:
            self._blocked.add(error["node_id"])
            self._tell(Event("execution_error", error))

    def _record(self, snapshot: Snapshot, started_at: int, ended_at: int) -> RecordEnd:
        succeeded = snapshot.status == "completed"
        given = snapshot.meta or {}
        return RecordEnd(
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
            cost=cost_of(self._texts.values()),
            executed_by=snapshot.executed_by,
        )

    def _tell(self, message: Message) -> None:
        if self.metadata:
            message = events.with_metadata(message, self.metadata)
        self._commands.append(SendMessage(message))

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
        if not self._told_cached:
            self._told_cached = True
            nodes = cached.get("nodes")
            self.nodes.cached = [str(node) for node in nodes] if isinstance(nodes, list) else []
            at = events.timestamp(cached, now)
            data = {"nodes": self.nodes.cached, "prompt_id": self.prompt_id, "timestamp": at}
            self._tell_kept("execution_cached", data)

    def _tell_kept(self, type_: str, data: dict[str, Any]) -> None:
        self._history.append([type_, data])
        self._tell(Event(type_, data))


#: Their pictures are the result itself, not a preview of it.
RESULT_CLASSES = frozenset({"SaveImageWebsocket"})


@dataclass(slots=True, eq=False, repr=False)
class NodeStates:
    """The nodes of the job `prompt_id`: which runs, how far it is, and what they have put out.

    Whatever is lost on the way, `tell` is given for each node, in this order: `progress_state`,
    `executing`, `executed`. `types` maps node ids to class names, `current` is the node that runs,
    `cached` those that need not run, `outputs` what was sent by `executed`.

    A node of which another one with the same inputs has run takes its output from there and has no
    `executing`; where that output shows nothing, `executed` has `null`, which is not recorded. A
    node with lazy inputs has one more `executing` behind the nodes that it asked for.

    `now` is when what comes next happened (ms), `None` where nobody can tell when; `times` is when
    each node began, and how long it ran in all (ms), as far as that is known.
    """

    prompt_id: str
    graph: Mapping[str, Any]
    tell: Callable[[Message], None]
    types: Mapping[str, str]
    now: int | None = None
    times: dict[str, tuple[int, int]] = field(default_factory=dict)
    current: str | None = None
    cached: list[str] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    _display: dict[str, str] = field(default_factory=dict)
    _states: dict[str, dict[str, Any]] = field(default_factory=dict)
    _told: dict[str, dict[str, Any]] = field(default_factory=dict)
    _stated: set[str] = field(default_factory=set)
    #: Of each node that was announced, how many nodes had been heard of then.
    _executing: dict[str, int] = field(default_factory=dict)
    #: Nodes of which nothing more is told: their results were.
    _over: set[str] = field(default_factory=set)
    #: Those of them whose `executed` came without an output.
    _empty: set[str] = field(default_factory=set)
    #: Of each node whose steps are told here, how many there are: the cloud knows of none.
    _steps: dict[str, int] = field(default_factory=dict)
    _timed: tuple[str, int] | None = None

    @property
    def display_node(self) -> str | None:
        """The node that runs, as it is shown."""
        return None if self.current is None else self._display.get(self.current, self.current)

    @property
    def progress(self) -> float:
        """How much of the graph is done, from 0 to 1: nodes, and the part of those that run."""
        done = dict.fromkeys((*self.cached, *self.outputs), 1.0)
        for node, state in self._states.items():
            if node in self.types:
                value, most = state["value"], state["max"]
                numbers = isinstance(value, int | float) and isinstance(most, int | float)
                done[node] = min(1.0, max(0.0, value / most)) if numbers and most else 0.0
        return sum(done.values()) / max(len(self.types), len(done), 1)

    @property
    def finished(self) -> list[str]:
        """The nodes that have run to their end in this run; cached ones have not run."""
        ended = [node for node, state in self._states.items() if state["state"] == "finished"]
        nodes = dict.fromkeys([*ended, *self.outputs])
        spared = {*self.cached, *(self._over - self._executing.keys())}
        return [node for node in nodes if node not in spared]

    @property
    def has_files(self) -> bool:
        """Whether any output names a file."""
        return any(map(events.names_file, self.outputs.values()))

    def meta(self, node: str) -> dict[str, Any]:
        """A node's entry in the `meta` of the history."""
        state = self._states.get(node, {})
        return {
            "node_id": node,
            "display_node": self._display.get(node, node),
            "parent_node": state.get("parent_node_id"),
            "real_node_id": state.get("real_node_id", node),
        }

    def executing(self, data: dict[str, Any]) -> None:
        """The cloud's `executing` of a node, as a client gets it."""
        self._display[data["node"]] = data["display_node"]
        self.enter(data["node"], data)

    def stated(self, nodes: Mapping[str, Any]) -> None:
        """The `nodes` of the cloud's `progress_state`."""
        for node_id, node in nodes.items():
            if not isinstance(node, dict):
                continue
            if "state" in node:
                self._stated.add(node_id)
            elif node_id not in self._states:
                self._finish_before(node_id)
            known, state = self._states.get(node_id, {}), self._changed(node_id, node)
            if known.get("state") in ("finished", "error") and state["state"] != known["state"]:
                state = known
            if node_id in self._steps and state["state"] == "finished":
                state |= {"value": self._steps[node_id], "max": self._steps[node_id]}
            self._states[node_id] = state
        self._tell_states()

    def progressed(self, node: str, data: Mapping[str, Any]) -> None:
        """The cloud's `progress` of a node."""
        self.enter(node)
        state = self._states[node]
        state["value"], state["max"] = data.get("value", 0), data.get("max", 1)
        self._tell_states()
        self.tell(Event("progress", {**data, "node": node, "prompt_id": self.prompt_id}))

    def pictured(self, node: str, frame: CloudPicture) -> None:
        """The cloud's picture of a node."""
        self.enter(node)
        state = self._states[node]
        self.tell(
            Preview(
                prompt_id=self.prompt_id,
                node_id=node,
                display_node_id=frame.display_node_id or state["display_node_id"],
                parent_node_id=frame.parent_node_id or state["parent_node_id"],
                real_node_id=frame.real_node_id or state["real_node_id"],
                image=frame.image,
                image_type=frame.image_type,
                result=self.types.get(node) in RESULT_CLASSES,
                leads=frame.leads,
            )
        )

    def executed(self, node: str, output: object, display: object = None) -> None:
        """Take the output of a node. The first one counts; `None` stands for a result without
        an output that the node has from another one.
        """
        if display is not None:
            self._display[node] = str(display)
        if node in self._over and (node not in self._empty or output is None):
            return
        told = output if isinstance(output, Told) else None
        runs = told is not None and told.again
        if runs or not (output is None or node in self.cached or self._is_twin(node)):
            self.enter(node)
            self._tell_result(node, () if told is None else told.messages)
        self._over.add(node)
        if output is None:
            self._empty.add(node)
            self._tell_executed(node, None)
        elif told is None or told.ui is not None:
            self.outputs[node] = output if told is None else told.ui
            self._tell_executed(node, self.outputs[node])
        if node not in self._states:  # it had no need to run
            whole = {"value": 1, "max": 1, "display_node_id": self._display.get(node)}
            self._states[node] = self._changed(node, whole)
        if node in self._states and node not in self._stated:
            _finish(self._states[node])
        self._tell_states()

    def _tell_executed(self, node: str, output: object) -> None:
        shown = self._display.get(node, node)
        self.tell(Event("executed", events.executed(node, shown, output, self.prompt_id)))

    def _tell_result(self, node: str, messages: Iterable[Message]) -> None:
        """What belongs to a node's result, in order; a picture goes before the `progress` that it
        stands behind, as it does where sockets ask for metadata."""
        steps: list[Message] = []
        for message in messages:
            if isinstance(message, Event) and message.data.get("node") == node:
                state = self._states[node]
                state["value"], state["max"] = message.data["value"], message.data["max"]
                self._steps[node] = message.data["max"]
                self._tell_states()
                steps = [message]
            else:
                for one in (message, *steps):
                    self.tell(one)
                steps = []

    def enter(self, node: str, executing: dict[str, Any] | None = None) -> None:
        """Make `node` one that has been announced as running, whatever was lost before.

        After its output was sent it is too late for that.
        """
        if node in self._over:
            return
        if node in self._executing and not (executing is not None and self._goes_on(node)):
            if executing is not None:
                self.current = node
            return
        if self.now is not None:  # with it ends the one before: the cloud runs one after the other
            self.ended(self.now)
            self._timed = node, self.now
        self._finish_before(node)
        self._ensure_running(node)
        self._executing[node] = len(self._states)
        self.current = node
        display = self._display.setdefault(node, node)
        data = executing or {"node": node, "display_node": display, "prompt_id": self.prompt_id}
        self.tell(Event("executing", data))

    def ended(self, at: int) -> None:
        """The run is over, with the node that ran last."""
        if self._timed is not None:
            node, since = self._timed
            began, ran = self.times.get(node, (since, 0))
            self.times[node] = began, ran + max(0, at - since)
            self._timed = None

    def finish(self) -> None:
        """The run has succeeded: what ran has finished."""
        for state in self._states.values():
            _finish(state)
        self._tell_states()

    def _goes_on(self, node: str) -> bool:
        """Whether a node that was announced continues, behind others that it has waited for."""
        since = [*islice(self._states, self._executing[node], None)]
        outer = (self._states[other]["display_node_id"] for other in since)
        return not sources(self.graph, node).isdisjoint([*since, *outer])

    def _is_twin(self, node: str) -> bool:
        """Whether a node has not run because another one has given its output."""
        if node in self._executing:
            return False
        ran = (other for other in self._executing if other in self.outputs)
        return is_twin(self.graph, node, ran)

    def _ensure_running(self, node: str) -> None:
        """Tell the `progress_state` that belongs here if the cloud's has not come.

        A node that continues had not finished, though it looked so.
        """
        known = self._states.get(node, {})
        again = node in self._executing and known.get("state") == "finished"
        if not known or known["state"] == "pending" or again:
            fresh = {"display_node_id": self._display.get(node, node), **known, "state": "running"}
            if again:
                fresh |= {"value": 0.0, "max": 1.0}
            self._states[node] = self._changed(node, fresh)
        self._tell_states()

    def _changed(self, node: str, change: Mapping[str, Any]) -> dict[str, Any]:
        """The state of a node after a change."""
        known = self._states.get(node) or {"prompt_id": self.prompt_id}
        return events.node_state(node, change, known)

    def _finish_before(self, node: str) -> None:
        """Tell that what ran before `node` has finished, where the cloud has not reported it.

        What takes an input from `node` has not: it waits for it.
        """
        unstated = {other for other in self._states if other not in self._stated}
        if node not in self._states and self.current in self._states:
            unstated.add(self.current)
        for other in unstated - {node}:
            state = self._states[other]
            if state["state"] == "running" and node not in sources(self.graph, other):
                _finish(state)
        self._tell_states()

    def _tell_states(self) -> None:
        """Tell the states of all nodes if they differ from what was sent last."""
        if self._states == self._told:
            return
        told = self._told = {node: dict(state) for node, state in self._states.items()}
        self.tell(Event("progress_state", {"prompt_id": self.prompt_id, "nodes": told}))


def _finish(state: dict[str, Any]) -> None:
    if state["state"] == "running":
        state["state"], state["value"] = "finished", state["max"]
        state.pop("activity", None)
