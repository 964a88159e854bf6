"""What of a submission goes into the messages about the job."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.translate import events, frames, workflow_metadata
from proxy.translate.events import Event, NodeText, Preview

#: Objects of 256 and 257 characters of JSON.
LONGEST = {"a": "x" * 247}
TOO_LONG = {"a": "x" * 248}


def of(body: dict[str, Any], extra_data: dict[str, Any] | None = None) -> dict[str, Any]:
    placed = workflow_metadata.placed(extra_data or {}, body)
    return workflow_metadata.of_job(placed, workflow_metadata.workflow_id_of(placed))


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"tab": 1}, {"tab": 1}),
        ({}, {}),
        (LONGEST, LONGEST),
        (TOO_LONG, {}),
        ({"a": "\u00fc" * 41}, {"a": "\u00fc" * 41}),
        ({"a": "\u00fc" * 42}, {}),
        ({"a": [1, 2]}, {"a": [1, 2]}),
        ({"a": list(range(100))}, {}),
        ({"a": 10**5000}, {}),
        ("text", {}),
        (7, {}),
        ([], {}),
        (None, {}),
        (True, {}),
    ],
)
def test_an_object_of_at_most_256_characters_is_valid(
    metadata: object, expected: dict[str, Any]
) -> None:
    assert of({"workflow_metadata": metadata}) == expected


def pnginfo(id_: object) -> dict[str, Any]:
    return {"extra_pnginfo": {"workflow": {"id": id_}}}


@pytest.mark.parametrize(
    ("body", "extra_data", "expected"),
    [
        ({}, pnginfo("w"), {"workflow_id": "w"}),
        ({"workflow_metadata": {}}, pnginfo("w"), {}),
        ({"workflow_metadata": TOO_LONG}, pnginfo("w"), {"workflow_id": "w"}),
        ({"workflow_metadata": {"tab": 1}}, pnginfo("w"), {"tab": 1}),
        ({}, pnginfo(""), {}),
        ({}, pnginfo(7), {}),
        ({}, pnginfo("w" * 237), {"workflow_id": "w" * 237}),
        ({}, pnginfo("w" * 238), {}),
        ({}, {"extra_pnginfo": []}, {}),
        ({}, {"extra_pnginfo": {"workflow": "w"}}, {}),
        ({}, {"workflow_metadata": {"tab": 1}}, {}),
        ({"workflow_metadata": {"tab": 1}}, {"workflow_metadata": {"tab": 2}}, {"tab": 1}),
    ],
)
def test_the_id_of_the_workflow_stands_in_for_it(
    body: dict[str, Any], extra_data: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert of(body, extra_data) == expected


def test_the_fields_of_a_message_win() -> None:
    metadata = {"node": "x", "prompt_id": "y", "tab": 1}
    event = events.with_metadata(Event("executing", {"node": None, "prompt_id": "p"}), metadata)
    assert event == Event("executing", {"node": None, "prompt_id": "p", "tab": 1})


def test_a_message_without_the_id_of_a_job_gets_none() -> None:
    status, text = events.status(1), NodeText("1", "text")
    assert events.with_metadata(status, {"tab": 1}) == status
    assert events.with_metadata(text, {"tab": 1}) is text


def test_a_preview_has_it_in_type_4_alone() -> None:
    plain = Preview("p", "1", "1", None, "1", b"\xff\xd8", "image/jpeg")
    event = events.with_metadata(plain, {"tab": 1, "node_id": "x"})
    assert isinstance(event, Preview)
    frame = frames.encode_preview(event, metadata=True) or b""
    length = int.from_bytes(frame[4:8], "big")
    assert frame[8 + length :] == b"\xff\xd8"
    assert b'"tab": 1' in frame[8 : 8 + length]
    assert b'"node_id": "1"' in frame[8 : 8 + length]
    assert frames.encode_preview(event, metadata=False) == frames.encode_preview(
        plain, metadata=False
    )
    assert events.unpacked(events.packed(event)) == event


def test_what_the_cloud_adds_is_taken_out() -> None:
    data = {"node": "1", "prompt_id": "p", "workflow_id": "cloud"}
    assert events.without_additions(data) == {"node": "1", "prompt_id": "p"}
