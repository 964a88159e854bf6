"""Cloud events in local form, and binary frames with the wire written out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.translate import events
from proxy.translate.events import CloudPicture, CloudText, NodeText, Preview


@pytest.mark.parametrize(
    "type_", ["notification", "feature_flags", "status", "logs", "asset_download", "agent_turn"]
)
def test_what_only_the_cloud_has_concerns_no_client(type_: str) -> None:
    assert events.concerns_a_job(type_, {"prompt_id": "p"}) is None


def test_an_event_concerns_the_job_it_names() -> None:
    assert events.concerns_a_job("executing", {"prompt_id": "p"}) == "p"
    assert events.concerns_a_job("executing", {}) is None


@pytest.mark.parametrize(("given", "at"), [({}, 5), ({"timestamp": 1795530047597}, 1795530047597)])
def test_a_timestamp_is_now_unless_the_cloud_gives_one(given: dict[str, int], at: int) -> None:
    assert events.timestamp(given, 5) == at


def test_a_timestamp_in_seconds_becomes_milliseconds() -> None:
    assert events.timestamp({"timestamp": 1795530047.5}, 5) == 1795530047500


def test_executing_gets_its_display_node_and_keeps_unknown_keys() -> None:
    data = events.executing({"node": 3, "prompt_id": "cloud", "more": 1}, "local")
    assert data == {"node": "3", "display_node": "3", "prompt_id": "local", "more": 1}


def test_node_state_keeps_what_was_known() -> None:
    known = {"value": 3, "max": 9, "state": "running", "prompt_id": "p"}
    assert events.node_state("4", {"class_type": "X"}, known) == {
        "value": 3,
        "max": 9,
        "state": "running",
        "node_id": "4",
        "prompt_id": "p",
        "display_node_id": "4",
        "parent_node_id": None,
        "real_node_id": "4",
    }


def error(data: dict[str, object]) -> dict[str, object]:
    return events.execution_error(
        data, prompt_id="p", node_id="2", node_types={"2": "VAEDecode"}, executed=["1"], now=9
    )


def test_an_error_without_a_node_names_the_one_that_ran() -> None:
    told = error({"exception_message": "boom"})
    assert (told["node_id"], told["node_type"], told["executed"]) == ("2", "VAEDecode", ["1"])


def test_an_error_without_any_word_still_has_every_field() -> None:
    assert error({}) == {
        "prompt_id": "p",
        "node_id": "2",
        "node_type": "VAEDecode",
        "executed": ["1"],
        "exception_message": "The run failed without a reason.",
        "exception_type": "RuntimeError",
        "traceback": [],
        "current_inputs": {},
        "current_outputs": [],
        "timestamp": 9,
    }


def test_a_traceback_in_one_piece_becomes_lines() -> None:
    assert error({"traceback": "a\nb"})["traceback"] == ["a\n", "b"]


def test_credentials_among_the_inputs_are_not_shown() -> None:
    told = error({"current_inputs": {"seed": [7], "api_key_comfy_org": ["comfyui-x"]}})
    assert told["current_inputs"] == {"seed": [7]}


def test_an_interruption_names_the_node_that_ran() -> None:
    told = events.execution_interrupted(
        {"prompt_id": "cloud"},
        prompt_id="p",
        node_id="2",
        node_types={"2": "VAEDecode"},
        executed=[],
        now=9,
    )
    assert told == {
        "prompt_id": "p",
        "node_id": "2",
        "node_type": "VAEDecode",
        "executed": [],
        "timestamp": 9,
    }


JPEG = b"\xff\xd8\xff\xe0jpeg"
PNG = b"\x89PNG\r\n\x1a\npng"
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8 "


def preview(image: bytes = JPEG, image_type: str = "image/jpeg") -> Preview:
    return Preview("id", "1.0.0.2", "1", None, "2", image, image_type)


def metadata_frame(json: bytes, image: bytes = JPEG) -> bytes:
    return b"\x00\x00\x00\x04" + len(json).to_bytes(4, "big") + json + image


def test_type_1_names_no_job() -> None:
    frame = events.parse_frame(b"\x00\x00\x00\x01\x00\x00\x00\x01" + JPEG)
    assert frame == CloudPicture(JPEG, "image/jpeg")
    assert not frame.leads


def test_type_1_is_what_its_bytes_say_not_its_number() -> None:
    frame = events.parse_frame(b"\x00\x00\x00\x01\x00\x00\x00\x01" + PNG)
    assert frame == CloudPicture(PNG, "image/png")


def test_type_4_carries_all_ids() -> None:
    json = (
        b'{"node_id": "1.0.0.2", "prompt_id": "p", "display_node_id": "1",'
        b' "parent_node_id": "1", "real_node_id": "2", "image_type": "image/jpeg"}'
    )
    frame = events.parse_frame(metadata_frame(json))
    assert frame == CloudPicture(JPEG, "image/jpeg", "p", "1.0.0.2", "1", "1", "2")
    assert frame.leads


def test_type_4_without_image_type_is_told_by_its_bytes() -> None:
    frame = events.parse_frame(metadata_frame(b'{"node_id": 7, "prompt_id": "p"}', WEBP))
    assert frame == CloudPicture(WEBP, "image/webp", "p", "7", "7", None, "7")


def test_type_3_in_the_short_form() -> None:
    data = b"\x00\x00\x00\x03\x00\x00\x00\x02" + b"12" + "grüße".encode()
    assert events.parse_frame(data) == CloudText("12", "grüße")


def test_type_3_in_the_long_form_names_the_job() -> None:
    job = b"7121851e-1054-57bd-bdfe-1bb2f96c0cf7"
    data = b"\x00\x00\x00\x03\x00\x00\x00\x24" + job + b"\x00\x00\x00\x0212text"
    assert events.parse_frame(data) == CloudText("12", "text", job.decode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x00\x01",
        b"\x00\x00\x00\x03\x00\x00\x00\x09x",
        b"\x00\x00\x00\x03\x00\x00\x00\x01\xffx",
        b"\x00\x00\x00\x04\x00\x00\x00\x02[]" + JPEG,
        b"\x00\x00\x00\x04\x00\x00\x00\x02{]" + JPEG,
        b"\x00\x00\x00\x04\x00\x00\x00\x02{}",
        b"\x00\x00\x00\x4dpack",
    ],
)
def test_broken_and_unknown_frames_are_nothing(data: bytes) -> None:
    assert events.parse_frame(data) is None


@given(st.binary(max_size=64))
def test_no_bytes_make_parsing_fail(data: bytes) -> None:
    events.parse_frame(data)


def test_a_plain_socket_gets_type_1_with_the_format() -> None:
    assert events.encode_preview(preview(), metadata=False) == (
        b"\x00\x00\x00\x01\x00\x00\x00\x01" + JPEG
    )
    assert events.encode_preview(preview(PNG, "image/png"), metadata=False) == (
        b"\x00\x00\x00\x01\x00\x00\x00\x02" + PNG
    )


def test_a_format_without_a_number_has_no_type_1() -> None:
    assert events.encode_preview(preview(WEBP, "image/webp"), metadata=False) is None


def test_a_socket_with_metadata_gets_type_4_as_comfyui_writes_it() -> None:
    about = (
        b'{"node_id": "1.0.0.2", "prompt_id": "id", "display_node_id": "1", '
        b'"parent_node_id": null, "real_node_id": "2", "image_type": "image/jpeg"}'
    )
    assert events.encode_preview(preview(), metadata=True) == metadata_frame(about)


def test_text_goes_out_in_the_short_form() -> None:
    assert events.encode_text(NodeText("12", "hi")) == b"\x00\x00\x00\x03\x00\x00\x00\x0212hi"
