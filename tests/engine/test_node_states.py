"""The outputs of nodes are told once."""

from __future__ import annotations

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
