"""The tracker, as scripts of what happens on the cloud and what a client hears of it."""

from __future__ import annotations

from typing import Any

import pytest
from playbook import (
    BEGINNING,
    GRAPH,
    ID,
    PICTURE,
    SUCCESS,
    done,
    event,
    events_of,
    last_event,
    play,
    received,
    states,
)

from proxy.engine.tracker import (
    Ended,
    EventReceived,
    GiveUp,
    Input,
    SnapshotReceived,
    Tracker,
)
from proxy.jobs.models import JobEnd
from proxy.translate.events import Event, Message, Preview
from proxy.translate.frames import CloudPicture, CloudText
from proxy.translate.snapshots import Snapshot


def test_a_run_is_sent_in_the_order_of_a_local_comfyui() -> None:
    commands = play(
        event("execution_start"),
        event("execution_cached", nodes=[]),
        event("progress_state", nodes={"1": {"value": 0.0, "max": 1.0, "state": "running"}}),
        event("executing", node="1", display_node="1"),
        event("progress", node="1", value=1, max=2),
        event("executing", node="2", display_node="2"),
        event("executed", node="2", display_node="2", output=PICTURE),
        event("execution_success"),
        done(),
    )
    assert received(commands) == [
        *BEGINNING,
        "progress_state",
        "executing 1",
        "progress_state",
        "progress 1",
        "progress_state",
        "progress_state",
        "executing 2",
        "executed 2",
        "progress_state",
        "-> outputs sent",
        "-> read",
        *SUCCESS,
    ]


def test_a_node_that_fails_alone_ends_neither_the_run_nor_what_was_blocked() -> None:
    blocked = {"3": {"value": 0.0, "max": 1.0, "state": "blocked"}}
    commands = play(
        event("executing", node="1"),
        event("execution_node_error", node_id="1", exception_message="it failed"),
        event("progress_state", nodes=blocked),
        event("execution_success"),
        done(),
    )
    words = received(commands)
    assert words[-len(SUCCESS) :] == SUCCESS
    assert words.count("execution_node_error 1") == 1
    assert last_event(commands, "execution_node_error")["prompt_id"] == ID
    assert states(commands)[-1]["3"][0] == "blocked"


def test_one_snapshot_is_a_complete_life() -> None:
    assert received(play(done())) == [
        *BEGINNING,
        "progress_state",
        "executing 2",
        "executed 2",
        "progress_state",
        *SUCCESS,
    ]


def test_success_waits_until_the_detail_has_confirmed_it() -> None:
    commands = play(event("execution_success"))
    assert received(commands) == ["-> outputs sent", "-> read"]


def test_an_end_without_outputs_yet_is_read_again() -> None:
    commands = play(
        event("executed", node="2", output=PICTURE),
        done(outputs={}, execution_status=None),
    )
    assert received(commands)[-3:] == ["executed 2", "progress_state", "-> read"]


def test_a_list_entry_alone_never_ends_a_job() -> None:
    assert received(play(SnapshotReceived(done().snapshot, detail=False))) == ["-> read"]


def test_executing_null_of_the_cloud_is_a_hint_not_an_end() -> None:
    assert received(play(event("executing", node=None))) == ["-> read"]


def test_nothing_is_sent_after_the_end() -> None:
    commands = play(done(), event("executing", node="1"), event("execution_success"), done())
    assert received(commands)[-1] == "executing None"
    assert received(commands).count("executing None") == 1


def test_a_late_executed_is_not_sent_twice() -> None:
    commands = play(
        event("executed", node="2", output=PICTURE), event("executed", node="2", output=PICTURE)
    )
    assert received(commands).count("executed 2") == 1


def test_a_cached_output_node_is_executed_without_executing() -> None:
    commands = play(
        event("execution_cached", nodes=["1", "2"]),
        event("executed", node="2", output=PICTURE),
    )
    assert received(commands) == [*BEGINNING, "executed 2", "progress_state"]
    assert last_event(commands, "execution_cached")["nodes"] == ["1", "2"]
    assert states(commands) == [{"2": ("finished", 1, 1)}]


@pytest.mark.parametrize("followed", [True, False])
def test_a_job_is_followed_if_its_first_event_is_received(followed: bool) -> None:
    first = [event("execution_cached", nodes=[])] if followed else []
    commands = play(*first, event("executing", node="2"), done())
    [record] = [command for command in commands if isinstance(command, JobEnd)]
    assert record.followed is followed


def test_a_job_is_followed_no_longer_once_events_are_lost() -> None:
    """A node that ran meanwhile was not heard of, and has cost something."""
    tracker = Tracker("p", GRAPH)
    tracker.receive(event("execution_cached", nodes=[]), 11_000)
    tracker.has_gaps = True
    [ended] = [each for each in tracker.receive(done(), 20_000) if isinstance(each, Ended)]
    assert not ended.end.followed


def test_the_history_entry_is_recorded_before_the_end_is_sent() -> None:
    commands = play(done())
    record = next(command for command in commands if isinstance(command, JobEnd))
    assert record.outputs == {"2": PICTURE}
    assert record.started_at == 10_000
    assert record.ended_at == 20_000
    assert record.status == {
        "status_str": "success",
        "completed": True,
        "messages": [
            ["execution_start", {"prompt_id": ID, "timestamp": 10_000}],
            ["execution_cached", {"nodes": [], "prompt_id": ID, "timestamp": 5_000}],
            ["execution_success", {"prompt_id": ID, "timestamp": 20_000}],
        ],
    }
    assert record.meta == {
        "2": {"node_id": "2", "display_node": "2", "parent_node": None, "real_node_id": "2"}
    }


def test_a_run_is_as_long_as_the_clouds_clock_says_whatever_ours_says() -> None:
    commands = play(event("execution_start"), done(start_time=4_000, end_time=4_700))
    record = next(command for command in commands if isinstance(command, JobEnd))
    assert (record.started_at, record.ended_at) == (5_000, 5_700)
    assert last_event(commands, "execution_success")["timestamp"] == 5_700


def test_no_run_ends_before_it_has_begun() -> None:
    commands = play(event("execution_start"), done(start_time=None, end_time=4_700))
    record = next(command for command in commands if isinstance(command, JobEnd))
    assert record.ended_at == record.started_at == 5_000
    assert last_event(commands, "execution_success")["timestamp"] == 5_000


def test_a_failed_run_tells_the_node_and_its_error() -> None:
    commands = play(
        event("executing", node="1"),
        event(
            "execution_error",
            node_id="1",
            node_type="KSampler",
            exception_type="ValueError",
            exception_message="boom",
            traceback=["line\n"],
            current_inputs={"seed": 7},
            current_outputs={"2": []},
        ),
        done(status="failed", outputs={}),
    )
    assert received(commands)[-3:] == [
        "-> record failed",
        "execution_error 1",
        "executing None",
    ]
    assert last_event(commands, "execution_error") == {
        "prompt_id": ID,
        "node_id": "1",
        "node_type": "KSampler",
        "executed": [],
        "exception_message": "boom",
        "exception_type": "ValueError",
        "traceback": ["line\n"],
        "current_inputs": {"seed": ["7"]},
        "current_outputs": ["2"],
        "timestamp": 15_000,
    }


def test_a_failure_that_only_the_snapshot_knows_is_sent_in_full() -> None:
    error = {"node_id": 1, "exception_message": "out of memory", "exception_type": "OOMError"}
    commands = play(done(status="failed", outputs={}, execution_error=error))
    sent = last_event(commands, "execution_error")
    assert sent["node_id"] == "1"
    assert sent["node_type"] == "KSampler"
    assert sent["exception_type"] == "OOMError"


def test_the_workers_own_messages_are_preferred_to_the_summary() -> None:
    messages = [["execution_error", {"node_id": "1", "exception_message": "full"}]]
    commands = play(
        done(
            status="failed",
            outputs={},
            execution_status={"messages": messages},
            execution_error={"exception_message": "short"},
        )
    )
    assert last_event(commands, "execution_error")["exception_message"] == "full"


def test_a_blocked_branch_is_an_error_that_does_not_end_the_run() -> None:
    commands = play(
        event("executed", node="2", output=PICTURE),
        event("execution_error", node_id="1", exception_message="blocked"),
        done(),
    )
    assert received(commands)[-4:] == ["execution_error 1", *SUCCESS]
    assert "timestamp" not in last_event(commands, "execution_error")


def test_blocked_branches_are_sent_when_they_are_met_each_once() -> None:
    def blocked(node: str, message: str) -> EventReceived:
        return event(
            "execution_error",
            node_id=node,
            exception_type="ExecutionBlocked",
            exception_message=f"Execution Blocked: {message}",
            current_inputs={},
            current_outputs={},
        )

    commands = play(
        event("executing", node="1"),
        blocked("1", "why"),
        blocked("1", "why"),
        event("executing", node="2"),
        blocked("2", "why not"),
        event("execution_success"),
        done(),
    )
    sent = [word for word in received(commands) if not word.startswith("progress_state")]
    assert sent[3:] == [
        "executing 1",
        "execution_error 1",
        "executing 2",
        "execution_error 2",
        "-> outputs sent",
        "-> read",
        "executed 2",
        *SUCCESS,
    ]
    assert last_event(commands, "execution_error") == {
        "prompt_id": ID,
        "node_id": "2",
        "node_type": "SaveImage",
        "executed": ["1"],
        "exception_message": "Execution Blocked: why not",
        "exception_type": "ExecutionBlocked",
        "traceback": [],
        "current_inputs": [],
        "current_outputs": [],
    }


def test_errors_that_turn_out_to_be_of_blocked_branches_are_all_sent() -> None:
    commands = play(
        event("execution_error", node_id="1", exception_message="blocked"),
        event("execution_error", node_id="2", exception_message="blocked too"),
        done(),
    )
    assert received(commands)[-5:] == ["execution_error 1", "execution_error 2", *SUCCESS]


def test_an_interrupted_run_names_the_node_that_ran() -> None:
    commands = play(
        event("executing", node="1"),
        event("execution_interrupted"),
        done(status="cancelled", outputs={}),
    )
    sent = last_event(commands, "execution_interrupted")
    assert sent["node_id"] == "1"
    assert sent["node_type"] == "KSampler"
    assert received(commands)[-3:] == [
        "-> record cancelled",
        "execution_interrupted 1",
        "executing None",
    ]


def test_a_job_that_never_ran_has_taken_no_time_whatever_the_clock_of_the_cloud_says() -> None:
    commands = play(
        event("execution_interrupted"),
        done(status="cancelled", outputs={}, start_time=None, end_time=20_000),
    )
    [end] = [command for command in commands if isinstance(command, JobEnd)]
    assert end.ended_at == end.started_at


def test_an_unsettled_failure_waits_for_the_final_word() -> None:
    erroring = SnapshotReceived(Snapshot("cloud-id", "failed", settled=False, outputs={}))
    assert received(play(erroring)) == ["-> read"]


def test_giving_up_on_the_outputs_ends_with_those_that_are_known() -> None:
    commands = play(
        event("executed", node="2", output=PICTURE),
        event("execution_success"),
        GiveUp("no more"),
    )
    assert received(commands)[-3:] == SUCCESS


def test_giving_up_on_a_job_that_goes_on_changes_nothing() -> None:
    commands = play(event("executing", node=None), GiveUp("goes on"), event("executing", node=None))
    assert received(commands) == ["-> read", "-> read"]


def test_a_lost_job_fails_with_the_reason() -> None:
    commands = play(GiveUp("Comfy Cloud does not know it.", lost=True))
    sent = last_event(commands, "execution_error")
    assert sent["exception_message"] == "Comfy Cloud does not know it."


def test_events_of_node_packs_pass_with_the_local_id() -> None:
    commands = play(event("pack.says", value=1))
    assert last_event(commands, "pack.says") == {"prompt_id": ID, "value": 1}


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
    executing = [word for word in received(commands) if word.startswith("executing")]
    assert executing == [
        "executing switch",
        "executing picture",
        "executing switch",
        "executing 2",
        "executing None",
    ]
    assert states(commands)[1]["switch"] == ("running", 0.0, 1.0)
    assert states(commands)[2]["picture"] == ("finished", 1.0, 1.0)
    assert states(commands)[3] == states(commands)[2]
    assert states(commands)[4]["switch"] == ("finished", 1.0, 1.0)


def test_a_lazy_node_goes_on_behind_the_inner_nodes_of_one_that_expands() -> None:
    commands = play(
        event("executing", node="switch"),
        event("executing", node="picture", display_node="picture"),
        event("executed", node="picture", output=None),
        event("executing", node="switch"),
        event("executing", node="picture.0.0.1", display_node="picture"),
        event("executing", node="switch"),
        done(),
        graph=LAZY,
    )
    words = received(commands)
    again = [place for place, word in enumerate(words) if word == "executing switch"]
    assert [words[place - 1] for place in again] == ["progress_state"] * 3


def whole(**shown: str) -> EventReceived:
    """The states of nodes as a local ComfyUI tells them."""
    nodes = {
        node: {"state": state, "value": float(state == "finished"), "max": 1.0}
        for node, state in shown.items()
    }
    return event("progress_state", nodes=nodes)


def test_states_that_the_cloud_tells_whole_are_all_passed_on() -> None:
    run, end = "running", "finished"
    life = [
        whole(switch=run),
        event("executing", node="switch"),
        whole(switch=run, picture=run),
        event("executing", node="picture"),
        whole(switch=run, picture=end),
        whole(switch=run, picture=end),
        event("executing", node="switch"),
        whole(switch=end, picture=end),
        event("executed", node="twin", output=None),
        whole(switch=end, picture=end, twin=end),
        whole(switch=end, picture=end, twin=end),
    ]
    commands = play(*life, graph={**LAZY, "twin": LAZY["picture"]})
    assert received(commands)[3:] == [
        f"{given.type} {given.data.get('node', '')}".strip() for given in life
    ]


def test_what_ran_before_a_twin_has_finished_when_that_is_executed() -> None:
    commands = play(
        event("executing", node="1"), event("executed", node="2", output=None), graph=TWINS
    )
    assert received(commands)[-3:] == ["progress_state", "executed 2", "progress_state"]
    assert [state["1"][0] for state in states(commands)] == ["running", "finished", "finished"]


def test_the_activity_of_a_node_and_its_seconds_are_passed_on() -> None:
    running = {"state": "running", "value": 0.0, "max": 1.0}
    commands = play(
        event("progress_state", nodes={"1": {**running, "activity": "loading"}}),
        event("progress_state", nodes={"1": running}),
        event("progress_state", nodes={"1": {**running, "activity": "downloading"}}),
        event("executing", node="2"),
        event("progress_state", nodes={"2": {"state": "finished", "seconds": {"total": 1.5}}}),
        event("progress_state", nodes={"1": {"state": "finished"}}),
    )
    sent = [state["nodes"] for state in events_of(commands, "progress_state")]
    assert [nodes["1"].get("activity") for nodes in sent][:3] == ["loading", None, "downloading"]
    assert "activity" not in sent[-1]["1"]
    assert sent[-1]["2"]["seconds"] == {"total": 1.5}
    assert "seconds" not in sent[-1]["1"]


def test_a_failure_of_the_platform_names_a_node() -> None:
    failed = {"exception_type": "ServiceError", "exception_message": "away", "node_id": None}
    commands = play(
        event("execution_error", **failed),
        done(status="failed", outputs={}, execution_error=failed),
    )
    error = last_event(commands, "execution_error")
    assert (error["node_id"], error["node_type"]) == ("1", "KSampler")


def test_a_doubled_executing_is_sent_once_where_no_input_is_lazy() -> None:
    commands = play(
        event("executing", node="picture"),
        event("executing", node="switch"),
        event("executing", node="picture"),
        done(),
        graph=LAZY,
    )
    assert received(commands).count("executing picture") == 1


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
    assert "executing 4" not in received(commands)
    assert "executed 4" in received(commands)
    assert states(commands)[-1]["4"] == ("finished", 1, 1)
    assert last_event(commands, "execution_error")["executed"] == ["1", "3"]


def test_a_twin_that_shows_nothing_is_executed_with_null_and_not_recorded() -> None:
    commands = play(
        event("executing", node="1"),
        event("executed", node="2", output=None),
        event("executing", node="3"),
        event("executed", node="3", output=PICTURE),
        done(outputs={"3": PICTURE}),
        graph=TWINS,
    )
    executed = [word for word in received(commands) if word.startswith("execut")]
    assert executed[2:7] == [
        "executing 1",
        "executed 2",
        "executing 3",
        "executed 3",
        "execution_success",
    ]
    assert events_of(commands, "executed")[0] == {
        "node": "2",
        "display_node": "2",
        "output": None,
        "prompt_id": ID,
    }
    assert states(commands)[-1]["2"] == ("finished", 1, 1)
    [record] = [command for command in commands if isinstance(command, JobEnd)]
    assert record.outputs == {"3": PICTURE}
    assert record.meta.keys() == {"3"}


def test_an_output_in_the_detail_counts_more_than_null() -> None:
    commands = play(
        event("executed", node="3", output=None),
        done(outputs={"3": PICTURE, "4": None}),
        graph=TWINS,
    )
    [record] = [command for command in commands if isinstance(command, JobEnd)]
    assert record.outputs == {"3": PICTURE}


@pytest.mark.parametrize("output", [None, {"text": ["hello"]}])
def test_a_job_without_files_ends_with_its_first_detail(output: dict[str, Any] | None) -> None:
    commands = play(
        event("executing", node="1"),
        event("executed", node="2", output=output),
        event("execution_success"),
        done(outputs={}, outputs_count=0),
        graph=TWINS,
    )
    assert received(commands)[-3:] == SUCCESS


def test_the_detail_gives_the_twins_what_they_share() -> None:
    commands = play(done(outputs=dict.fromkeys("345", PICTURE)), graph=TWINS)
    sent = [word for word in received(commands) if word.startswith("exec")]
    assert sent[2:8] == [
        "executing 3",
        "executed 3",
        "executed 4",
        "executing 5",
        "executed 5",
        "execution_success",
    ]


def test_the_last_output_is_noted_before_it_is_sent() -> None:
    commands = play(
        event("executing", node="3"),
        event("executed", node="3", output=PICTURE),
        event("progress_state", nodes={"5": {"state": "finished"}}),
        event("executing", node="4"),
        event("executed", node="4", output=PICTURE),
        event("execution_success"),
        graph=TWINS,
        outputs="3 4 5",
    )
    words = received(commands)
    assert words.count("-> outputs sent") == 1
    assert words.index("executed 3") < words.index("-> outputs sent") < words.index("executed 4")


def test_with_unknown_output_nodes_the_end_of_the_run_is_the_last_output() -> None:
    commands = play(
        event("executed", node="3", output=PICTURE), event("execution_success"), graph=TWINS
    )
    assert received(commands)[-2:] == ["-> outputs sent", "-> read"]


def test_no_message_has_the_workflow_id_of_the_cloud() -> None:
    commands = play(
        event("executing", node="1", workflow_id="cloud"),
        event("progress", node="1", value=1, max=2, workflow_id="cloud"),
        event("of_a_pack", workflow_id="cloud"),
        done(),
    )
    sent = [command for command in commands if isinstance(command, Message)]
    assert len(sent) > 8
    assert not any("workflow_id" in message.data for message in sent if isinstance(message, Event))
    [record] = [command for command in commands if isinstance(command, JobEnd)]
    assert all("workflow_id" not in data for _, data in record.status["messages"])


def test_progress_of_an_unannounced_node_announces_it_first() -> None:
    commands = play(event("progress", node="1", value=3, max=20))
    assert received(commands) == [
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


def test_states_that_the_cloud_sends_are_sent_as_they_are() -> None:
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
    sent = commands[-1]
    assert sent == Preview(ID, "1", "1", None, "1", b"\xff\xd8x", "image/jpeg")


def test_a_preview_without_metadata_belongs_to_the_node_that_runs() -> None:
    commands = play(event("executing", node="1"), CloudPicture(b"\xff\xd8x", "image/jpeg"))
    sent = commands[-1]
    assert isinstance(sent, Preview)
    assert sent.node_id == "1"
    assert not sent.leads


def test_a_preview_before_any_node_is_left_out() -> None:
    assert received(play(CloudPicture(b"\xff\xd8x", "image/jpeg"))) == []


def test_pictures_of_a_websocket_saver_are_results() -> None:
    commands = play(event("executing", node="3"), CloudPicture(b"\x89PNG", "image/png"))
    sent = commands[-1]
    assert isinstance(sent, Preview)
    assert sent.result


def test_a_text_is_sent_with_its_node() -> None:
    assert received(play(CloudText("1", "half way")))[-1] == "text 1 half way"


def test_a_node_that_the_graph_lacks_is_shown_as_the_one_that_it_is_of() -> None:
    inner, graph = "1.5.0.0.2", {"1": GRAPH["1"], "1.5": GRAPH["2"]}
    picture = CloudPicture(b"\xff\xd8", "image/jpeg", "cloud-id", inner)
    commands = play(
        picture,
        event("progress_state", nodes={inner: {"state": "running", "display_node_id": inner}}),
        event("executing", node="1.0.0.1", display_node="1.0.0.1"),
        event("executed", node=inner, output=PICTURE),
        done(outputs={inner: PICTURE}, status="failed"),
        graph=graph,
    )
    shown = [(data["node"], data["display_node"]) for data in events_of(commands, "executing")[:2]]
    assert shown == [(inner, "1.5"), ("1.0.0.1", "1")]
    assert last_event(commands, "executed")["display_node"] == "1.5"
    for nodes in events_of(commands, "progress_state"):
        state = nodes["nodes"][inner]
        assert (state["display_node_id"], state["real_node_id"]) == ("1.5", "1.5")
    [preview] = [command for command in commands if isinstance(command, Preview)]
    assert (preview.display_node_id, preview.real_node_id) == ("1.5", "1.5")
    [record] = [command for command in commands if isinstance(command, JobEnd)]
    assert record.meta[inner]["display_node"] == record.meta[inner]["real_node_id"] == "1.5"
    assert last_event(commands, "execution_error")["node_id"] == "1"


def test_the_display_node_is_that_of_the_outer_node() -> None:
    tracker = Tracker(ID, GRAPH)
    tracker.receive(event("executing", node="1.0.0.2", display_node="1"), 0)
    assert tracker.nodes.display_node == "1"


def recorded(*happened: tuple[int, Input]) -> JobEnd:
    tracker = Tracker(ID, GRAPH)
    commands = [command for now, what in happened for command in tracker.receive(what, now)]
    return next(command.end for command in commands if isinstance(command, Ended))


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
    end = next(command.end for command in commands if isinstance(command, Ended))
    assert end.node_times == {"1": (1000, 2000), "2": (2000, 2000)}


def test_a_node_that_began_behind_the_end_has_run_no_time() -> None:
    start, end = event("execution_start"), event("executing", node="1")
    late = recorded((1000, start), (90_000, end), (91_000, done(start_time=1, end_time=2)))
    assert late.node_times == {"1": (90_000, 0)}


def test_the_last_price_in_the_texts_of_each_node_counts() -> None:
    end = recorded(
        (1000, event("executing", node="1")),
        (2000, CloudText("1", "Status: Pending\nPrice: $9")),
        (3000, CloudText("1", "Status: Completed\nPrice: $0.04")),
        (3500, CloudText("1", "Status: Saved")),
        (4000, done()),
    )
    assert end.prices == {"1": 8_440_000}
