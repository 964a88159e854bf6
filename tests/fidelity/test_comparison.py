"""What the comparison with the recordings notices, and what it lets pass."""

from __future__ import annotations

import io
from typing import Any

import pytest
from fidelity.compare import Answer, Names, differences, headers, response
from fidelity.recording import Event, load
from fidelity.streams import Heard, compare, missing
from PIL import Image

JOB = "14a1c0de-0000-4000-8000-000000000001"
OTHER = "14a1c0de-0000-4000-8000-000000000002"
JSON = [["Content-Type", "application/json; charset=utf-8"], ["Content-Length", "8"]]


def status(remaining: int) -> Heard:
    return Heard("status", {"status": {"exec_info": {"queue_remaining": remaining}}})


def told(type_: str, job: str = JOB, **data: Any) -> Heard:
    return Heard(type_, {"prompt_id": job, **data})


def life(job: str = JOB) -> list[Heard]:
    return [
        told("execution_start", job),
        told("executing", job, node="1", display_node="1"),
        told("execution_success", job, timestamp=1),
        status(0),
        told("executing", job, node=None),
    ]


def answered(status: int, body: dict[str, Any], pairs: list[list[str]]) -> Event:
    reason = {200: "OK", 413: "Request Entity Too Large", 500: "Internal Server Error"}[status]
    answer = {"status": status, "reason": reason, "headers": pairs, "body": body}
    request = {"method": "GET", "path": "/x", "headers": [], "body": {"kind": "empty"}}
    return Event(0, "http", {"request": request, "response": answer})


@pytest.mark.parametrize(
    ("recorded", "actual", "difference"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, "body: + b"),
        ({"a": 1, "b": 2}, {"a": 1}, "body: - b"),
        ({"a": 1}, {"a": 1.0}, "body.a: int → float"),
        ({"a": 1}, {"a": True}, "body.a: int → bool"),
        ({"a": None}, {"a": []}, "body.a: null → list"),
        ({"a": [1]}, {"a": [1, 2]}, "body.a: 1 items → 2 items"),
        ({"a": "x"}, {"a": "y"}, "body.a: x → y"),
        ({"timestamp": 1}, {"timestamp": "1"}, "body.timestamp: int → str"),
    ],
)
def test_keys_types_and_values_count(recorded: Any, actual: Any, difference: str) -> None:
    assert differences(recorded, actual, Names(), "body") == [difference]


@pytest.mark.parametrize("reason", ["Request Entity Too Large", "Content Too Large"])
def test_413_may_be_called_as_any_python_calls_it(reason: str) -> None:
    event = answered(413, {"kind": "empty", "len": 0}, [])
    assert response(event, Answer(413, reason, [], b""), Names()) == []
    other = response(event, Answer(413, "Too Large", [], b""), Names())
    assert other == ["reason: Request Entity Too Large → Too Large"]


def test_clocks_and_the_order_of_sets_do_not_count() -> None:
    recorded = {"timestamp": 1, "executed": ["1", "2"]}
    actual = {"timestamp": 2, "executed": ["2", "1"]}
    assert not differences(recorded, actual, Names(), "body")


def test_random_names_are_known_again() -> None:
    names = Names()
    names.learn({"filename": "ComfyUI_temp_aaaaa_00001_.png"}, {"filename": "ComfyUI_temp_bbbbb_"})
    assert names.ours("/view?filename=ComfyUI_temp_aaaaa_00002_.png").endswith("bbbbb_00002_.png")


def test_a_header_more_less_or_other_counts() -> None:
    recorded = [["Allow", "GET"], ["Date", "today"], ["Etag", '"1"']]
    assert not headers(recorded, [("allow", "GET"), ("ETag", '"2"')], Names())
    assert headers(recorded, [("Allow", "POST"), ("Vary", "x")], Names()) == [
        "header allow: GET → POST",
        "header etag: etag → ",
        "header vary:  → x",
    ]


def test_json_in_another_style_counts() -> None:
    event = answered(200, {"kind": "json", "json": {"a": 1}, "len": 8}, JSON)
    pairs = [(name, value) for name, value in JSON]
    assert not response(event, Answer(200, "OK", pairs, b'{"a": 1}'), Names())
    assert response(event, Answer(200, "OK", pairs, b'{"a":1}'), Names())


def test_a_page_of_trouble_may_be_a_refusal_in_the_error_form_only() -> None:
    page = {"kind": "text", "text": "500 Internal Server Error", "len": 25}
    event = answered(500, page, [["Content-Type", "text/plain; charset=utf-8"]])
    error = b'{"error": {"type": "a", "message": "b", "details": "", "extra_info": {}}}'
    refused = response(event, Answer(400, "Bad Request", [], error), Names())
    assert refused == ["500 → 400 in the error form"]
    assert len(response(event, Answer(400, "Bad Request", [], b""), Names())) > 1


def test_the_same_messages_are_alike_however_often_a_status_is_repeated() -> None:
    actual = [status(1), status(1), *life()]
    assert not compare([status(1), *life()], actual, Names())
    assert not missing([status(1), *life()], actual, Names())


@pytest.mark.parametrize(
    ("actual", "difference"),
    [
        ([message for message in life() if message.type != "execution_start"], "messages: - 1"),
        ([*life(), told("progress", node="1", value=1, max=1)], "messages: + 1 progress"),
        ([life()[1], life()[0], *life()[2:]], "order: "),
        ([*life()[:3], life()[4], life()[3]], "ends: "),
    ],
)
def test_a_message_less_more_or_elsewhere_counts(actual: list[Heard], difference: str) -> None:
    (found,) = compare(life(), actual, Names())
    assert found.startswith(difference)


def test_runs_that_overlap_are_one_difference() -> None:
    one, other = life(), life(OTHER)
    mixed = [*one[:2], other[0], one[2], status(1), one[4], *other[1:]]
    recorded = [*one[:3], status(1), one[4], *other]
    assert compare(recorded, mixed, Names()) == ["runs overlap"]


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_pixels_count_where_no_painter_of_ours_has_made_them() -> None:
    red, blue = (Heard("binary 1", {"image_type": 2}, png(colour)) for colour in ("red", "blue"))
    assert not compare([red], [blue], Names())
    (found,) = compare([red], [blue], Names(exact=True))
    assert found.startswith("binary 1: ")
    assert not compare([red], [red], Names(exact=True))


def test_a_websocket_that_is_opened_again_is_another_one() -> None:
    opened = load("etn_krita_sequence").of("ws_open")
    assert [event.fields["ws"] for event in opened] == ["krita", "krita 2"]
