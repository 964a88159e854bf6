"""What the cloud says of a job, in every form in which it may say it; the shape of outputs."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.translate import snapshot
from proxy.translate.snapshot import STATUSES, Snapshot, from_job, milliseconds


@pytest.mark.parametrize(
    ("raw", "status", "settled"),
    [
        ("pending", "pending", False),
        ("queued_limited", "pending", False),
        ("in_progress", "in_progress", False),
        ("executed", "in_progress", False),
        ("something new", "in_progress", False),
        ("completed", "completed", True),
        ("success", "completed", True),
        ("lost", "failed", True),
        ("non_retryable_error", "failed", True),
        ("erroring", "failed", False),
        ("failed", "failed", False),
        ("cancel_requested", "cancelled", False),
        ("cancelled", "cancelled", True),
    ],
)
def test_statuses(raw: str, status: str, settled: bool) -> None:
    snapshot = from_job({"id": "a", "status": raw})
    assert (snapshot.status, snapshot.settled) == (status, settled)


def test_a_friendly_failure_is_final_with_its_end_time() -> None:
    assert from_job({"id": "a", "status": "failed", "execution_end_time": 2e12}).settled


def test_a_cancelled_run_is_final_with_its_end_time() -> None:
    begun = {"id": "a", "status": "cancelled", "execution_start_time": 1.7e12}
    assert not from_job(begun).settled
    assert from_job({**begun, "execution_end_time": 1.8e12}).settled


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (1795527685, 1795527685000),
        (1795527685850, 1795527685850),
        (None, None),
        ("x", None),
        (float("nan"), None),
        (float("inf"), None),
        (-float("inf"), None),
        (-1, None),
        (1e300, None),
        (10**400, None),
    ],
)
def test_times_are_told_apart_by_size(value: object, ms: int | None) -> None:
    assert milliseconds(value) == ms


def test_an_error_may_be_an_object_or_a_json_string() -> None:
    error = {"node_id": "3", "exception_message": "boom"}
    as_object = from_job({"id": "a", "status": "failed", "execution_error": error})
    as_string = from_job(
        {
            "id": "a",
            "status": "failed",
            "error_message": '{"node_id":"3","exception_message":"boom"}',
        }
    )
    assert as_object.execution_error == as_string.execution_error == error


def test_an_error_may_be_plain_text() -> None:
    snapshot = from_job({"id": "a", "status": "error", "error_message": "worker died"})
    assert snapshot.execution_error == {"exception_message": "worker died"}


def test_a_list_entry_has_no_outputs() -> None:
    assert from_job({"id": "a", "status": "completed"}).outputs is None
    assert from_job({"id": "a", "status": "completed", "outputs": {}}).outputs == {}


def test_the_marks_of_a_submission_are_read() -> None:
    job = {"id": "a", "status": "pending", "workflow": {"prompt": {}, "extra_data": {"m": 1}}}
    assert from_job(job).extra_data == {"m": 1}


def test_every_status_has_one_of_five_names() -> None:
    assert set(STATUSES.values()) == {
        "pending",
        "in_progress",
        "completed",
        "failed",
        "cancelled",
    }


@pytest.mark.parametrize(
    ("start_time", "end_time", "ended_at"),
    [
        (None, None, 5_000),
        (None, 4_500, 4_500),
        (None, 500, 1_000),
        (90_000, 92_500, 3_500),
        (90_000, 80_000, 1_000),
    ],
)
def test_a_run_that_was_told_from_1000_on_ends_by_the_clouds_clock(
    start_time: int | None, end_time: int | None, ended_at: int
) -> None:
    seen = Snapshot("c", "completed", True, start_time=start_time, end_time=end_time)
    assert seen.ended_at(1_000, 5_000) == ended_at


def test_of_the_workers_messages_only_readable_ones_are_found() -> None:
    messages = [None, ["execution_error"], ["execution_error", 3], ["execution_error", {"a": 1}]]
    seen = Snapshot("c", "failed", True, execution_status={"messages": messages})
    assert seen.message("execution_error") == {"a": 1}
    assert seen.message("execution_success") is None
    assert Snapshot("c", "failed", True, execution_status={"messages": 7}).message("x") is None


def item(filename: str, **more: Any) -> dict[str, Any]:
    return {"filename": filename, "subfolder": "", "type": "output", **more}


A, B = item("a.mp4"), item("b.mp4")


@pytest.mark.parametrize(
    ("cloud", "local"),
    [
        ({"images": [A]}, {"images": [A]}),
        ({"gifs": [A], "text": ["x"]}, {"gifs": [A], "text": ["x"]}),
        ({"videos": [A]}, {"videos": [A]}),
        ({"video": [A]}, {"images": [A], "animated": [True]}),
        ({"video": [A], "videos": [A]}, {"images": [A], "animated": [True]}),
        ({"video": [A], "videos": [A, B]}, {"images": [A], "animated": [True], "videos": [B]}),
        ({"video": [A], "images": [A]}, {"images": [A], "animated": [True]}),
        (
            {"images": [A], "animated": [False], "video": [A]},
            {"images": [A], "animated": [False]},
        ),
        ({"video": [A], "gifs": [A]}, {"gifs": [A]}),
        ({"video": [A, B], "gifs": [A]}, {"gifs": [A], "images": [B], "animated": [True]}),
        ({"video": ["text"]}, {"video": ["text"]}),
        ({"video": "text"}, {"video": "text"}),
        ({}, {}),
    ],
)
def test_videos_are_where_core_comfyui_has_them(cloud: dict[str, Any], local: Any) -> None:
    assert snapshot.with_core_keys(cloud) == local


def test_equal_pictures_of_a_batch_stay() -> None:
    assert snapshot.with_core_keys({"images": [A, A]}) == {"images": [A, A]}


def test_files_are_the_items_with_a_filename() -> None:
    output = {"images": [A, "x", {"filename": 3}], "text": "y", "any": [None, B]}
    assert list(snapshot.files(output)) == [("images", 0, A), ("any", 1, B)]


def test_what_only_the_cloud_says_is_left_out_and_a_packs_own_fields_stay() -> None:
    cloud = {
        "display_name": "x.png",
        "format": "video/h264-mp4",
        "frame_rate": 8.0,
        "filename": "hash",
        "hash": "blake3:1",
        "id": "asset",
        "link": "https://storage/x?signature=1",
        "preview_url": "/api/view",
    }
    assert snapshot.own_fields(cloud) == {"format": "video/h264-mp4", "frame_rate": 8.0}


@pytest.mark.parametrize(
    ("stated", "class_type", "type_"),
    [
        ("output", "SaveImage", "output"),
        ("temp", "SaveImage", "temp"),
        ("output", "PreviewImage", "temp"),
        (None, "PreviewImage", "temp"),
        (None, "SaveImage", "output"),
        ("bucket", "Unknown", "output"),
        ("input", "PreviewImage", "input"),
    ],
)
def test_the_folder_of_an_output(stated: str | None, class_type: str, type_: str) -> None:
    assert snapshot.output_type({"type": stated}, {"class_type": class_type}) == type_
    assert snapshot.output_type({"type": "temp"}, None) == "temp"


@pytest.mark.parametrize(
    ("node", "prefix"),
    [
        ({"inputs": {"filename_prefix": "a/b"}}, "a/b"),
        ({"inputs": {"filename_prefix": {"__value__": "c"}}}, "c"),
        ({"inputs": {"filename_prefix": ["3", 0]}}, None),
        ({"inputs": {}}, None),
        ({"inputs": None}, None),
        (None, None),
    ],
)
def test_the_prefix_of_a_node(node: Any, prefix: str | None) -> None:
    assert snapshot.filename_prefix(node) == prefix


@pytest.mark.parametrize(
    ("name", "key", "class_type", "extension"),
    [
        ("x.PNG", "images", "SaveImage", ".png"),
        ("x", "images", "SaveImage", ".png"),
        ("x", "images", "SaveVideo", ".mp4"),
        ("x", "images", "SaveAnimatedWEBP", ".webp"),
        ("x", "audio", "SaveAudio", ".flac"),
        ("x", "3d", "SaveGLB", ".glb"),
    ],
)
def test_a_name_without_extension_gets_that_of_its_node(
    name: str, key: str, class_type: str, extension: str
) -> None:
    assert snapshot.extension(name, key, {"class_type": class_type}) == extension
    assert snapshot.extension("x", "images", None) == ".png"
