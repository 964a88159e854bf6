"""The outputs of nodes are told once."""

from __future__ import annotations

from cpu_time import least_seconds

from proxy.engine.node_states import NodeReport, NodeStates
from proxy.translate.events import Event, Message

GRAPH = {"2": {"class_type": "SaveImage", "inputs": {}}}


def test_an_output_is_kept_and_reported_once() -> None:
    messages: list[Message] = []
    nodes = NodeStates("one", GRAPH, messages.append)
    nodes.executed("2", {"text": ["a"]})
    nodes.executed("2", {"text": ["a"]})
    assert nodes.outputs == {"2": {"text": ["a"]}}
    types = [message.type for message in messages if isinstance(message, Event)]
    assert types.count("executed") == 1


def test_nodes_are_reported_with_their_steps_and_times() -> None:
    graph = {node: {"class_type": "Any", "inputs": {}} for node in "1234"}
    nodes = NodeStates("one", graph, lambda _: None)
    nodes.cached = ["1"]
    nodes.now = 1000
    nodes.enter("2")
    nodes.now = 3000
    nodes.progressed("3", {"value": 5, "max": 20})
    assert nodes.reports(10) == {
        "1": NodeReport("cached", None, None, None, None),
        "2": NodeReport("finished", 1.0, 1.0, 1000, 2000),
        "3": NodeReport("running", 5, 20, 3000, None),
    }
    assert nodes.shares == {"2": 1.0, "3": 0.25}
    assert nodes.began == ("3", 3000)
    assert [*nodes.reports(1)] == ["1"]


def states(messages: list[Message]) -> list[Event]:
    found = [message for message in messages if isinstance(message, Event)]
    return [message for message in found if message.type == "progress_state"]


def test_many_nodes_that_are_new_at_once_are_told_in_two_messages() -> None:
    messages: list[Message] = []
    nodes = NodeStates("one", GRAPH, messages.append)
    nodes.enter("2")
    del messages[:]
    nodes.stated({str(number): {"value": 1} for number in range(1000)})
    assert len(states(messages)) == 2
    last = states(messages)[-1].data["nodes"]
    assert [node for node, state in last.items() if state["state"] == "running"] == ["999"]


def test_outputs_of_many_nodes_at_the_end_take_linear_time() -> None:
    outputs = {str(number): {"text": ["a"]} for number in range(3000)}
    graph = {node: {"class_type": "Any", "inputs": {"x": node}} for node in outputs}

    def end() -> None:
        messages: list[Message] = []
        NodeStates("one", graph, messages.append).executed_all(outputs)
        assert len(states(messages)) == 2

    assert least_seconds(end) < 1
