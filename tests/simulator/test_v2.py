"""The newer interface of the cloud."""

from __future__ import annotations

from typing import Any

import aiohttp
import graphs
import pytest

from proxy.simulator import Simulator


async def call(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    method: str,
    path: str,
    json: Any = None,
    **headers: str,
) -> tuple[int, Any]:
    headers = headers or {"Authorization": f"Bearer {simulator.key}"}
    url = simulator.base_url / "api/v2" / path
    async with session.request(method, url, json=json, headers=headers) as answer:
        return answer.status, await answer.json() if method != "HEAD" else None


async def test_a_job_ends_with_a_list_of_outputs(
    simulator: Simulator, session: aiohttp.ClientSession
) -> None:
    body = {"workflow": graphs.plain(5)}
    status, job = await call(simulator, session, "POST", "jobs", body)
    assert (status, job["status"]) in [(201, "queued"), (201, "running")]
    await simulator.wait_for_end(job["id"])
    status, job = await call(simulator, session, "GET", f"jobs/{job['id']}")
    assert (status, job["status"]) == (200, "succeeded")
    assert [file["type"] for file in job["outputs"]] == ["output"]


async def test_a_key_is_good_for_one_submission(
    simulator: Simulator, session: aiohttp.ClientSession
) -> None:
    headers = {"Authorization": f"Bearer {simulator.key}", "Idempotency-Key": "one"}
    body = {"workflow": graphs.plain(6)}
    assert (await call(simulator, session, "POST", "jobs", body, **headers))[0] == 201
    status, answer = await call(simulator, session, "POST", "jobs", body, **headers)
    assert (status, answer["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(simulator.jobs) == 1


async def test_a_waiting_job_is_cancelled(
    simulator: Simulator, session: aiohttp.ClientSession
) -> None:
    body = {"workflow": graphs.waiting(60.0)}
    _, job = await call(simulator, session, "POST", "jobs", body)
    assert (await call(simulator, session, "POST", f"jobs/{job['id']}/cancel"))[0] == 200
    await simulator.wait_for_end(job["id"])
    _, job = await call(simulator, session, "GET", f"jobs/{job['id']}")
    assert job["status"] == "canceled"


@pytest.mark.parametrize(
    ("method", "path", "json", "status", "code"),
    [
        ("GET", "jobs/none", None, 404, "not_found"),
        ("POST", "jobs", {"workflow": {}}, 422, "invalid_workflow"),
        ("POST", "jobs", {"workflow": {"1": {"class_type": "None"}}}, 422, "invalid_workflow"),
    ],
)
async def test_refusals_have_a_code(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    method: str,
    path: str,
    json: Any,
    status: int,
    code: str,
) -> None:
    got, answer = await call(simulator, session, method, path, json)
    assert (got, answer["error"]["code"]) == (status, code)


async def test_it_takes_its_key_as_bearer_alone(
    simulator: Simulator, session: aiohttp.ClientSession
) -> None:
    headers = {"X-API-Key": simulator.key}
    assert (await call(simulator, session, "GET", "jobs/none", **headers))[0] == 401
    simulator.switches.v2 = False
    assert (await call(simulator, session, "GET", "jobs/none"))[0] == 404
