"""What `POST /prompt` takes, and what it refuses with a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.api.prompt import is_job_id, parse
from proxy.jobs.request import Request
from proxy.translate.errors import LocalError

GRAPH = {"1": {"class_type": "EmptyImage", "inputs": {}}}
ID = "519f1788-dc9f-5349-9304-8e6ab31da2a1"


def accept(**body: Any) -> Request:
    return parse({"prompt": GRAPH, **body})


def refusal(body: object) -> LocalError:
    with pytest.raises(LocalError) as caught:
        parse(body)
    assert caught.value.status == 400
    return caught.value


def test_a_graph_alone_is_enough() -> None:
    assert accept() == Request(graph=GRAPH)


@pytest.mark.parametrize("body", [{}, {"client_id": "a"}, []])
def test_no_prompt_is_refused_in_comfyuis_words(body: object) -> None:
    assert refusal(body).body() == {
        "error": {
            "type": "no_prompt",
            "message": "No prompt provided",
            "details": "No prompt provided",
            "extra_info": {},
        },
        "node_errors": {},
    }


@pytest.mark.parametrize("body", [None, 5, "prompt", True, [1]])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    assert refusal(body).type == "invalid_body"


@pytest.mark.parametrize("graph", [None, [], "x", float("nan"), 5])
def test_a_graph_that_is_no_object_is_refused(graph: object) -> None:
    assert refusal({"prompt": graph}).type == "invalid_prompt"


@pytest.mark.parametrize("node", [None, [], "x", 5])
def test_a_node_that_is_no_object_is_named(node: object) -> None:
    assert refusal({"prompt": {"7": node}}).details == "Node ID '#7'"


@pytest.mark.parametrize(
    ("number", "expected"),
    [(5, 5.0), (-3.5, -3.5), ("7", 7.0), (" 5 ", 5.0), ("1_000", 1000.0), (True, 1.0), (0, 0.0)],
)
def test_a_number_becomes_a_float(number: object, expected: float) -> None:
    found = accept(number=number).number
    assert found == expected
    assert type(found) is float


@pytest.mark.parametrize(
    "number", [None, [], {}, "abc", "", "nan", "inf", "-inf", "1e400", float("nan"), 10**400]
)
def test_a_number_that_is_none_or_endless_is_refused(number: object) -> None:
    assert refusal({"prompt": GRAPH, "number": number}).type == "invalid_number"


@pytest.mark.parametrize(("front", "expected"), [(True, True), (False, False), (None, False)])
def test_front_is_read(front: object, expected: bool) -> None:
    assert accept(front=front).front is expected


def test_a_prompt_id_of_the_client_is_kept() -> None:
    assert accept(prompt_id=ID).prompt_id == ID


@pytest.mark.parametrize("prompt_id", [None, ""])
def test_without_a_prompt_id_one_is_to_be_made(prompt_id: object) -> None:
    assert accept(prompt_id=prompt_id).prompt_id is None


@pytest.mark.parametrize(
    "prompt_id", ["my prompt", ID.upper(), ID.replace("-", ""), f"{{{ID}}}", 17, ["x"], True]
)
def test_a_prompt_id_that_is_no_canonical_uuid_is_refused(prompt_id: object) -> None:
    error = refusal({"prompt": GRAPH, "prompt_id": prompt_id})
    assert (error.type, error.message) == ("invalid_prompt_id", "prompt_id must be a valid UUID")
    assert not is_job_id(prompt_id)


def test_a_client_id_is_seen_in_the_extra_data() -> None:
    request = accept(client_id="aaa", extra_data={"x": 1})
    assert (request.client_id, request.extra_data) == ("aaa", {"x": 1, "client_id": "aaa"})


def test_the_client_id_of_the_extra_data_counts_where_there_is_no_other() -> None:
    assert accept(extra_data={"client_id": "aaa"}).client_id == "aaa"
    assert accept(client_id="bbb", extra_data={"client_id": "aaa"}).client_id == "bbb"


def test_a_client_id_of_null_is_none() -> None:
    request = accept(client_id=None)
    assert (request.client_id, request.extra_data) == (None, {"client_id": None})


@pytest.mark.parametrize("client_id", [5, 1.5, True])
def test_a_number_as_client_id_is_a_client_that_nobody_knows(client_id: object) -> None:
    request = accept(client_id=client_id)
    assert (request.client_id, request.extra_data) == ("", {"client_id": client_id})


@pytest.mark.parametrize("client_id", [[], {}, ["a"]])
def test_a_client_id_that_would_kill_comfyui_is_refused(client_id: object) -> None:
    assert refusal({"prompt": GRAPH, "client_id": client_id}).type == "invalid_client_id"
    inside = {"prompt": GRAPH, "extra_data": {"client_id": client_id}}
    assert refusal(inside).type == "invalid_client_id"


@pytest.mark.parametrize("extra_data", [None, [], "x", 5, False])
def test_extra_data_must_be_an_object(extra_data: object) -> None:
    assert refusal({"prompt": GRAPH, "extra_data": extra_data}).type == "invalid_extra_data"


def test_the_body_itself_is_left_as_it_was() -> None:
    body = {"prompt": GRAPH, "client_id": "a", "extra_data": {}}
    parse(body, "tool")
    assert body["extra_data"] == {}


def test_the_usage_source_is_kept_unless_the_client_names_one() -> None:
    assert parse({"prompt": GRAPH}, "tool").extra_data == {"comfy_usage_source": "tool"}
    own = {"comfy_usage_source": "mine"}
    assert parse({"prompt": GRAPH, "extra_data": own}, "tool").extra_data == own


def test_targets_are_read() -> None:
    assert accept(partial_execution_targets=["2"]).targets == ["2"]
    assert accept(partial_execution_targets=None).targets is None


def test_no_targets_at_all_leave_nothing_to_run() -> None:
    error = refusal({"prompt": GRAPH, "partial_execution_targets": []})
    assert (error.type, error.message) == ("prompt_no_outputs", "Prompt has no outputs")


@pytest.mark.parametrize("targets", ["2", [2], {"2": 1}, 5])
def test_targets_must_be_node_ids(targets: object) -> None:
    body = {"prompt": GRAPH, "partial_execution_targets": targets}
    assert refusal(body).type == "invalid_partial_execution_targets"


def test_a_long_value_is_not_repeated_whole() -> None:
    assert len(refusal({"prompt": GRAPH, "number": "9" * 10_000 + "x"}).details) < 100
