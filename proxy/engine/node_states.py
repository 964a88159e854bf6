"""The states of the nodes of a job, as a local ComfyUI tells them in `progress_state`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from msgspec import Struct

from proxy.translate import events
from proxy.translate.events import Event, Message, NodeMessages, Preview
from proxy.translate.frames import CloudPicture
from proxy.translate.graph_shape import class_of, outer_node, signatures_of
from proxy.translate.jobs import sources, takers_of

#: Their pictures are the result itself, not a preview of it.
RESULT_CLASSES = frozenset({"SaveImageWebsocket"})


class NodeReport(Struct, frozen=True):
    """How far a node is: `running`, `finished`, `cached` or `error`, at step `value` of `max`.

    `began` is when (ms) it began, `ran` how long it ran in all (ms), as far as that is known.
    """

    state: str
    value: Any
    max: Any
    began: int | None
    ran: int | None


@dataclass(slots=True, eq=False, repr=False)
class NodeStates:
    """The nodes of the job `prompt_id`: which runs, how far it is, and what they have put out.

    Whatever is lost on the way, `tell` is given for each node, in this order: `progress_state`,
    `executing`, `executed`. `current` is the node that runs, `cached` those that need not run,
    `outputs` what was sent by `executed`.

    A node of which another one with the same inputs has run takes its output from there and has no
    `executing`; where that output shows nothing, `executed` has `null`, which is not recorded. A
    node with lazy inputs has one more `executing` after the nodes that it asked for.

    `now` is when what comes next happened (ms), `None` where nobody can tell when; `times` is when
    each node began, and how long it ran in all (ms), as far as that is known.
    """

    prompt_id: str
    graph: Mapping[str, Any]
    tell: Callable[[Message], None]
    now: int | None = field(init=False, default=None)
    times: dict[str, tuple[int, int]] = field(init=False, default_factory=dict)
    current: str | None = field(init=False, default=None)
    cached: Collection[str] = field(init=False, default=())
    outputs: dict[str, Any] = field(init=False, default_factory=dict)
    _display: dict[str, str] = field(init=False, default_factory=dict)
    _states: dict[str, dict[str, Any]] = field(init=False, default_factory=dict)
    _sent_states: dict[str, dict[str, Any]] = field(init=False, default_factory=dict)
    _stated: set[str] = field(init=False, default_factory=set)
    #: Of each node that was announced, how many nodes had been heard of then.
    _executing: dict[str, int] = field(init=False, default_factory=dict)
    #: The nodes whose results were sent, so that no message about them follows, and whether their
    #: `executed` came with an output.
    _over: dict[str, bool] = field(init=False, default_factory=dict)
    #: Of each node whose steps are told here, how many there are: the cloud knows of none.
    _steps: dict[str, int] = field(init=False, default_factory=dict)
    _timed: tuple[str, int] | None = field(init=False, default=None)
    _takers: Mapping[str, Sequence[str]] | None = field(init=False, default=None)
    #: Digests of nodes, of those that have run with an output, and the ones not among them yet.
    _signatures: dict[str, str] = field(init=False, default_factory=dict)
    _results: set[str] = field(init=False, default_factory=set)
    _unsigned: list[str] = field(init=False, default_factory=list)
    _deferred: bool = field(init=False, default=False)
    #: Whether the states that were sent last were not the cloud's own, and whether the cloud has
    #: told all of them since the last `executing`.
    _inferred: bool = field(init=False, default=False)
    _complete: bool = field(init=False, default=False)

    @property
    def display_node(self) -> str | None:
        """The node that runs, as it is shown."""
        return None if self.current is None else self._shown(self.current)

    @property
    def shares(self) -> dict[str, float]:
        """How much of each node is done, from 0 to 1, as far as anything is known of it."""
        done = dict.fromkeys(self.outputs, 1.0)
        for node, state in self._states.items():
            value, maximum = state["value"], state["max"]
            numbers = isinstance(value, int | float) and isinstance(maximum, int | float)
            share = min(1.0, max(0.0, value / maximum)) if numbers and maximum else 0.0
            done[node] = 1.0 if state["state"] == "finished" else share
        return done

    @property
    def began(self) -> tuple[str, int] | None:
        """The node that is timed now, and when it began (ms)."""
        return self._timed

    def reports(self, limit: int) -> dict[str, NodeReport]:
        """Return how far the first `limit` nodes are of which anything is known."""
        nodes = dict.fromkeys((*self.cached, *self._states, *self.outputs))
        return {node: self._report(node) for node in islice(nodes, limit)}

    def _report(self, node: str) -> NodeReport:
        state = self._states.get(node, {})
        known = state.get("state", "finished")
        if node in self.outputs:
            known = "finished"
        elif node in self.cached:
            known = "cached"
        began, ran = self.times.get(node, (None, None))
        if self._timed is not None and self._timed[0] == node:
            began, ran = self._timed[1] if began is None else began, None
        return NodeReport(known, state.get("value"), state.get("max"), began, ran)

    @property
    def finished(self) -> list[str]:
        """The nodes that have run to their end in this run; cached ones have not run."""
        ended = [node for node, state in self._states.items() if state["state"] == "finished"]
        nodes = dict.fromkeys([*ended, *self.outputs])
        spared = {*self.cached, *(self._over.keys() - self._executing.keys())}
        return [node for node in nodes if node not in spared]

    @property
    def has_files(self) -> bool:
        """Whether any output names a file."""
        return any(map(events.names_file, self.outputs.values()))

    def meta(self, node: str) -> dict[str, Any]:
        """Return a node's entry in the `meta` of the history."""
        state = self._states.get(node, {})
        return {
            "node_id": node,
            "display_node": self._shown(node),
            "parent_node": state.get("parent_node_id"),
            "real_node_id": state.get("real_node_id") or outer_node(self.graph, node),
        }

    def stated(self, nodes: Mapping[str, Any]) -> None:
        """Take the `nodes` of the cloud's `progress_state`, and pass it on if it is whole, even if
        it repeats the one before: a local ComfyUI tells the states at each start and end of a node.

        Of several that are new and have no state, only the last one can still run.
        """
        described = {node_id: node for node_id, node in nodes.items() if isinstance(node, dict)}
        started = [
            node_id
            for node_id, node in described.items()
            if "state" not in node and node_id not in self._states
        ]
        for node_id, node in described.items():
            if "state" in node:
                self._stated.add(node_id)
            elif started and node_id == started[-1]:
                self._finish_before(node_id, new=True)
            known = self._states.get(node_id, {})
            state = self._state(node_id, node, known)
            if known.get("state") in ("finished", "error") and state["state"] != known["state"]:
                state = known
            if node_id in self._steps and state["state"] == "finished":
                state |= {"value": self._steps[node_id], "max": self._steps[node_id]}
            self._states[node_id] = state
        complete = all("state" in node for node in described.values())
        self._tell_states(again=complete and not self._inferred)
        self._inferred = False
        self._complete = self._complete or complete

    def progressed(self, node: str, data: Mapping[str, Any]) -> None:
        """Take the cloud's `progress` of a node."""
        self.enter(node)
        state = self._states[node]
        state["value"], state["max"] = data.get("value", 0), data.get("max", 1)
        self._tell_states()
        self.tell(Event("progress", {**data, "node": node, "prompt_id": self.prompt_id}))

    def pictured(self, node: str, frame: CloudPicture) -> None:
        """Take the cloud's picture of a node."""
        self.enter(node)
        state = self._states[node]
        self.tell(
            Preview(
                prompt_id=self.prompt_id,
                node_id=node,
                display_node_id=events.other_than(node, frame.display_node_id)
                or state["display_node_id"],
                parent_node_id=frame.parent_node_id or state["parent_node_id"],
                real_node_id=events.other_than(node, frame.real_node_id) or state["real_node_id"],
                image=frame.image,
                image_type=frame.image_type,
                result=class_of(self.graph.get(node)) in RESULT_CLASSES,
                leads=frame.leads,
            )
        )

    def executed(self, node: str, output: object, display: object = None) -> None:
        """Take the output of a node. The first one counts; `None` stands for a result without
        an output that the node has from another one.
        """
        if shown_as := events.other_than(node, display):
            self._display[node] = shown_as
        if node in self._over and (self._over[node] or output is None):
            return
        messages = output if isinstance(output, NodeMessages) else None
        if (messages is not None and messages.again) or (output is not None and self._ran(node)):
            self.enter(node)
            if messages is not None:
                self._tell_result(node, messages.messages)
        elif node not in self._executing:
            self._finish_before(node, new=False)
        self._over[node] = output is not None
        shown = output if messages is None else messages.ui
        if shown is not None:
            self.outputs[node] = shown
            if node in self._executing:
                self._unsigned.append(node)
        if output is None or node in self.outputs:
            ids = {"node": node, "display_node": self._shown(node)}
            result = {"output": self.outputs.get(node), "prompt_id": self.prompt_id}
            self.tell(Event("executed", {**ids, **result}))
        if node not in self._states:  # it had no need to run
            whole = {"value": 1, "max": 1, "display_node_id": self._shown(node)}
            self._states[node] = self._state(node, whole, {})
        if node in self._states and node not in self._stated:
            _finish(self._states[node])
        self._tell_states()

    def executed_all(self, outputs: Mapping[str, Any]) -> None:
        """Take the outputs of a job that has ended.

        The states are told before and after them: a message has those of all nodes.
        """
        untold = [node for node in outputs if node not in self._over and self._ran(node)]
        if several := len(untold) > 1:
            self._finish_before(untold[0], new=untold[0] not in self._states)
            for node in untold:
                self._make_running(node)
            self._tell_states()
        self._deferred = several
        for node, output in outputs.items():
            self.executed(node, output)
        self._deferred = False
        self._tell_states()

    def _tell_result(self, node: str, messages: Iterable[Message]) -> None:
        """Send what belongs to a node's result, in order; a picture is sent before the `progress`
        that it follows here, as for sockets that ask for metadata."""
        steps: list[Message] = []
        for message in messages:
            if isinstance(message, Event) and message.data.get("node") == node:
                state = self._states[node]
                state["value"], state["max"] = message.data["value"], message.data["max"]
                self._steps[node] = message.data["max"]
                self._tell_states()
                steps = [message]
            else:
                for part in (message, *steps):
                    self.tell(part)
                steps = []

    def enter(self, node: str, executing: dict[str, Any] | None = None) -> None:
        """Make `node` one that has been announced as running, whatever was lost before, with the
        cloud's own `executing` if that has come.

        After its output was sent it is too late for that.
        """
        if executing is not None:
            self._display[node] = executing["display_node"]
        if node in self._over:
            return
        if node in self._executing and not (executing is not None and self._goes_on(node)):
            if executing is not None:
                self.current = node
            return
        if self.now is not None:  # with it ends the one before: the cloud runs one after the other
            self.ended(self.now)
            self._timed = node, self.now
        self._finish_before(node, new=node not in self._states)
        self._make_running(node)
        self._tell_states(again=node in self._executing and not self._complete)
        self._executing[node] = len(self._states)
        self._complete = False
        self.current = node
        ids = {"node": node, "display_node": self._shown(node), "prompt_id": self.prompt_id}
        self.tell(Event("executing", executing or ids))

    def ended(self, at: int) -> None:
        """End the run, and with it the time of the node that ran last; `at` is in ms since 1970."""
        if self._timed is not None:
            node, since = self._timed
            began, ran = self.times.get(node, (since, 0))
            self.times[node] = began, ran + max(0, at - since)
            self._timed = None

    def finish(self) -> None:
        """Finish all nodes that ran: the run has succeeded."""
        for state in self._states.values():
            _finish(state)
        self._tell_states()

    def _goes_on(self, node: str) -> bool:
        """Return whether a node that was announced continues after others that it has waited
        for."""
        since = [*islice(self._states, self._executing[node], None)]
        outer = (self._states[other]["display_node_id"] for other in since)
        return not sources(self.graph, node).isdisjoint([*since, *outer])

    def _ran(self, node: str) -> bool:
        """Return whether a node that has an output has run: it is not cached, and no other node has
        given it its output."""
        if node in self.cached:
            return False
        if node in self._executing or node not in self.graph:
            return True
        self._results.update(signatures_of(self.graph, self._unsigned, self._signatures).values())
        self._unsigned.clear()
        (signature,) = signatures_of(self.graph, [node], self._signatures).values()
        return signature not in self._results

    def _make_running(self, node: str) -> None:
        """Let a node run. One that continues had not finished, though it looked so."""
        known = self._states.get(node, {})
        again = node in self._executing and known.get("state") == "finished"
        if not known or known["state"] == "pending" or again:
            fresh = {"display_node_id": self._shown(node), **known, "state": "running"}
            if again:
                fresh |= {"value": 0.0, "max": 1.0}
            self._states[node] = self._state(node, fresh, known)

    def _shown(self, node: str) -> str:
        """Return the node as it is shown, which is one of the client's graph."""
        return self._display.get(node) or outer_node(self.graph, node)

    def _state(
        self, node: str, state: Mapping[str, Any], before: Mapping[str, Any]
    ) -> dict[str, Any]:
        outer = outer_node(self.graph, node)
        return events.node_state(self.prompt_id, node, state, before, outer=outer)

    def _finish_before(self, node: str, *, new: bool) -> None:
        """Tell that what ran before `node` has finished, where the cloud has not reported it; with
        a `new` node that begins to run the current one has, whatever was reported.

        What takes an input from `node` has not: it waits for it.
        """
        if self._deferred:
            return
        running = {
            other: state
            for other, state in self._states.items()
            if other != node
            and state["state"] == "running"
            and (other not in self._stated or (new and other == self.current))
        }
        for other in running.keys() - (self._waiting_for(node) if running else ()):
            _finish(running[other])
        self._tell_states()

    def _waiting_for(self, node: str) -> set[str]:
        """Return the nodes that take an input from a node, over any number of links."""
        if self._takers is None:
            self._takers = takers_of(self.graph)
        found: set[str] = set()
        pending = [node]
        while pending:
            for taker in self._takers.get(pending.pop(), ()):
                if taker not in found:
                    found.add(taker)
                    pending.append(taker)
        return found

    def _tell_states(self, *, again: bool = False) -> None:
        """Tell the states of all nodes if they differ from what was sent last, or `again`."""
        if self._deferred or (self._states == self._sent_states and not again):
            return
        self._inferred = True
        states = self._sent_states = {node: dict(state) for node, state in self._states.items()}
        self.tell(Event("progress_state", {"prompt_id": self.prompt_id, "nodes": states}))


def _finish(state: dict[str, Any]) -> None:
    if state["state"] == "running":
        state["state"], state["value"] = "finished", state["max"]
        state.pop("activity", None)
