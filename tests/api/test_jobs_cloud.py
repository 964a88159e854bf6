"""What only Comfy Cloud has, on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from proxy.jobs.service import JobQuery

Client = TestClient[Any, Any]

ID = "519f1788-dc9f-5349-9304-8e6ab31da2a1"
JOB = {"id": ID, "status": "completed", "create_time": 1795527685850}


@pytest.fixture(autouse=True)
def _job(room_of_jobs: Any) -> None:
    room_of_jobs.jobs[ID] = JOB


async def test_who_is_asking_is_active(client: Client) -> None:
    assert await (await client.get("/api/user")).json() == {"id": "local", "status": "active"}


async def test_the_status_of_a_job(client: Client) -> None:
    answer = await (await client.get(f"/api/job/{ID}/status")).json()
    assert (answer["id"], answer["status"]) == (ID, "completed")


@pytest.mark.parametrize("path", ["/api/job/x/status", "/api/jobs/x/assets", "/api/history_v2/x"])
async def test_what_is_unknown_is_404_in_the_clouds_form(client: Client, path: str) -> None:
    answer = await client.get(path)
    body = await answer.json()
    assert (answer.status, body["code"], body.keys()) == (404, "NOT_FOUND", {"code", "message"})


@pytest.mark.parametrize("path", ["/user", f"/job/{ID}/status", "/history_v2"])
async def test_the_clouds_routes_are_below_api_alone(client: Client, path: str) -> None:
    assert (await client.get(path)).status == 404


async def test_the_history_is_asked_for_in_pages(client: Client, room_of_jobs: Any) -> None:
    answer = await client.get("/api/history_v2?max_items=3&offset=1")
    assert await answer.json() == {"history": []}
    statuses = frozenset({"completed", "failed", "cancelled"})
    assert room_of_jobs.asked == [("list", JobQuery(statuses=statuses, limit=3, offset=1))]


async def test_no_items_are_none(client: Client) -> None:
    assert await (await client.get("/api/history_v2?max_items=0")).json() == {"history": []}


@pytest.mark.parametrize(
    "path",
    [
        "/api/history_v2?max_items=-1",
        "/api/history_v2?offset=x",
        f"/api/jobs/{ID}/assets?limit=0",
        f"/api/jobs/{ID}/assets?limit=501",
        f"/api/jobs/{ID}/assets?offset=-1",
    ],
)
async def test_odd_numbers_are_400_in_the_clouds_form(client: Client, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status, (await answer.json())["code"]) == (400, "BAD_REQUEST")


async def test_a_jobs_files_come_in_pages(
    client: Client, room_of_jobs: Any, room_of_files: Any
) -> None:
    names = [f"{n}.png" for n in range(3)]
    for name in names:
        room_of_files.add(name)
    items = [{"filename": name, "subfolder": "", "type": "output"} for name in (*names, "gone")]
    room_of_jobs.jobs[ID] = {**JOB, "outputs": {"9": {"images": items}}}
    page = await (await client.get(f"/api/jobs/{ID}/assets?limit=2&offset=1")).json()
    assert [asset["name"] for asset in page["assets"]] == ["1.png", "2.png"]
    assert page["job_id"] == ID
    assert page["pagination"] == {"offset": 1, "limit": 2, "total": 3, "has_more": False}
    assert page["assets"][0].keys() == {
        *("id", "name", "hash", "size", "mime_type", "preview_url", "created_at"),
        *("node_id", "output_key", "output_index"),
    }


async def test_a_job_that_has_not_ended_has_no_files(client: Client) -> None:
    assert (await (await client.get(f"/api/jobs/{ID}/assets")).json())["assets"] == []
