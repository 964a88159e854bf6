"""Every recorded job of an official v2 server becomes a life as a local ComfyUI tells it."""

from __future__ import annotations

from typing import Any

import pytest
from v2_recordings import SCENARIOS, RecordedJob, jobs_of

from proxy.engine.tracker import (
    Command,
    Ended,
    EventReceived,
    SnapshotReceived,
    Tracker,
)
from proxy.translate.events import Event
from proxy.translate.frames import CloudPicture
from proxy.translate.snapshots import Snapshot
from proxy.translate.v2.jobs import snapshot_of
from proxy.translate.v2.runs import Observation, ObservedEvent, RunObserver

JOBS = [
    pytest.param(job, id=f"{scenario}-{number}")
    for scenario in SCENARIOS
    for number, job in enumerate(jobs_of(scenario))
    if job.last is not None or any(kind == "frame" for kind, _ in job.happened)
]


def inputs_of(observations: list[Observation]) -> list[Any]:
    """What the tracker takes."""
    found: list[Any] = []
    for observation in observations:
        match observation:
            case ObservedEvent(type=type_, data=data):
                found.append(EventReceived(type_, data))
            case CloudPicture():
                found.append(observation)
            case Snapshot():
                found.append(SnapshotReceived(observation, detail=False))
    return found


def replayed(job: RecordedJob) -> list[Command]:
    """What the tracker makes of a recorded job. A scenario whose end was not read gets an end of
    the kind that its stream reports."""
    run, tracker = RunObserver(job.id, job.graph), Tracker("local", job.graph)
    commands: list[Command] = []

    def take(happenings: list[Any]) -> None:
        for happening in happenings:
            commands.extend(tracker.receive(happening, 1000))

    statuses = [data["status"] for _, (type_, data) in _frames(job) if type_ == "status"]
    for kind, data in job.happened:
        if kind == "frame":
            take(inputs_of(run.frame(*data)))
            if run.wants_reading:
                take(inputs_of(run.reading(None)))
        else:
            take(inputs_of(run.reading(data)))
    outputs = [data for _, (type_, data) in _frames(job) if type_ == "output"]
    status = statuses[-1] if statuses else ""
    last = job.last or {"id": job.id, "status": status, "outputs": outputs}
    if last["status"] in ("running", "queued", "canceling"):
        last = {**last, "status": status or last["status"], "outputs": outputs}
    take(inputs_of(run.reading(last)))
    snapshot = snapshot_of(last, job.graph, {}, cancelled=job.cancelled, settled=True)
    take([SnapshotReceived(snapshot)])
    return commands


def _frames(job: RecordedJob) -> list[tuple[str, Any]]:
    return [(kind, data) for kind, data in job.happened if kind == "frame"]


def events_of(commands: list[Command]) -> list[Event]:
    found: list[Event] = []
    for command in commands:
        if isinstance(command, Event):
            found.append(command)
        elif isinstance(command, Ended):
            found += [command.result, command.last]
    return found


@pytest.mark.parametrize("job", JOBS)
def test_a_recorded_job_has_the_order_of_a_local_server(job: RecordedJob) -> None:
    commands = replayed(job)
    ends = [command for command in commands if isinstance(command, Ended)]
    if not ends:
        pytest.skip("the recording stops before the end")
    types = [event.type for event in events_of(commands)]
    assert types[:2] == ["execution_start", "execution_cached"]
    assert types.count("execution_start") == types.count("execution_cached") == 1
    assert types[-1] == "executing"
    assert types[-2] in ("execution_success", "execution_error", "execution_interrupted")
    assert len(ends) == 1
    executed = [event.data["node"] for event in events_of(commands) if event.type == "executed"]
    assert len(executed) == len(set(executed))


@pytest.mark.parametrize("job", [case for case in JOBS if case.values[0].history is not None])
def test_a_recorded_job_ends_as_comfyui_says(job: RecordedJob) -> None:
    (end,) = [command.end for command in replayed(job) if isinstance(command, Ended)]
    assert job.history is not None
    status = job.history["status"]
    assert end.status["status_str"] == status["status_str"]
    assert end.status["messages"][-1][0] == status["messages"][-1][0]
    truth = {
        node: count
        for node, output in job.history["outputs"].items()
        if (count := sum(map(_files, output.values())))
    }
    assert {
        node: sum(map(_files, output.values())) for node, output in end.outputs.items()
    } == truth


def _files(value: object) -> int:
    items = value if isinstance(value, list) else []
    return sum(isinstance(item, dict) and "filename" in item for item in items)
