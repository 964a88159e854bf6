"""The life of a job as a state machine without I/O and without a clock.

It takes what happened on the cloud, in whatever order, as often and as incompletely as it
arrives, and returns what to do, in order. Whoever does it sees a life as a local ComfyUI tells it:

    execution_start, execution_cached,
    for each node: progress_state, executing, (progress, preview)*, executed,
    exactly one of execution_success, execution_error, execution_interrupted,
    and `executing` with `node: null`, once and last.

The word of `GET /api/jobs/{id}` (a snapshot) decides how a job ended; the socket gives progress.
A terminal event is held back until a snapshot has confirmed it, so that the record is complete
before a client hears of the end. Snapshots alone are enough for a complete life.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
from proxy.jobs.record import Outcome
from proxy.translate import events
from proxy.translate.frames import CloudFrame, CloudPicture
from proxy.translate.messages import Event, Message, NodeText, Preview
from proxy.translate.snapshot import Snapshot

#: Their pictures are the result itself, not a preview of it.
RESULT_CLASSES = frozenset({"SaveImageWebsocket"})


@dataclass(slots=True)
class Tracker:
    """One job, known to the client as `prompt_id`. `node_types` maps node ids to class names."""

    prompt_id: str
    node_types: Mapping[str, str]
    started_at: int | None = None
    ended: bool = False
    _told_cached: bool = False
    _reading: bool = False
    _current: str | None = None
    _display: dict[str, str] = field(default_factory=dict)
    _nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    _told_nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    _stated: set[str] = field(default_factory=set)
    _executing: set[str] = field(default_factory=set)
    _cached: list[str] = field(default_factory=list)
    _outputs: dict[str, Any] = field(default_factory=dict)
    _history: list[list[Any]] = field(default_factory=list)
    _terminal: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _last_end: Snapshot | None = None
    _meta: dict[str, Any] = field(default_factory=dict)
    _commands: list[Command] = field(default_factory=list)

    @property
    def display_node(self) -> str | None:
        """The node that runs now, as a reconnecting client is told of it."""
        if self._current is None or self.ended:
            return None
        return self._display.get(self._current, self._current)

    @property
    def progress(self) -> float:
        """How much of the graph is done, from 0 to 1: nodes, and the part of those that run."""
        done = dict.fromkeys((*self._cached, *self._outputs), 1.0)
        for node, state in self._nodes.items():
            if node in self.node_types:
                value, most = state["value"], state["max"]
                numbers = isinstance(value, int | float) and isinstance(most, int | float)
                done[node] = min(1.0, max(0.0, value / most)) if numbers and most else 0.0
        return sum(done.values()) / max(len(self.node_types), len(done), 1)

    def receive(self, happening: Happening, now: int) -> list[Command]:
        """Take what happened at `now` (ms) and return what to do, in order."""
        if self.ended:
            return []
        match happening:
            case CloudEvent(type=type_, data=data):
                self._event(type_, data, now)
            case Seen(snapshot=snapshot, detail=detail):
                self._seen(snapshot, detail, now)
            case Settle():
                self._settle(happening, now)
            case _:
                self._frame(happening, now)
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
            case "execution_success" | "execution_error" | "execution_interrupted":
                self._terminal.setdefault(type_, data)
                self._read_detail()
            case _:
                self._running(now)
                self._tell(Event(type_, {**data, "prompt_id": self.prompt_id}))

    def _on_executing(self, data: Mapping[str, Any], now: int) -> None:
        if data.get("node") is None:
            self._read_detail()
            return
        local = events.executing(data, self.prompt_id)
        self._display[local["node"]] = local["display_node"]
        self._running(now)
        self._enter(local["node"], local)

    def _on_progress_state(self, data: Mapping[str, Any], now: int) -> None:
        nodes = data.get("nodes")
        if not isinstance(nodes, dict) or not nodes:
            return
        self._running(now)
        for node_id, node in nodes.items():
            if not isinstance(node, dict):
                continue
            if "state" in node:
                self._stated.add(node_id)
            elif node_id not in self._nodes:
                self._finish_before(node_id)
            known = self._nodes.get(node_id) or {"prompt_id": self.prompt_id}
            state = events.node_state(node_id, node, known)
            if known.get("state") in ("finished", "error") and state["state"] != known["state"]:
                state = known
            self._nodes[node_id] = state
        self._tell_progress_state()

    def _on_progress(self, data: Mapping[str, Any], now: int) -> None:
        node = data.get("node")
        if node is None:
            return
        node = str(node)
        if node in self._outputs:
            return
        self._running(now)
        self._enter(node)
        state = self._nodes[node]
        state["value"], state["max"] = data.get("value", 0), data.get("max", 1)
        self._tell_progress_state()
        self._tell(Event("progress", {**data, "node": node, "prompt_id": self.prompt_id}))

    def _on_executed(self, data: Mapping[str, Any], now: int) -> None:
        node = data.get("node")
        if node is None:
            return
        display = data.get("display_node")
        if display is not None:
            self._display[str(node)] = str(display)
        self._running(now)
        self._tell_executed(str(node), data.get("output"))

    def _frame(self, frame: CloudFrame, now: int) -> None:
        node = frame.node_id or self._current
        if node is None or node in self._outputs:
            return
        self._running(now)
        self._enter(node)
        if not isinstance(frame, CloudPicture):
            self._tell(NodeText(node, frame.text))
            return
        state = self._nodes[node]
        self._tell(
            Preview(
                prompt_id=self.prompt_id,
                node_id=node,
                display_node_id=frame.display_node_id or state["display_node_id"],
                parent_node_id=frame.parent_node_id or state["parent_node_id"],
                real_node_id=frame.real_node_id or state["real_node_id"],
                image=frame.image,
                image_type=frame.image_type,
                result=self.node_types.get(node) in RESULT_CLASSES,
                leads=frame.leads,
            )
        )

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
        return nothing_due and not snapshot.outputs_count and not self._outputs

    def _settle(self, settle: Settle, now: int) -> None:
        self._reading = False
        if self._last_end is not None:
            self._end(self._last_end, now)
        elif "execution_success" in self._terminal:
            self._end(Snapshot(self.prompt_id, "completed", settled=True), now)
        elif "execution_interrupted" in self._terminal:
            self._end(Snapshot(self.prompt_id, "cancelled", settled=True), now)
        elif settle.lost:
            error = {"exception_type": "JobLost", "exception_message": settle.reason}
            lost = Snapshot(self.prompt_id, "failed", settled=True, execution_error=error)
            self._end(lost, now)

    # --- the end ---------------------------------------------------------------------------

    def _end(self, snapshot: Snapshot, now: int) -> None:
        self._start(snapshot.start_time or now)
        self._meta = dict(snapshot.meta or {})
        self._tell_cached({}, now)
        for node, output in (snapshot.outputs or {}).items():
            self._tell_executed(node, output)
        if snapshot.status == "completed":
            for state in self._nodes.values():
                _finish(state)
            self._tell_progress_state()
        type_, data = self._last_event(snapshot, now)
        if snapshot.status == "completed" and "execution_error" in self._terminal:
            self._tell_blocked(self._terminal["execution_error"], now)
        self._history.append([type_, data])
        self._commands.append(self._record(snapshot, now))
        self._tell(Event(type_, data))
        self._commands.append(Ended())
        self._tell(Event("executing", {"node": None, "prompt_id": self.prompt_id}))
        self.ended = True

    def _last_event(self, snapshot: Snapshot, now: int) -> tuple[str, dict[str, Any]]:
        ended_at = self._ended_at(snapshot, now)
        common: dict[str, Any] = {
            "prompt_id": self.prompt_id,
            "node_id": self._current,
            "node_types": self.node_types,
            "executed": self._finished(),
            "now": ended_at,
        }
        if snapshot.status == "completed":
            data = self._terminal.get("execution_success", {})
            at = max(events.timestamp(data, ended_at), self.started_at or 0)
            return "execution_success", {"prompt_id": self.prompt_id, "timestamp": at}
        if snapshot.status == "cancelled":
            data = self._known("execution_interrupted", snapshot) or {}
            return "execution_interrupted", events.execution_interrupted(data, **common)
        error = self._known("execution_error", snapshot) or snapshot.execution_error or {}
        return "execution_error", events.execution_error(error, **common)

    def _finished(self) -> list[str]:
        """The nodes that have run to their end in this run; cached ones have not run."""
        ended = [node for node, state in self._nodes.items() if state["state"] == "finished"]
        nodes = dict.fromkeys([*ended, *self._outputs])
        return [node for node in nodes if node not in self._cached]

    def _known(self, type_: str, snapshot: Snapshot) -> Mapping[str, Any] | None:
        """The terminal event itself, from the socket or from the worker's own messages."""
        if type_ in self._terminal:
            return self._terminal[type_]
        messages = (snapshot.execution_status or {}).get("messages")
        for message in messages if isinstance(messages, list) else []:
            match message:
                case [str(name), dict(data)] if name == type_:
                    return data
        return None

    def _tell_blocked(self, data: Mapping[str, Any], now: int) -> None:
        """A blocked branch: an `execution_error` that did not end the run and is not recorded."""
        error = events.execution_error(
            data,
            prompt_id=self.prompt_id,
            node_id=self._current,
            node_types=self.node_types,
            executed=self._outputs,
            now=now,
        )
        del error["timestamp"]
        self._tell(Event("execution_error", error))

    def _record(self, snapshot: Snapshot, now: int) -> Record:
        succeeded = snapshot.status == "completed"
        outcome: Outcome = "completed" if succeeded else "failed"
        if snapshot.status == "cancelled":
            outcome = "cancelled"
        started_at = self.started_at if self.started_at is not None else now
        return Record(
            outcome=outcome,
            outputs=dict(self._outputs),
            status={
                "status_str": "success" if succeeded else "error",
                "completed": succeeded,
                "messages": self._history,
            },
            meta={node: self._meta_of(node) for node in self._outputs},
            started_at=started_at,
            ended_at=self._ended_at(snapshot, now),
        )

    def _ended_at(self, snapshot: Snapshot, now: int) -> int:
        """The end as many ms after the start that was told as the cloud's clock has between its."""
        started_at = now if self.started_at is None else self.started_at
        if snapshot.end_time is None:
            return max(started_at, now)
        if snapshot.start_time is None:
            return max(started_at, snapshot.end_time)
        return started_at + max(0, snapshot.end_time - snapshot.start_time)

    def _meta_of(self, node: str) -> dict[str, Any]:
        given = self._meta.get(node)
        if isinstance(given, dict):
            return given
        state = self._nodes.get(node, {})
        return {
            "node_id": node,
            "display_node": self._display.get(node, node),
            "parent_node": state.get("parent_node_id"),
            "real_node_id": state.get("real_node_id", node),
        }

    # --- telling, in order -----------------------------------------------------------------

    def _tell(self, message: Message) -> None:
        self._commands.append(Tell(message))

    def _read_detail(self) -> None:
        if not self._reading:
            self._reading = True
            self._commands.append(ReadDetail())

    def _start(self, at: int) -> None:
        if self.started_at is not None:
            return
        self.started_at = at
        self._commands.append(Started(at))
        self._tell_kept("execution_start", {"prompt_id": self.prompt_id, "timestamp": at})

    def _tell_cached(self, data: Mapping[str, Any], now: int) -> None:
        if self._told_cached:
            return
        self._told_cached = True
        nodes = data.get("nodes")
        self._cached = [str(node) for node in nodes] if isinstance(nodes, list) else []
        at = events.timestamp(data, now)
        self._tell_kept(
            "execution_cached",
            {"nodes": self._cached, "prompt_id": self.prompt_id, "timestamp": at},
        )

    def _tell_kept(self, type_: str, data: dict[str, Any]) -> None:
        self._history.append([type_, data])
        self._tell(Event(type_, data))

    def _running(self, now: int) -> None:
        self._start(now)
        self._tell_cached({}, now)

    def _enter(self, node: str, executing: dict[str, Any] | None = None) -> None:
        """Make `node` one that has been announced as running, whatever was lost before."""
        if node in self._executing:
            if executing is not None and node not in self._outputs:
                self._current = node
            return
        self._executing.add(node)
        self._finish_before(node)
        self._ensure_running(node)
        self._current = node
        display = self._display.setdefault(node, node)
        data = executing or {"node": node, "display_node": display, "prompt_id": self.prompt_id}
        self._tell(Event("executing", data))

    def _ensure_running(self, node: str) -> None:
        """Tell the `progress_state` that belongs here if the cloud's has not come."""
        known = self._nodes.get(node)
        if known is None or known["state"] == "pending":
            base = known or {"prompt_id": self.prompt_id}
            display = self._display.get(node, node)
            fresh = {"display_node_id": display, **(known or {}), "state": "running"}
            self._nodes[node] = events.node_state(node, fresh, base)
        self._tell_progress_state()

    def _finish_before(self, node: str) -> None:
        """Tell that what ran before `node` has finished, where the cloud has not told it."""
        unstated = {other for other in self._nodes if other not in self._stated}
        if node not in self._nodes and self._current in self._nodes:
            unstated.add(self._current)
        for other in unstated - {node}:
            _finish(self._nodes[other])
        self._tell_progress_state()

    def _finish_executed(self, node: str) -> None:
        """Tell that a node has finished whose output has been told."""
        if node in self._cached and node not in self._nodes:
            whole = {"value": 1, "max": 1, "display_node_id": self._display.get(node)}
            self._nodes[node] = events.node_state(node, whole, {"prompt_id": self.prompt_id})
        if node in self._nodes and node not in self._stated:
            _finish(self._nodes[node])
        self._tell_progress_state()

    def _tell_progress_state(self) -> None:
        """Tell the states of all nodes if they differ from what was told last."""
        if self._nodes == self._told_nodes:
            return
        told = self._told_nodes = {node: dict(state) for node, state in self._nodes.items()}
        self._tell(Event("progress_state", {"prompt_id": self.prompt_id, "nodes": told}))

    def _tell_executed(self, node: str, output: object) -> None:
        if node in self._outputs:
            return
        if node not in self._cached:
            self._enter(node)
        self._outputs[node] = output
        display = self._display.get(node, node)
        self._tell(Event("executed", events.executed(node, display, output, self.prompt_id)))
        self._finish_executed(node)


def _finish(state: dict[str, Any]) -> None:
    if state["state"] == "running":
        state["state"], state["value"] = "finished", state["max"]
