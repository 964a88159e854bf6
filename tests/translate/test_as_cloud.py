"""Jobs in the cloud's forms."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from proxy.translate import as_cloud
from proxy.translate.as_cloud import OutputFile

JOB = {"id": "p", "status": "pending", "create_time": 1795527685850}
ENTRY: dict[str, Any] = {
    "prompt": [
        5,
        "p",
        {"1": {"class_type": "SaveImage"}},
        {"client_id": "a", "extra_pnginfo": {"workflow": {"id": "w"}, "other": 1}},
        ["1"],
    ],
    "outputs": {"1": {"images": [{"filename": "x.png", "subfolder": "", "type": "output"}]}},
    "status": {"status_str": "success", "completed": True, "messages": []},
    "meta": {"1": {"node_id": "1"}},
}


def test_a_waiting_job_was_last_changed_when_it_was_made() -> None:
    assert as_cloud.status(JOB) == {
        "id": "p",
        "status": "pending",
        "created_at": "2026-11-24T13:41:25.850000Z",
        "updated_at": "2026-11-24T13:41:25.850000Z",
    }


@pytest.mark.parametrize("status", ["in_progress", "completed", "cancelled"])
def test_the_latest_time_is_that_of_the_last_change(status: str) -> None:
    times = {"execution_start_time": 1795527685851, "execution_end_time": 1795527686000}
    answer = as_cloud.status({**JOB, **times, "status": status})
    assert answer["status"] == status
    assert datetime.fromisoformat(answer["updated_at"]).timestamp() == 1795527686.0
    assert "error_message" not in answer


def test_a_failure_is_a_json_text_with_the_clouds_fields() -> None:
    failure = {"prompt_id": "p", "node_id": "1", "exception_message": "boom\n", "timestamp": 1}
    answer = as_cloud.status({**JOB, "status": "failed", "execution_error": failure})
    message = json.loads(answer["error_message"])
    assert (message["node_id"], message["exception_message"]) == ("1", "boom\n")
    assert message.keys() >= {"node_type", "exception_type", "traceback", "current_inputs"}
    assert "timestamp" not in message


def test_a_failure_without_reason_has_a_message_too() -> None:
    assert "error_message" in as_cloud.status({**JOB, "status": "failed"})


def test_an_item_of_the_history_is_light() -> None:
    item = as_cloud.history_item({**JOB, "workflow_id": "w"}, ENTRY)
    assert item["prompt"] == {
        "priority": 5,
        "prompt_id": "p",
        "extra_data": {"client_id": "a", "extra_pnginfo": {"other": 1}},
    }
    assert (item["prompt_id"], item["create_time"], item["workflow_id"]) == (
        "p",
        JOB["create_time"],
        "w",
    )
    assert [item[key] for key in ("outputs", "status", "meta")] == [
        ENTRY[key] for key in ("outputs", "status", "meta")
    ]


def test_the_detail_has_the_graph_by_name() -> None:
    detail = as_cloud.history_detail(ENTRY)
    assert detail["prompt"]["prompt"] == {"1": {"class_type": "SaveImage"}}
    assert detail["prompt"]["outputs_to_execute"] == ["1"]
    assert detail["outputs"] == ENTRY["outputs"]


def test_files_are_found_under_every_key_and_other_values_left_out() -> None:
    item = {"filename": "x.png", "subfolder": "s", "type": "temp"}
    outputs = {
        "1": {"text": ["a", 1], "animated": [True], "gifs": [item]},
        "2": {"images": [{"filename": "y.png"}, {"filename": 5}, None], "odd": "text"},
        "3": None,
    }
    assert list(as_cloud.output_files(outputs)) == [
        OutputFile("1", "gifs", 0, "x.png", "s", "temp"),
        OutputFile("2", "images", 0, "y.png", "", "output"),
    ]


def test_an_asset_tells_where_it_is() -> None:
    file = OutputFile("1", "images", 0, "a b.png", "s", "output")
    asset = as_cloud.asset(
        "p", file, hash_="ab", size=3, media_type="image/png", modified=1795527685.0
    )
    assert asset["hash"] == "blake3:ab"
    assert asset["preview_url"] == "/api/view?filename=a+b.png&subfolder=s&type=output"
    assert asset["created_at"] == "2026-11-24T13:41:25Z"
    assert (asset["node_id"], asset["output_key"], asset["output_index"]) == ("1", "images", 0)
    again = as_cloud.asset("p", file, hash_=None, size=None, media_type="x", modified=0.0)
    assert (again["id"], again["hash"]) == (asset["id"], None)
