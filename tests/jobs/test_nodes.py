"""What is told of nodes, whatever the cloud leaves out, and how long they run."""

from __future__ import annotations

from playbook import (
    BEGINNING,
    GRAPH,
    ID,
    PICTURE,
    done,
    event,
    heard,
    last_event,
    play,
    states,
)

from proxy.jobs.tracker import (
    Input,
    RecordEnd,
    SendMessage,
    Tracker,
)
from proxy.translate.events import CloudPicture, CloudText, Preview

LAZY = {
    "switch": {"class_type": "Switch", "inputs": {"on": ["picture", 0]}},
    "picture": {"class_type": "Picture", "inputs": {}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["switch", 0]}},
}


def test_a_node_that_waits_for_a_lazy_input_is_executing_twice() -> None:
    commands = play(
        event("executing", node="switch"),
        event("executing", node="picture"),
        event("executing", node="switch"),
        event("executing", node="switch"),
        event("executing", node="2"),
        done(),
        graph=LAZY,
    )
    executing = [word for word in heard(commands) if word.startswith("executing")]
    assert executing == [
        "executing switch",
        "executing picture",
        "executing switch",
        "executing 2",
        "executing None",
    ]
    assert states(commands)[1]["switch"] == ("running", 0.0, 1.0)
    assert states(commands)[2]["picture"] == ("finished", 1.0, 1.0)
    assert states(commands)[3]["switch"] == ("finished", 1.0, 1.0)


def test_a_doubled_executing_is_told_once_where_no_input_is_lazy() -> None:
    commands = play(
        event("executing", node="picture"),
        event("executing", node="switch"),
        event("executing", node="picture"),
        done(),
        graph=LAZY,
    )
    assert heard(commands).count("executing picture") == 1


TWINS = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    "4": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    "5": {"class_type": "PreviewImage", "inputs": {"images": ["2", 1]}},
}


def test_a_node_whose_twin_has_run_is_executed_without_executing() -> None:
    commands = play(
        event("executing", node="1"),
        event("executing", node="3"),
        event("executed", node="3", output=PICTURE),
        event("executed", node="4", output=PICTURE),
        event("execution_error", node_id="5", exception_message="boom"),
        done(status="failed", outputs={}),
        graph=TWINS,
    )
    assert "executing 4" not in heard(commands)
    assert "executed 4" in heard(commands)
    assert states(commands)[-1]["4"] == ("finished", 1, 1)
    assert last_event(commands, "execution_error")["executed"] == ["1", "3"]


def test_the_detail_gives_the_twins_what_they_share() -> None:
    commands = play(done(outputs=dict.fromkeys("345", PICTURE)), graph=TWINS)
    told = [word for word in heard(commands) if word.startswith("exec")]
    assert told[2:8] == [
        "executing 3",
        "executed 3",
        "executed 4",
        "executing 5",
        "executed 5",
        "execution_success",
    ]


def test_progress_of_an_unannounced_node_announces_it_first() -> None:
    commands = play(event("progress", node="1", value=3, max=20))
    assert heard(commands) == [
        *BEGINNING,
        "progress_state",
        "executing 1",
        "progress_state",
        "progress 1",
    ]
    assert last_event(commands, "progress")["prompt_id"] == ID


def test_the_documented_part_of_progress_state_is_filled() -> None:
    commands = play(event("progress_state", nodes={"1": {"class_type": "KSampler"}}))
    assert last_event(commands, "progress_state")["nodes"] == {
        "1": {
            "value": 0.0,
            "max": 1.0,
            "state": "running",
            "node_id": "1",
            "prompt_id": ID,
            "display_node_id": "1",
            "parent_node_id": None,
            "real_node_id": "1",
        }
    }


def test_states_that_the_cloud_does_not_tell_follow_from_the_order_of_the_nodes() -> None:
    both = {"1": {"class_type": "KSampler"}, "2": {"class_type": "SaveImage"}}
    commands = play(
        event("progress_state", nodes={"1": {"class_type": "KSampler"}}),
        event("executing", node="1"),
        event("progress", node="1", value=3, max=3),
        event("progress_state", nodes=both),
        event("executing", node="2"),
        event("executed", node="2", output=PICTURE),
        event("progress_state", nodes=both),
        event("execution_success"),
        done(),
    )
    assert states(commands) == [
        {"1": ("running", 0.0, 1.0)},
        {"1": ("running", 3, 3)},
        {"1": ("finished", 3, 3)},
        {"1": ("finished", 3, 3), "2": ("running", 0.0, 1.0)},
        {"1": ("finished", 3, 3), "2": ("finished", 1.0, 1.0)},
    ]


def test_states_that_the_cloud_tells_are_told_as_they_are() -> None:
    both = {
        "1": {"state": "running", "value": 1, "max": 4},
        "2": {"state": "running", "value": 2, "max": 4},
    }
    commands = play(
        event("progress_state", nodes=both),
        event("executing", node="1"),
        event("executing", node="2"),
    )
    assert states(commands) == [{"1": ("running", 1, 4), "2": ("running", 2, 4)}]


def test_a_failure_lists_the_nodes_that_have_run() -> None:
    commands = play(
        event("executing", node="1"),
        event("executing", node="2"),
        event("execution_error", exception_message="boom", node_id="2"),
        done(status="failed", outputs={}),
    )
    assert last_event(commands, "execution_error")["executed"] == ["1"]


def test_a_finished_node_does_not_run_again_by_a_late_event() -> None:
    finished = {"1": {"value": 2, "max": 2, "state": "finished"}}
    late = {"1": {"value": 1, "max": 2, "state": "running"}}
    commands = play(event("progress_state", nodes=finished), event("progress_state", nodes=late))
    assert last_event(commands, "progress_state")["nodes"]["1"]["state"] == "finished"


def test_a_preview_with_metadata_leads_its_progress() -> None:
    frame = CloudPicture(b"\xff\xd8x", "image/jpeg", "cloud-id", "1", "1", None, "1")
    commands = play(event("executing", node="1"), frame)
    told = commands[-1]
    assert isinstance(told, SendMessage)
    assert told.message == Preview(ID, "1", "1", None, "1", b"\xff\xd8x", "image/jpeg")


def test_a_preview_without_metadata_belongs_to_the_node_that_runs() -> None:
    commands = play(event("executing", node="1"), CloudPicture(b"\xff\xd8x", "image/jpeg"))
    told = commands[-1]
    assert isinstance(told, SendMessage)
    assert isinstance(told.message, Preview)
    assert told.message.node_id == "1"
    assert not told.message.leads


def test_a_preview_before_any_node_is_left_out() -> None:
    assert heard(play(CloudPicture(b"\xff\xd8x", "image/jpeg"))) == []


def test_pictures_of_a_websocket_saver_are_results() -> None:
    commands = play(event("executing", node="3"), CloudPicture(b"\x89PNG", "image/png"))
    told = commands[-1]
    assert isinstance(told, SendMessage)
    assert isinstance(told.message, Preview)
    assert told.message.result


def test_a_text_is_told_of_its_node() -> None:
    assert heard(play(CloudText("1", "half way")))[-1] == "text 1 half way"


def test_the_display_node_is_that_of_the_outer_node() -> None:
    tracker = Tracker(ID, GRAPH)
    tracker.receive(event("executing", node="1.0.0.2", display_node="1"), 0)
    assert tracker.display_node == "1"


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
