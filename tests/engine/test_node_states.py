"""The outputs of nodes are told once."""

from __future__ import annotations

from proxy.engine.node_states import NodeStates
from proxy.translate.events import Event, Message

GRAPH = {"2": {"class_type": "SaveImage", "inputs": {}}}


def test_an_output_is_kept_and_told_once() -> None:
    told: list[Message] = []
    nodes = NodeStates("one", GRAPH, told.append, {"2": "SaveImage"})
    nodes.executed("2", {"text": ["a"]})
    nodes.executed("2", {"text": ["a"]})
    assert nodes.outputs == {"2": {"text": ["a"]}}
    types = [message.type for message in told if isinstance(message, Event)]
    assert types.count("executed") == 1
