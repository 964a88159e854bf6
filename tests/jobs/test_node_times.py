"""When a job's nodes began and how long they ran, as far as that can be known."""

from __future__ import annotations

from playbook import GRAPH, ID, PICTURE, done, event

from proxy.jobs.tracker import Input, RecordEnd, Tracker
from proxy.translate.frames import CloudText


def recorded(*happened: tuple[int, Input]) -> RecordEnd:
    tracker = Tracker(ID, GRAPH)
    commands = [command for now, what in happened for command in tracker.receive(what, now)]
    return next(command for command in commands if isinstance(command, RecordEnd))


def test_a_node_runs_until_the_next_one_and_the_last_until_the_end() -> None:
    end = recorded(
        (10_000, event("execution_start")),
        (11_000, event("executing", node="1")),
        (12_000, event("progress", node="1", value=1, max=4)),
        (16_000, event("executing", node="2")),
        (16_500, event("executed", node="2", output=PICTURE)),
        (20_500, done()),
    )
    assert end.node_times == {"1": (11_000, 5_000), "2": (16_000, 4_000)}


def test_without_events_no_times_are_made_up() -> None:
    assert recorded((30_000, done())).node_times == {}


def test_a_node_that_runs_again_adds_to_its_time() -> None:
    lazy = {"1": {"inputs": {"on": ["2", 0]}}, "2": {"inputs": {}}}
    tracker = Tracker(ID, lazy)
    for now, node in ((1000, "1"), (2000, "2"), (4000, "1")):
        tracker.receive(event("executing", node=node), now)
    commands = tracker.receive(done(outputs={"1": PICTURE}, start_time=1000, end_time=5000), 5000)
    end = next(command for command in commands if isinstance(command, RecordEnd))
    assert end.node_times == {"1": (1000, 2000), "2": (2000, 2000)}


def test_a_node_that_began_behind_the_end_has_run_no_time() -> None:
    start, end = event("execution_start"), event("executing", node="1")
    late = recorded((1000, start), (90_000, end), (91_000, done(start_time=1, end_time=2)))
    assert late.node_times == {"1": (90_000, 0)}


def test_the_last_text_of_each_node_tells_the_cost() -> None:
    end = recorded(
        (1000, event("executing", node="1")),
        (2000, CloudText("1", "Status: Pending\nPrice: $9")),
        (3000, CloudText("1", "Status: Completed\nPrice: $0.04")),
        (4000, done()),
    )
    assert end.cost == {"usd": 0.04}
