"""What the routes of jobs take, and what they refuse with a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from proxy.api.jobs import is_job_id, parse_prompt
from proxy.api.request_bodies import MAX_VALUES
from proxy.jobs.models import JobRequest
from proxy.jobs.service import JobQuery
from proxy.members import tokens
from proxy.translate.errors import LocalError

GRAPH = {"1": {"class_type": "EmptyImage", "inputs": {}}}
ID = "519f1788-dc9f-5349-9304-8e6ab31da2a1"


def accept(**body: Any) -> JobRequest:
    return parse_prompt({"prompt": GRAPH, **body})


def refusal(body: object) -> LocalError:
    with pytest.raises(LocalError) as caught:
        parse_prompt(body)
    assert caught.value.kind == "invalid"
    return caught.value


def test_a_graph_alone_is_enough() -> None:
    assert accept() == JobRequest(graph=GRAPH)


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


def test_without_a_prompt_id_one_is_to_be_made() -> None:
    assert accept(prompt_id=None).prompt_id is None


@pytest.mark.parametrize(
    "prompt_id", ["", "my prompt", ID.upper(), ID.replace("-", ""), f"{{{ID}}}", 17, ["x"], True]
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
    parse_prompt(body, "tool")
    assert body["extra_data"] == {}


@pytest.mark.parametrize("key", ["api_key_comfy_org", "auth_token_comfy_org"])
def test_a_token_of_the_proxy_is_no_key_for_partner_nodes(key: str) -> None:
    token, _ = tokens.make("anna", created=0, expires=None)
    assert accept(extra_data={key: token}).extra_data == {}
    assert accept(extra_data={"note": token}).extra_data == {"note": token}


@pytest.mark.parametrize("value", ["comfyui-1234", "ccp_short", None, 1])
def test_other_keys_for_partner_nodes_are_kept(value: object) -> None:
    extra_data = {"api_key_comfy_org": value}
    assert accept(extra_data=extra_data).extra_data == extra_data


def test_the_usage_source_is_kept_unless_the_client_names_one() -> None:
    assert parse_prompt({"prompt": GRAPH}, "tool").extra_data == {"comfy_usage_source": "tool"}
    own = {"comfy_usage_source": "mine"}
    assert parse_prompt({"prompt": GRAPH, "extra_data": own}, "tool").extra_data == own


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


Client = TestClient[Any, Any]

GRAPH = {"1": {"class_type": "EmptyImage", "inputs": {}}}
ID = "519f1788-dc9f-5349-9304-8e6ab31da2a1"


async def test_the_answer_has_the_three_keys(client: Client) -> None:
    response = await client.post("/prompt", json={"prompt": GRAPH, "prompt_id": ID, "number": 7})
    assert await response.text() == f'{{"prompt_id": "{ID}", "number": 7.0, "node_errors": {{}}}}'


async def test_the_job_is_released_when_its_answer_is_out(
    client: Client, room_of_jobs: Any
) -> None:
    await client.post("/prompt", json={"prompt": GRAPH, "prompt_id": ID})
    assert [entry[0] for entry in room_of_jobs.asked] == ["submit", "release"]


async def test_a_refused_job_is_not_released(client: Client, room_of_jobs: Any) -> None:
    room_of_jobs.refusal = LocalError("prompt_no_outputs", "Prompt has no outputs")
    response = await client.post("/prompt", json={"prompt": GRAPH})
    assert (response.status, len(room_of_jobs.asked)) == (400, 1)


async def test_the_usage_source_comes_as_a_header(client: Client, room_of_jobs: Any) -> None:
    await client.post("/prompt", json={"prompt": GRAPH}, headers={"Comfy-Usage-Source": "tool"})
    assert room_of_jobs.asked[0][2].extra_data == {"comfy_usage_source": "tool"}


async def test_the_queue_is_sent_as_it_is_kept(client: Client) -> None:
    response = await client.get("/api/queue")
    assert await response.text() == '{"queue_running": [], "queue_pending": []}'
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({}, []),
        ([], []),
        ({"clear": False}, []),
        ({"clear": True}, [("clear pending",)]),
        ({"delete": [ID, "x"]}, [("delete pending", ID, "x")]),
        ({"clear": True, "delete": [ID]}, [("clear pending",), ("delete pending", ID)]),
        ({"delete": []}, []),
        ({"delete": "abc"}, []),
        ({"delete": [[1], None, 5]}, []),
        ({"delete": {"a": 1}}, [("delete pending", "a")]),
    ],
)
async def test_waiting_jobs_are_taken_out(
    client: Client, room_of_jobs: Any, body: Any, asked: list[Any]
) -> None:
    response = await client.post("/queue", json=body)
    assert (response.status, await response.read(), room_of_jobs.asked) == (200, b"", asked)
    assert "Content-Type" not in response.headers


@pytest.mark.parametrize("path", ["/queue", "/history"])
@pytest.mark.parametrize("delete", [None, 5, True])
async def test_a_delete_that_is_no_list_is_refused(
    client: Client, path: str, delete: object
) -> None:
    response = await client.post(path, json={"delete": delete})
    assert (response.status, (await response.json())["error"]["type"]) == (400, "invalid_delete")


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b"", [("interrupt", None)]),
        (b"{oops", [("interrupt", None)]),
        (b"{}", [("interrupt", None)]),
        (b'{"prompt_id": ""}', [("interrupt", None)]),
        (b'{"prompt_id": null}', [("interrupt", None)]),
        (b'{"prompt_id": "x"}', [("interrupt", "x")]),
        (b'{"prompt_id": 5}', []),
        (b'{"prompt_id": ["x"]}', []),
    ],
)
async def test_an_interrupt_is_global_unless_it_names_a_job(
    client: Client, room_of_jobs: Any, body: bytes, asked: list[Any]
) -> None:
    response = await client.post("/interrupt", data=body)
    assert (response.status, await response.read(), room_of_jobs.asked) == (200, b"", asked)


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"x"', b"\xff"])
async def test_an_interrupt_of_another_kind_interrupts_nothing(
    client: Client, room_of_jobs: Any, body: bytes
) -> None:
    response = await client.post("/interrupt", data=body)
    assert (response.status, room_of_jobs.asked) == (400, [])


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("", (None, None)),
        ("?max_items=2", (2, None)),
        ("?max_items=%201%20&offset=-1", (1, -1)),
        ("?max_items=2&max_items=3", (2, None)),
    ],
)
async def test_the_history_is_asked_in_numbers(
    client: Client, room_of_jobs: Any, query: str, asked: Any
) -> None:
    assert (await client.get(f"/history{query}")).status == 200
    assert room_of_jobs.asked == [("history", *asked)]


@pytest.mark.parametrize("query", ["max_items=", "max_items=abc", "offset=1.5"])
async def test_a_history_in_other_numbers_is_400(client: Client, query: str) -> None:
    response = await client.get(f"/history?{query}")
    assert response.status == 400
    assert (await response.json())["error"]["message"].endswith("must be an integer.")


@pytest.mark.parametrize("path", ["a%2Fb", "my%20prompt", "%E4%B8%96"])
async def test_an_odd_id_is_looked_up_and_unknown(
    client: Client, room_of_jobs: Any, path: str
) -> None:
    response = await client.get(f"/history/{path}")
    assert (response.status, await response.text()) == (200, "{}")
    assert room_of_jobs.asked[0][1] in ("a/b", "my prompt", "世")


async def test_history_entries_are_forgotten(client: Client, room_of_jobs: Any) -> None:
    response = await client.post("/history", json={"clear": True, "delete": [ID]})
    assert (response.status, await response.read()) == (200, b"")
    assert room_of_jobs.asked == [("clear history",), ("delete history", ID)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", JobQuery()),
        ("status=", JobQuery()),
        ("status=,", JobQuery()),
        (
            "status=Pending, FAILED,",
            JobQuery(statuses=frozenset({"pending", "failed"})),
        ),
        ("workflow_id=w", JobQuery(workflow_id="w")),
        (
            "sort_by=EXECUTION_DURATION&sort_order=ASC",
            JobQuery(sort_by="execution_duration", descending=False),
        ),
        ("limit=200&offset=0", JobQuery(limit=200)),
        ("offset=-4", JobQuery()),
        ("limit=100000000000000000000", JobQuery(limit=10**20)),
    ],
)
async def test_jobs_are_asked_for(
    client: Client, room_of_jobs: Any, query: str, expected: JobQuery
) -> None:
    assert (await client.get(f"/api/jobs?{query}")).status == 200
    assert room_of_jobs.asked == [("list", expected)]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "status=x,pending,y",
            "Invalid status value(s): x, y. "
            "Valid values: pending, in_progress, completed, failed, cancelled",
        ),
        ("sort_by=name", "sort_by must be 'created_at' or 'execution_duration'"),
        ("sort_order=up", "sort_order must be 'asc' or 'desc'"),
        ("limit=0", "limit must be a positive integer"),
        ("limit=-1", "limit must be a positive integer"),
        ("limit=", "limit must be an integer"),
        ("offset=x", "offset must be an integer"),
    ],
)
async def test_a_bad_question_for_jobs_is_answered_in_comfyuis_words(
    client: Client, query: str, message: str
) -> None:
    response = await client.get(f"/api/jobs?{query}")
    assert (response.status, await response.json()) == (400, {"error": message})


async def test_jobs_have_no_bare_route_but_a_doubled_one(client: Client) -> None:
    assert (await client.get("/jobs")).status == 404
    assert (await client.get("/api/api/jobs")).status == 200


async def test_one_job_or_none(client: Client, room_of_jobs: Any) -> None:
    room_of_jobs.jobs[ID] = {"id": ID}
    sent = {"prompt": {}, "extra_data": {}}
    assert await (await client.get(f"/api/jobs/{ID}")).json() == {"id": ID, "workflow": sent}
    missing = await client.get("/api/jobs/x")
    assert (missing.status, await missing.json()) == (404, {"error": "Job not found"})


@pytest.mark.parametrize(("job", "cancelled"), [(ID, True), ("x", False)])
async def test_a_job_is_cancelled_or_was_not_there(
    client: Client, room_of_jobs: Any, job: str, cancelled: bool
) -> None:
    room_of_jobs.jobs[ID] = {}
    response = await client.post(f"/api/jobs/{job}/cancel")
    assert (response.status, await response.json()) == (200, {"cancelled": cancelled})


async def test_many_jobs_are_cancelled_as_far_as_they_are_there(
    client: Client, room_of_jobs: Any
) -> None:
    other = "00000000-0000-4000-8000-000000000000"
    room_of_jobs.jobs[ID] = {}
    response = await client.post("/api/jobs/cancel", json={"job_ids": [other, ID, ID]})
    assert await response.json() == {"cancelled": True}
    assert room_of_jobs.asked == [("cancel", other), ("cancel", ID)]
    nobody = await client.post("/api/jobs/cancel", json={"job_ids": []})
    assert await nobody.json() == {"cancelled": False}


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b"{oops", {"error": "Request body must be valid JSON"}),
        (b"", {"error": "Request body must be valid JSON"}),
        (b"[]", {"error": "job_ids must be a list"}),
        (b'{"job_ids": "x"}', {"error": "job_ids must be a list"}),
        (
            b'{"job_ids": ["x", 5, {"a": 1}]}',
            {
                "error": "job_ids contains invalid id(s)",
                "invalid_ids": ["x", "5", "{'a': 1}"],
            },
        ),
    ],
)
async def test_a_bad_list_to_cancel_cancels_nothing(
    client: Client, room_of_jobs: Any, body: bytes, answer: Any
) -> None:
    response = await client.post("/api/jobs/cancel", data=body)
    assert (response.status, await response.json(), room_of_jobs.asked) == (400, answer, [])


async def test_a_list_to_cancel_that_is_too_long_is_refused(
    client: Client, room_of_jobs: Any
) -> None:
    body = b'{"job_ids": [' + b"1," * MAX_VALUES + b"1]}"
    response = await client.post("/api/jobs/cancel", data=body)
    answer = await response.json()
    assert (response.status, answer["error"]["type"]) == (413, "too_many_values")
    assert room_of_jobs.asked == []
