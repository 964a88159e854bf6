"""What a tracker is given in tests, and what it says."""

from __future__ import annotations

from typing import Any

from proxy.engine.tracker import (
    Command,
    Ended,
    EventReceived,
    Input,
    JobStarted,
    OutputsSent,
    ReadDetail,
    SnapshotReceived,
    Tracker,
)
from proxy.jobs.models import JobEnd
from proxy.translate.events import Event, NodeText, Preview
from proxy.translate.snapshots import Snapshot

ID = "7121851e-1054-57bd-bdfe-1bb2f96c0cf7"
GRAPH = {
    "1": {"class_type": "KSampler", "inputs": {}},
    "2": {"class_type": "SaveImage", "inputs": {}},
    "3": {"class_type": "SaveImageWebsocket", "inputs": {}},
}
PICTURE = {"images": [{"filename": "a_00001_.png", "subfolder": "", "type": "output"}]}
STATUS = {"status_str": "success", "completed": True, "messages": []}


def event(type_: str, **data: Any) -> EventReceived:
    return EventReceived(type_, {"prompt_id": "cloud-id", **data})


def done(**fields: Any) -> SnapshotReceived:
    values: dict[str, Any] = {
        "outputs": {"2": PICTURE},
        "execution_status": STATUS,
        "start_time": 10_000,
        "end_time": 20_000,
        **fields,
    }
    return SnapshotReceived(
        Snapshot("cloud-id", values.pop("status", "completed"), settled=True, **values)
    )


def play(
    *inputs: Input, now: int = 5_000, graph: dict[str, Any] | None = None, outputs: str = ""
) -> list[Command]:
    tracker = Tracker(ID, graph or GRAPH, outputs.split())
    return [command for input_ in inputs for command in unfolded(tracker.receive(input_, now))]


def unfolded(commands: list[Command]) -> list[Any]:
    """The commands, an end followed by its two messages."""
    flat: list[Any] = []
    for command in commands:
        match command:
            case Ended(end=end, result=result, last=last):
                flat += end, result, last
            case _:
                flat.append(command)
    return flat


def received(commands: list[Command]) -> list[str]:
    """What goes out, a word each: the type, and the node where there is one."""
    words = []
    for command in commands:
        match command:
            case Event(type=type_, data=data):
                node = data.get("node", data.get("node_id", ""))
                words.append(f"{type_} {node}".strip())
            case Preview(node_id=node):
                words.append(f"preview {node}")
            case NodeText(node_id=node, text=text):
                words.append(f"text {node} {text}")
            case JobStarted():
                words.append("-> running")
            case OutputsSent():
                words.append("-> outputs sent")
            case ReadDetail():
                words.append("-> read")
            case JobEnd(outcome=outcome):
                words.append(f"-> record {outcome}")
    return words


def last_event(commands: list[Command], type_: str) -> dict[str, Any]:
    return events_of(commands, type_)[-1]


def events_of(commands: list[Command], type_: str) -> list[dict[str, Any]]:
    return [
        command.data for command in commands if isinstance(command, Event) and command.type == type_
    ]


def states(commands: list[Command]) -> list[dict[str, tuple[str, float, float]]]:
    """What each `progress_state` says of its nodes: state, value and maximum."""
    return [
        {
            node: (state["state"], state["value"], state["max"])
            for node, state in command.data["nodes"].items()
        }
        for command in commands
        if isinstance(command, Event) and command.type == "progress_state"
    ]


BEGINNING = ["-> running", "execution_start", "execution_cached"]
SUCCESS = ["-> record completed", "execution_success", "executing None"]
