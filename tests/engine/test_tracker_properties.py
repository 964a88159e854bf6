"""Whatever is lost, doubled or out of order, a client hears a well-formed life with one end."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from playbook import unfolded

from proxy.engine.tracker import (
    Command,
    EventReceived,
    GiveUp,
    Input,
    ReadDetail,
    SnapshotReceived,
    Tracker,
)
from proxy.jobs.models import JobEnd
from proxy.translate.events import Event, Message, Preview
from proxy.translate.frames import CloudPicture, CloudText
from proxy.translate.snapshots import Snapshot

ID = "7121851e-1054-57bd-bdfe-1bb2f96c0cf7"
TERMINAL = {"execution_success", "execution_error", "execution_interrupted"}
NODES = ["1", "2", "3", "4"]
GRAPH = {node: {"class_type": "SaveImage", "inputs": {"filename_prefix": node}} for node in NODES}


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[Input], Snapshot]:
    """A whole life on the cloud: its events in order, and the detail after its end."""
    outcome = draw(st.sampled_from(["completed", "failed", "cancelled"]))
    cached = draw(st.lists(st.sampled_from(NODES), unique=True, max_size=2))
    order = [node for node in draw(st.permutations(NODES)) if node not in cached]
    if outcome != "completed":
        order = order[: draw(st.integers(0, len(order)))]
    savers = draw(st.sets(st.sampled_from(NODES), min_size=1))
    inputs: list[Input] = [_event("execution_start")]
    if cached or draw(st.booleans()):
        inputs.append(_event("execution_cached", nodes=cached))
    outputs: dict[str, Any] = {}
    for node in [*cached, *order]:
        inputs.extend(_node_events(draw, node, run=node in order))
        if node in savers:
            outputs[node] = {"images": [{"filename": f"{node}.png"}]}
            inputs.append(_event("executed", node=node, output=outputs[node]))
    if outcome == "completed" and draw(st.booleans()):
        blocked = _event("execution_error", node_id=None, exception_message="blocked")
        inputs.insert(draw(st.integers(1, len(inputs))), blocked)
    ending = {
        "completed": "execution_success",
        "failed": "execution_error",
        "cancelled": "execution_interrupted",
    }[outcome]
    inputs.append(_event(ending, node_id=order[-1] if order else None))
    inputs.append(_event("executing", node=None))
    detail = Snapshot(
        "cloud-id",
        outcome,
        settled=True,
        outputs=outputs,
        outputs_count=len(outputs),
        execution_status={"status_str": "…", "messages": []},
    )
    return inputs, detail


def _node_events(draw: st.DrawFn, node: str, *, run: bool) -> list[Input]:
    if not run:
        return []
    found: list[Input] = []
    if draw(st.booleans()):
        found.append(_event("progress_state", nodes={node: {"state": "running"}}))
    found.append(_event("executing", node=node))
    for step in range(draw(st.integers(0, 2))):
        found.append(CloudPicture(b"\xff\xd8", "image/jpeg", "cloud-id", node, node, None, node))
        found.append(_event("progress", node=node, value=step + 1, max=2))
    if draw(st.booleans()):
        found.append(CloudText(node, "text"))
    return found


def _event(type_: str, **data: Any) -> EventReceived:
    return EventReceived(type_, {"prompt_id": "cloud-id", **data})


@st.composite
def interleavings(draw: st.DrawFn, *, giving_up: bool = False) -> tuple[list[Input], Snapshot]:
    """A life as a bad line delivers it, with snapshots of any age in between."""
    inputs, detail = draw(lives())
    kept = [input_ for input_ in inputs if draw(st.integers(0, 9)) > 1]
    doubled = [copy for input_ in kept for copy in [input_] * draw(st.sampled_from([1, 1, 1, 2]))]
    for _ in range(draw(st.integers(0, 4))):
        if len(doubled) > 1:
            at = draw(st.integers(0, len(doubled) - 2))
            doubled[at], doubled[at + 1] = doubled[at + 1], doubled[at]
    seen: list[Input] = [
        SnapshotReceived(Snapshot("cloud-id", "pending", settled=False), detail=False),
        SnapshotReceived(Snapshot("cloud-id", "in_progress", settled=False), detail=False),
        SnapshotReceived(replace(detail, settled=False)),
        SnapshotReceived(replace(detail, outputs=None), detail=False),
    ]
    if giving_up:
        seen = [GiveUp("no more to be read"), GiveUp("gone", lost=True)]
    for _ in range(draw(st.integers(0, 3))):
        doubled.insert(draw(st.integers(0, len(doubled))), draw(st.sampled_from(seen)))
    return [*doubled, SnapshotReceived(detail), *doubled[-2:]], detail


def _play(inputs: list[Input]) -> list[Command]:
    tracker = Tracker(ID, GRAPH)
    return [
        command
        for now, input_ in enumerate(inputs)
        for command in unfolded(tracker.receive(input_, now))
    ]


def _types(commands: list[Command]) -> list[str]:
    return [command.type for command in commands if isinstance(command, Event)]


@given(interleavings() | interleavings(giving_up=True))
def test_the_life_has_one_beginning_and_one_end_in_their_places(
    script: tuple[list[Input], Snapshot],
) -> None:
    types = _types(_play(script[0]))
    assert types[:2] == ["execution_start", "execution_cached"]
    assert types.count("execution_start") == types.count("execution_cached") == 1
    assert types[-1] == "executing"
    ends = [type_ for type_ in types if type_ in TERMINAL]
    if ends[0] == "execution_error" and len(ends) > 1:
        ends = ends[1:]  # a blocked branch, told just before the success
    assert len(ends) == 1
    assert types[-2] == ends[0]


@given(interleavings() | interleavings(giving_up=True))
def test_executing_null_comes_once_and_last(script: tuple[list[Input], Snapshot]) -> None:
    executing = [
        command.data["node"]
        for command in _play(script[0])
        if isinstance(command, Event) and command.type == "executing"
    ]
    assert executing.count(None) == 1
    assert executing[-1] is None


@given(interleavings())
def test_the_outcome_is_what_the_detail_says(script: tuple[list[Input], Snapshot]) -> None:
    records = [command for command in _play(script[0]) if isinstance(command, JobEnd)]
    assert [record.outcome for record in records] == [script[1].status]


@given(interleavings())
def test_every_output_has_its_executed_once_and_before_the_end(
    script: tuple[list[Input], Snapshot],
) -> None:
    commands = _play(script[0])
    end = next(at for at, command in enumerate(commands) if isinstance(command, JobEnd))
    published = [
        command.data["node"]
        for command in commands[:end]
        if isinstance(command, Event) and command.type == "executed"
    ]
    assert len(published) == len(set(published))
    assert set(published) >= set(script[1].outputs or {})
    record = commands[end]
    assert isinstance(record, JobEnd)
    assert set(record.outputs) == set(published)


@given(interleavings() | interleavings(giving_up=True))
def test_the_record_comes_before_the_end_is_sent(
    script: tuple[list[Input], Snapshot],
) -> None:
    commands = _play(script[0])
    assert isinstance(commands[-3], JobEnd)
    assert isinstance(commands[-2], Message)
    assert isinstance(commands[-1], Message)


@given(interleavings())
def test_progress_and_previews_are_of_announced_nodes(
    script: tuple[list[Input], Snapshot],
) -> None:
    announced = set()
    for command in _play(script[0]):
        match command:
            case Event(type="executing", data={"node": str(node)}):
                assert node not in announced
                announced.add(node)
            case Event(type="progress", data={"node": node}):
                assert node in announced
            case Preview(node_id=node):
                assert node in announced


@given(interleavings())
def test_the_cloud_id_reaches_no_client(script: tuple[list[Input], Snapshot]) -> None:
    for command in _play(script[0]):
        if isinstance(command, Event):
            assert "cloud-id" not in command.text
        if isinstance(command, JobEnd):
            assert "cloud-id" not in str(command)


@given(lives())
def test_a_life_without_faults_keeps_every_message(
    script: tuple[list[Input], Snapshot],
) -> None:
    inputs, detail = script
    types = _types(_play([*inputs, SnapshotReceived(detail)]))
    for type_ in ("progress", "executed"):
        sent = sum(isinstance(input_, EventReceived) and input_.type == type_ for input_ in inputs)
        assert types.count(type_) == sent


@given(lives(), st.booleans())
def test_one_snapshot_is_a_whole_life(script: tuple[list[Input], Snapshot], started: bool) -> None:
    _, detail = script
    before: list[Input] = [SnapshotReceived(Snapshot("cloud-id", "in_progress", settled=False))]
    commands = _play([*before[: int(started)], SnapshotReceived(detail)])
    types = _types(commands)
    assert types[:2] == ["execution_start", "execution_cached"]
    assert types[-1] == "executing"
    assert types.count("executed") == len(detail.outputs or {})
    assert [type_ for type_ in types if type_ in TERMINAL] == [types[-2]]
    assert len([command for command in commands if isinstance(command, JobEnd)]) == 1


@given(interleavings())
def test_nothing_is_sent_after_the_end(script: tuple[list[Input], Snapshot]) -> None:
    tracker = Tracker(ID, GRAPH)
    for now, input_ in enumerate(script[0]):
        tracker.receive(input_, now)
    assert tracker.ended
    assert tracker.nodes.display_node is None
    assert [tracker.receive(input_, 0) for input_ in script[0]] == [[]] * len(script[0])


@given(interleavings())
def test_the_detail_is_not_asked_for_twice(script: tuple[list[Input], Snapshot]) -> None:
    assert sum(isinstance(command, ReadDetail) for command in _play(script[0])) <= 1


@given(interleavings())
def test_the_progress_never_leaves_its_bounds(script: tuple[list[Input], Snapshot]) -> None:
    tracker = Tracker(ID, GRAPH)
    for now, input_ in enumerate(script[0]):
        tracker.receive(input_, now)
        assert all(0.0 <= share <= 1.0 for share in tracker.nodes.shares.values())


@given(lives(), st.data())
def test_each_blocked_branch_is_sent_once_and_ends_nothing(
    script: tuple[list[Input], Snapshot], data: st.DataObject
) -> None:
    inputs, detail = script
    blocked = data.draw(st.lists(st.sampled_from(NODES), unique=True))
    for node in [*blocked, *blocked]:
        published = _event("execution_error", node_id=node, exception_type="ExecutionBlocked")
        inputs.insert(data.draw(st.integers(0, len(inputs) - 2)), published)
    commands = _play([*inputs, SnapshotReceived(detail)])
    errors = [
        command.data
        for command in commands
        if isinstance(command, Event)
        and command.type == "execution_error"
        and command.data["exception_type"] == "ExecutionBlocked"
    ]
    assert sorted(error["node_id"] for error in errors) == sorted(blocked)
    assert all(error["current_inputs"] == [] for error in errors)
    (record,) = (command for command in commands if isinstance(command, JobEnd))
    assert record.outcome == detail.status
    assert "ExecutionBlocked" not in str(record.status)


@given(interleavings() | interleavings(giving_up=True))
def test_the_recorded_messages_are_those_that_were_sent(
    script: tuple[list[Input], Snapshot],
) -> None:
    commands = _play(script[0])
    (record,) = (command for command in commands if isinstance(command, JobEnd))
    published = [[command.type, command.data] for command in commands if isinstance(command, Event)]
    assert all(message in published for message in record.status["messages"])
    assert record.started_at <= record.ended_at
