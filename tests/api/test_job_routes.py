"""`/prompt`, `/queue`, `/interrupt`, `/history` and `/api/jobs` on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from proxy.jobs.listing import JobQuery
from proxy.translate.errors import LocalError

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
    room_of_jobs.refusal = LocalError(400, "prompt_no_outputs", "Prompt has no outputs")
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
        ({"delete": "abc"}, [("delete pending", "a", "b", "c")]),
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
    assert await (await client.get(f"/api/jobs/{ID}")).json() == {"id": ID}
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
