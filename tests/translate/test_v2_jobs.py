"""What a job of API v2 says becomes what a local server says, row by row."""

from __future__ import annotations

import json
from typing import Any

import pytest
from v2_recordings import answers_of

from proxy.translate.frames import CloudPicture
from proxy.translate.snapshots import Snapshot
from proxy.translate.v2.assets import asset_id, cloud_name, file_path, reference
from proxy.translate.v2.classes import of_deployment
from proxy.translate.v2.jobs import outputs_by_node, snapshot_of
from proxy.translate.v2.runs import ObservedEvent, RunObserver
from proxy.translate.v2.submissions import body_of, id_by_mark, refusal_of

GRAPH: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "text": "x"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a/b"}},
    "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}
AT = "2026-11-30T20:32:58.957+00:00"


def output(node: str = "2", name: str = "pic_00001_.png", **more: Any) -> dict[str, Any]:
    known = {"node_id": node, "name": name, "type": "image", "content_type": "image/png"}
    return {**known, "id": f"id-of-{name}", **more}


def job(status: str = "succeeded", **more: Any) -> dict[str, Any]:
    return {"id": "a", "status": status, "created_at": AT, "outputs": [], **more}


def snapshot(told: dict[str, Any], *, cancelled: bool = False) -> Snapshot:
    return snapshot_of(told, GRAPH, {}, cancelled=cancelled, settled=True)


@pytest.mark.parametrize(
    ("status", "local"),
    [
        ("queued", "pending"),
        ("running", "in_progress"),
        ("canceling", "in_progress"),
        ("succeeded", "completed"),
        ("failed", "failed"),
        ("canceled", "cancelled"),
        ("expired", "failed"),
        ("of a later version", "in_progress"),
    ],
)
def test_statuses(status: str, local: str) -> None:
    assert snapshot(job(status)).status == local


def test_an_unknown_status_is_an_end_once_there_is_one() -> None:
    assert snapshot(job("partial", outputs=[output()])).status == "in_progress"
    ended = snapshot(job("partial", completed_at=AT, outputs=[output()]))
    assert (ended.status, ended.settled, set(ended.outputs or {})) == ("completed", True, {"2"})
    empty = snapshot(job("evicted", completed_at=AT))
    assert (empty.status, empty.settled) == ("failed", False)
    assert '"evicted"' in (empty.execution_error or {})["exception_message"]


def test_what_expires_after_our_cancel_is_interrupted() -> None:
    assert snapshot(job("expired"), cancelled=True).status == "cancelled"


def test_times_are_milliseconds() -> None:
    told = snapshot(job(started_at=AT, metrics={"execution_ms": 1500}))
    assert told.create_time == told.start_time == 1796070778957
    assert told.end_time == 1796070778957 + 1500


def test_missing_times_stay_unknown() -> None:
    told = snapshot(job(started_at=None, completed_at=None))
    assert (told.start_time, told.end_time) == (None, None)


# --- failures ------------------------------------------------------------------------------


def failure(**error: Any) -> dict[str, Any]:
    found = snapshot(job("failed", error=error or None)).execution_error
    assert found is not None
    return found


def test_a_failure_has_node_type_message_and_lines() -> None:
    text = "Traceback (most recent call last):\n  x\nValueError: boom\n"
    error = failure(
        code="node_execution_error", message="boom", node_id="1", class_type="A", traceback=text
    )
    assert (error["node_id"], error["node_type"]) == ("1", "A")
    assert error["exception_message"] == "boom"
    assert error["exception_type"] == "ValueError"
    assert error["traceback"] == text.splitlines(keepends=True)
    assert error["current_outputs"] == []


def test_without_a_traceback_the_code_is_the_type() -> None:
    assert failure(code="node_execution_error", message="x")["exception_type"] == (
        "node_execution_error"
    )


def test_the_inputs_of_a_failed_node_are_the_literals_of_the_graph() -> None:
    assert failure(message="x", node_id="1")["current_inputs"] == {"width": [64], "text": ["x"]}
    assert failure(message="x", node_id="3")["current_inputs"] == {}


@pytest.mark.parametrize("status", ["failed", "expired"])
def test_a_failure_without_words_gets_plain_ones(status: str) -> None:
    error = snapshot(job(status)).execution_error
    assert error is not None
    assert error["exception_type"] == status
    assert len(error["exception_message"]) > 40


# --- outputs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_type", "type_", "key", "animated"),
    [
        ("SaveImage", "image", "images", False),
        ("PreviewImage", "image", "images", False),
        ("SaveAudio", "audio", "audio", False),
        ("SaveVideo", "video", "images", True),
        ("SaveVideo", "image", "images", True),
        ("SaveAnimatedWEBP", "image", "images", True),
        ("SaveAnimatedPNG", "image", "images", True),
        ("PreviewAudio", "audio", "audio", False),
        ("Preview3D", "file", "3d", False),
        ("VHS_VideoCombine", "video", "gifs", False),
        ("SaveGLB", "file", "3d", False),
        ("SaveLatent", "latent", "latents", False),
        ("OfAPack", "image", "images", False),
        ("OfAPack", "video", "images", False),
        ("OfAPack", "audio", "audio", False),
        ("OfAPack", "latent", "latents", False),
        ("OfAPack", "file", "files", False),
    ],
)
def test_keys_of_outputs(class_type: str, type_: str, key: str, animated: bool) -> None:
    graph = {"2": {"class_type": class_type, "inputs": {}}}
    found = outputs_by_node(job(outputs=[output(type=type_)]), graph, {})["2"]
    assert [name for name in found if name != "animated"] == [key]
    assert found.get("animated") == ([True] if animated else None)


def test_a_video_of_an_unknown_node_is_shown_as_one() -> None:
    graph = {"2": {"class_type": "OfAPack", "inputs": {}}}
    told = job(outputs=[output(name="a.mp4", type="video", content_type="video/mp4")])
    assert outputs_by_node(told, graph, {})["2"]["animated"] == [True]


def test_a_text_is_a_list_of_its_content() -> None:
    told = job(outputs=[output(name="t.txt", type="text", id="t")])
    for class_type in ("PreviewAny", "ShowText|pysssss", "OfAPack"):
        graph = {"2": {"class_type": class_type, "inputs": {}}}
        assert outputs_by_node(told, graph, {"t": "héllo"}) == {"2": {"text": ["héllo"]}}
    assert outputs_by_node(told, GRAPH, {}) == {}


def test_files_keep_their_order() -> None:
    names = ["two_00001_.png", "two_00002_.png", "one_00001_.png"]
    told = job(outputs=[output(name=name) for name in names])
    items = outputs_by_node(told, GRAPH, {})["2"]["images"]
    assert [item["display_name"] for item in items] == names


def test_two_workers_names_are_two_files() -> None:
    told = job(outputs=[output(id="x"), output(id="y")])
    names = [item["filename"] for item in outputs_by_node(told, GRAPH, {})["2"]["images"]]
    assert names == ["x.png", "y.png"]


def test_temporary_names_are_temporary() -> None:
    told = job(outputs=[output("3", "ComfyUI_temp_abcde_00001_.png")])
    assert outputs_by_node(told, GRAPH, {})["3"]["images"][0]["type"] == "temp"


def test_an_output_without_a_node_is_of_the_only_end_of_the_graph_or_of_none() -> None:
    told = job(outputs=[output(node="")])
    one = {name: GRAPH[name] for name in "12"}
    assert list(outputs_by_node(told, one, {})) == ["2"]
    assert outputs_by_node(told, GRAPH, {}) == {}


def test_a_recorded_job_has_all_its_files() -> None:
    path = "/api/v2/jobs/267ce921-0746-4d5b-8135-8f4c8f345131"
    told = list(answers_of("08_outputs", "GET", path))[-1][2]
    submitted = next(answers_of("08_outputs", "POST", "/api/v2/jobs"))[0]["workflow"]
    found = outputs_by_node(told, submitted, {})
    assert {node: [*about] for node, about in found.items()} == {
        "7": ["images"],
        "11": ["audio"],
        "2": ["images"],
        "13": ["images", "animated"],
        "8": ["images", "animated"],
        "15": ["latents"],
        "3": ["images"],
    }
    assert len(found["7"]["images"]) == 2


# --- names of files ------------------------------------------------------------------------


def test_names_of_assets_keep_ids_with_dots() -> None:
    name = cloud_name("eyJq.r5mal_zb", "film_00001_.MP4")
    assert name == "eyJq.r5mal_zb.mp4"
    assert asset_id(name) == "eyJq.r5mal_zb"
    assert reference(name) == {"__type": "core/ASSET", "info": {"id": "eyJq.r5mal_zb"}}


def test_a_name_without_extension_gets_that_of_its_type() -> None:
    assert cloud_name("x", "noise", "audio/mpeg") == "x.mp3"
    assert cloud_name("x", "noise", "odd/type") == "x.bin"


@pytest.mark.parametrize(
    ("filename", "path"),
    [
        ("cat.png", "cat-0123456789ab.png"),
        ("sub/dir/cat.png", "cat-0123456789ab.png"),
        ("photo é.PNG", "photo-0123456789ab.png"),
        ("../../x", "x-0123456789ab"),
        ("…", "file-0123456789ab"),
    ],
)
def test_paths_of_uploads_are_safe_and_unique(filename: str, path: str) -> None:
    assert file_path(filename, "0123456789abcdef") == path


# --- the list of an install ---------------------------------------------------------------


def test_of_an_install_files_and_nodes_that_send_over_the_socket_are_left_out() -> None:
    listed = {
        "LoadImage": {"input": {"required": {"image": [["cat.png"], {"image_upload": True}]}}},
        "LoadLatent": {"input": {"required": {"latent": [["a.latent"]]}}},
        "Video": {
            "input": {
                "optional": {"file": ["COMBO", {"options": ["none", "a.mp4"], "video_upload": 1}]}
            }
        },
        "Loader": {"input": {"required": {"model": [["a.safetensors"]]}}},
        "Odd": {"input": {"required": {"file": ["STRING", {"file_upload": True}], "x": []}}},
        "None": None,
        "SaveImageWebsocket": {"output_node": True},
    }
    cleared = json.loads(of_deployment(json.dumps(listed).encode()))
    assert cleared["LoadImage"]["input"]["required"]["image"][0] == []
    assert cleared["LoadLatent"]["input"]["required"]["latent"] == [[]]
    assert cleared["Video"]["input"]["optional"]["file"][1]["options"] == ["none"]
    assert "SaveImageWebsocket" not in cleared
    assert {name: cleared[name] for name in ("Loader", "Odd", "None")} == {
        name: listed[name] for name in ("Loader", "Odd", "None")
    }


@pytest.mark.parametrize("body", [b"[]", b"{}", b"{", b"\xff"])
def test_what_is_no_list_of_classes_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a list of node classes|Expecting|decode"):
        of_deployment(body)


# --- messages ------------------------------------------------------------------------------


def told(run: RunObserver, *frames: tuple[str, dict[str, Any]]) -> list[tuple[str, Any]]:
    found = []
    for type_, data in frames:
        events = [each for each in run.frame(type_, data) if isinstance(each, ObservedEvent)]
        found += [(event.type, event.data.get("node")) for event in events]
        if run.wants_reading:
            run.reading(None)
    return found


def progress(node: str | None, step: int | None = None) -> tuple[str, dict[str, Any]]:
    steps = None if step is None else 20
    return "progress", {"value": 0.5, "current_node": node, "step": step, "steps": steps}


@pytest.mark.parametrize(
    ("read", "at"), [(job("running", started_at=AT), 1796070778957), (None, None)]
)
def test_the_first_running_is_the_start_at_the_time_of_the_reading(
    read: dict[str, Any] | None, at: int | None
) -> None:
    run = RunObserver("a", GRAPH)
    assert run.frame("status", {"status": "running"}) == []
    assert run.wants_reading, "the time of the start is in the job"
    (first,) = run.reading(read)
    assert isinstance(first, Snapshot)
    assert (first.status, first.start_time) == ("in_progress", at)
    assert run.frame("status", {"status": "running"}) == []
    assert run.reading(read) == []


def test_nothing_is_told_as_cached() -> None:
    run = RunObserver("a", GRAPH)
    assert "execution_cached" not in dict(told(run, progress("2")))
    assert not run.reading(job(outputs_reused=True))[0:0]


def test_executing_follows_the_current_node_and_no_other_is_made_up() -> None:
    frames = [progress("1"), progress("1"), progress("3")]
    assert told(RunObserver("a", GRAPH), *frames) == [("executing", "1"), ("executing", "3")]


def test_steps_are_progress_once_each() -> None:
    frames = [progress("1", 3), progress("1", 3), progress("1", 4)]
    found = told(RunObserver("a", GRAPH), *frames)
    assert [type_ for type_, _ in found] == ["executing", "progress", "progress"]


def test_a_polled_progress_tells_the_same() -> None:
    found = RunObserver("a", GRAPH).reading(job("running", progress=progress("1", 2)[1]))
    assert [each.type for each in found if isinstance(each, ObservedEvent)] == [
        "executing",
        "progress",
    ]


@pytest.mark.parametrize("status", ["queued", "running"])
def test_a_reading_that_a_frame_has_overtaken_does_not_go_back(status: str) -> None:
    run = RunObserver("a", GRAPH)
    began = run.seen
    run.frame("status", {"status": "running"})
    told(run, progress("2"))
    assert run.reading(job(status, progress=progress("1", 2)[1]), began=began) == []


def test_a_start_keeps_its_time_though_an_older_reading_comes_first() -> None:
    run = RunObserver("a", GRAPH)
    began = run.seen
    run.frame("status", {"status": "running"})
    assert run.reading(job("queued"), began=began) == []
    (first,) = run.reading(job("running", started_at=AT), began=run.seen)
    assert isinstance(first, Snapshot)
    assert first.start_time == 1796070778957


@pytest.mark.parametrize("status", ["running", "succeeded"])
def test_a_reading_tells_the_start_before_what_nodes_show(status: str) -> None:
    read = job(status, started_at=AT, outputs=[output()], progress=progress("3", 2)[1])
    first, *others = RunObserver("a", GRAPH).reading(read)
    assert isinstance(first, Snapshot)
    assert (first.status, first.start_time) == ("in_progress", 1796070778957)
    assert others


def test_a_frame_that_a_reading_has_overtaken_does_not_go_back() -> None:
    run = RunObserver("a", GRAPH)
    run.reading(job("running", progress={**progress("2")[1], "nodes_done": 1}))
    assert told(run, ("progress", {**progress("1")[1], "nodes_done": 0})) == []
    late = {**progress("3")[1], "nodes_done": 2}
    assert told(run, ("progress", late)) == [("executing", "3")]


def test_a_reading_between_frames_leaves_the_steps_to_the_frames_behind_it() -> None:
    run = RunObserver("a", GRAPH)
    run.frame("status", {"status": "running"})
    (start,) = run.reading(job("running", started_at=AT, progress=progress("2", 3)[1]))
    assert isinstance(start, Snapshot)
    frames = (progress("2", step) for step in (1, 2, 3))
    found = [event for frame in frames for event in run.frame(*frame)]
    events = [event for event in found if isinstance(event, ObservedEvent)]
    steps = [event.data["value"] for event in events if event.type == "progress"]
    assert steps == [1, 2, 3]


def test_an_end_counts_whenever_its_reading_began() -> None:
    run = RunObserver("a", GRAPH)
    began = run.seen
    run.frame(*progress("2"))
    assert run.reading(job(), began=began)
    assert run.ended


def test_a_progress_of_null_is_nothing() -> None:
    run = RunObserver("a", GRAPH)
    run.reading(job("running"))
    assert run.reading(job("running", progress=None)) == []


def test_all_nodes_have_finished_after_a_success_and_not_after_a_failure() -> None:
    last = RunObserver("a", GRAPH).reading(job())[-1]
    assert isinstance(last, ObservedEvent)
    assert last.type == "progress_state"
    assert {each["state"] for each in last.data["nodes"].values()} == {"finished"}
    assert last.data["nodes"].keys() == GRAPH.keys()
    assert RunObserver("a", GRAPH).reading(job("failed")) == []


def test_a_node_is_told_with_all_its_files_when_another_one_runs() -> None:
    run = RunObserver("a", GRAPH)
    told(run, progress("2"), ("output", output(name="one_00001_.png")))
    assert run.frame(*progress("3")) == []
    assert run.wants_reading
    files = [output(name="one_00001_.png"), output(name="one_00002_.png")]
    found = run.reading(job("running", outputs=files, progress=progress("3")[1]))
    events = [each for each in found if isinstance(each, ObservedEvent)]
    assert [event.type for event in events] == ["executed", "executing"]
    assert len(events[0].data["output"]["images"]) == 2


def test_a_node_is_told_once() -> None:
    run = RunObserver("a", GRAPH)
    run.reading(job("running", outputs=[output()], progress=progress("3")[1]))
    found = run.reading(job(outputs=[output()]))
    assert [each.type for each in found if isinstance(each, ObservedEvent)] == ["progress_state"]


def test_outputs_of_the_running_node_are_held() -> None:
    run = RunObserver("a", GRAPH)
    found = run.reading(job("running", outputs=[output()], progress=progress("2")[1]))
    assert all(each.type != "executed" for each in found if isinstance(each, ObservedEvent))


def test_what_comes_after_the_end_of_the_stream_is_in_the_reading() -> None:
    run = RunObserver("a", GRAPH)
    told(run, ("status", {"status": "succeeded"}))
    found = run.reading(job(outputs=[output()]))
    assert [each.type for each in found if isinstance(each, ObservedEvent)] == [
        "executed",
        "progress_state",
    ]


def test_previews_are_pictures_of_their_node() -> None:
    frame = {"node_id": "1.0.2", "content_type": "image/jpeg", "data_base64": "/9g="}
    (picture,) = RunObserver("a", GRAPH).frame("preview", frame)
    assert picture == CloudPicture(b"\xff\xd8", "image/jpeg", "a", "1.0.2")


@pytest.mark.parametrize(
    "frame",
    [
        {"node_id": "1", "data_base64": "no base64"},
        {"node_id": "1", "content_type": "image/webp", "data_base64": "/9g="},
        {"data_base64": "/9g="},
        {"node_id": "1"},
    ],
)
def test_what_is_no_preview_is_dropped(frame: dict[str, Any]) -> None:
    assert RunObserver("a", GRAPH).frame("preview", frame) == []


@pytest.mark.parametrize("type_", ["log", "of a later version"])
def test_progress_texts_and_unknown_frames_are_not_made_up(type_: str) -> None:
    assert RunObserver("a", GRAPH).frame(type_, {"text": "x"}) == []


# --- submissions ---------------------------------------------------------------------------


def test_a_submission_has_known_fields_alone() -> None:
    extra = {"extra_pnginfo": {"workflow": {}}, "api_key_comfy_org": "k", "create_time": 1}
    body = body_of(GRAPH, extra, None, "label")
    assert body == {
        "workflow": GRAPH,
        "extra_data": {"api_key_comfy_org": "k"},
        "metadata": {"ccp_job": "label"},
    }


def test_of_a_partial_execution_what_is_needed_is_sent() -> None:
    assert list(body_of(GRAPH, {}, ["2"], None)["workflow"]) == ["1", "2"]


def test_ids_of_a_job_are_the_same_each_time_and_differ_by_purpose() -> None:
    assert id_by_mark("m", "label") == id_by_mark("m", "label") != id_by_mark("m", "attempt")


@pytest.mark.parametrize(
    ("status", "code", "type_"),
    [
        (401, "unauthorized", "DEPLOYMENT_KEY_REFUSED"),
        (402, "insufficient_credits", "DEPLOYMENT_CREDITS"),
        (403, "forbidden", "DEPLOYMENT_ACCESS_REFUSED"),
        (422, "deployment_stopped", "DEPLOYMENT_STOPPED"),
        (429, "deployment_not_ready", "DEPLOYMENT_STARTING"),
        (429, "queue_full", "DEPLOYMENT_BUSY"),
    ],
)
def test_refusals_by_code(status: int, code: str, type_: str) -> None:
    body: Any = refusal_of(status, {"error": {"code": code, "message": "x"}})
    assert body["error"]["type"] == type_


@pytest.mark.parametrize("body", ["Unauthorized", {}, {"error": "x"}])
def test_refusals_by_status(body: object) -> None:
    found: Any = refusal_of(401, body)
    assert found["error"]["type"] == "DEPLOYMENT_KEY_REFUSED"


@pytest.mark.parametrize(
    ("sent", "status", "answer"),
    [case for case in answers_of("03_validation_error", "POST", "/api/v2/jobs") if case[1] == 422],
)
def test_recorded_refusals_are_refusals_of_comfyui(sent: Any, status: int, answer: Any) -> None:
    found: Any = refusal_of(status, answer)
    assert found["error"]["message"]
    errors = found.get("node_errors", {})
    assert all(about["errors"] for about in errors.values())


def test_documented_node_errors_are_read_too() -> None:
    details = {"node_errors": {"12": [{"field": "steps", "reason": "too small"}]}}
    body = {"error": {"code": "invalid_workflow", "message": "bad", "details": details}}
    found: Any = refusal_of(422, body)
    (error,) = found["node_errors"]["12"]["errors"]
    assert (error["message"], error["details"]) == ("too small", "steps")


@pytest.mark.parametrize("ran", [float("nan"), float("inf"), -1, 1e300, "1", None])
def test_a_time_that_no_run_has_taken_is_unknown(ran: object) -> None:
    assert snapshot(job(started_at=AT, metrics={"execution_ms": ran})).end_time is None


def test_a_running_node_that_is_no_text_is_ignored() -> None:
    run = RunObserver("c", GRAPH)
    run.frame("progress", {"current_node": "1"})
    run.frame("output", output())
    assert run.frame("progress", {"current_node": [1, 0]}) == []
