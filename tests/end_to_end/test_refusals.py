"""What a client sees while the cloud says "not now", says nothing clear, or cannot take a job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import gated
import graphs
import pytest
from stack import TIMEOUT, Client, running_proxy

from proxy.api.keys import JOBS
from proxy.cloud import resilience
from proxy.simulator import HttpFault, Simulator, SocketFault

SUBMIT = "POST /api/prompt"
#: What a 429 may say of an ordinary rate limit: no document names a code.
RATE_LIMITS = {
    "nothing": "",
    "text": "Too Many Requests",
    "html": "<html><h1>429 Too Many Requests</h1></html>",
    "flat": json.dumps({"code": "TOO_MANY_REQUESTS", "message": "slow down"}),
    "nested": json.dumps({"error": {"type": "rate_limit_exceeded", "message": "slow down"}}),
    "words": json.dumps({"error": "Rate limit exceeded"}),
    "unknown": json.dumps({"code": "SUBSCRIPTION_INACTIVE", "message": "?"}),
}


@pytest.fixture
async def simulator(opened: asyncio.Event) -> AsyncIterator[Simulator]:
    async with Simulator(extra_nodes=[gated.gate(opened)]) as running:
        yield running


@pytest.mark.parametrize(
    ("form", "says_when"), [*((form, False) for form in RATE_LIMITS), ("flat", True)]
)
async def test_a_rate_limit_is_waited_out_whatever_it_is_called(
    simulator: Simulator, client: Client, form: str, says_when: bool
) -> None:
    headers = {"Content-Type": "application/json", **({"Retry-After": "1"} if says_when else {})}
    simulator.faults.add(HttpFault(SUBMIT, status=429, body=RATE_LIMITS[form], headers=headers))
    await client.run(graphs.plain())
    assert simulator.calls[SUBMIT] == 2


@pytest.mark.parametrize("form", list(RATE_LIMITS))
async def test_a_rate_limit_that_lasts_is_answered_as_busy(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, form: str
) -> None:
    simulator.faults.add(HttpFault(SUBMIT, status=429, body=RATE_LIMITS[form]), times=None)
    async with running_proxy(simulator, tmp_path, policy={"submit_timeout": 0.6}) as proxy:
        answer = await session.post(proxy.url / "prompt", json={"prompt": graphs.plain()})
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert set(await answer.json()) == {"error", "node_errors"}


async def test_a_billing_code_is_final_on_a_429_too(simulator: Simulator, client: Client) -> None:
    simulator.switches.update({"refuse_prompt": "PAYMENT_REQUIRED", "billing_status": 429})
    status, body = await client.post("prompt", {"prompt": graphs.plain()})
    assert (status, body["error"]["type"]) == (400, "PAYMENT_REQUIRED")
    assert simulator.calls[SUBMIT] == 1


async def test_a_job_taken_without_a_name_is_looked_for(
    simulator: Simulator, client: Client
) -> None:
    simulator.switches.bare_acceptance = True
    entry = await client.run(graphs.plain())
    assert entry["status"]["completed"] is True
    assert len(simulator.jobs) == 1


async def test_a_200_that_names_no_job_and_hides_it_is_not_repeated(
    simulator: Simulator, client: Client
) -> None:
    body = json.dumps({"number": 1, "node_errors": {}})
    simulator.faults.add(HttpFault(SUBMIT, status=200, body=body))
    status, answer = await client.post("prompt", {"prompt": graphs.plain()})
    assert (status, answer["error"]["type"]) == (504, "submission_unanswered")
    assert simulator.calls[SUBMIT] == 1
    async with client.listening() as listener:
        await listener.until("status", status={"exec_info": {"queue_remaining": 0}})
    assert await client.get("history") == (200, {})


async def test_rejected_nodes_on_a_200_without_a_job_are_a_refusal(
    simulator: Simulator, client: Client
) -> None:
    node_errors = {"2": {"errors": [{"type": "value_not_in_list", "message": "No."}]}}
    body = json.dumps({"number": 1, "node_errors": node_errors})
    simulator.faults.add(HttpFault(SUBMIT, status=200, body=body))
    status, answer = await client.post("prompt", {"prompt": graphs.plain()})
    assert status == 400
    assert answer["node_errors"]["2"]["errors"][0]["type"] == "value_not_in_list"
    assert simulator.calls[SUBMIT] == 1


@pytest.mark.parametrize(
    ("reason", "status", "type_", "says"),
    [
        ("no_credits", 402, "PAYMENT_REQUIRED", "add credits"),
        ("dead_key", 403, "FORBIDDEN", "plan"),
        ("queue_limit", 429, "QUEUE_LIMIT", "have ended"),
    ],
)
async def test_a_job_that_cannot_go_says_why_and_then_fails(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    opened: asyncio.Event,
    reason: str,
    status: int,
    type_: str,
    says: str,
) -> None:
    policy = {"unable_timeout": 3.0}
    async with running_proxy(simulator, tmp_path, policy=policy, slots=1) as proxy:
        client = Client(session, proxy.url)
        await client.submit(gated.GRAPH)
        async with client.listening() as listener:
            waiting = await client.submit(graphs.plain())
            assert "queue_reason" not in (await client.get(f"api/jobs/{waiting}"))[1]
            body = json.dumps({"error": {"type": type_, "message": "No."}})
            simulator.faults.add(HttpFault(SUBMIT, status=status, body=body), times=None)
            opened.set()
            job = await until_it_says_why(client, waiting)
            assert job["status"] == "in_progress", "it is the head of the queue"
            assert job["queue_reason"] == reason
            assert says in job["queue_message"]
            seen = proxy.services[JOBS].overview()
            (view,) = (view for view in seen.jobs if view.job.prompt_id == waiting)
            assert view.reason == reason
            error = await listener.until("execution_error", prompt_id=waiting)
            assert says in error["exception_message"]
        entry = await client.history(waiting)
        assert entry["status"]["status_str"] == "error"
        assert await client.get("prompt") == (200, {"exec_info": {"queue_remaining": 0}})


@pytest.mark.usefixtures("short_rests")
async def test_without_a_timeout_a_job_that_cannot_go_waits(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, opened: asyncio.Event
) -> None:
    policy = {"unable_timeout": 0.0}
    async with running_proxy(simulator, tmp_path, policy=policy, slots=1) as proxy:
        client = Client(session, proxy.url)
        await client.submit(gated.GRAPH)
        async with client.listening() as listener:
            waiting = await client.submit(graphs.plain())
            simulator.switches.refuse_prompt = "PAYMENT_REQUIRED"
            opened.set()
            await until_it_says_why(client, waiting)
            await simulator.wait_for_calls(SUBMIT, 3)
            simulator.switches.refuse_prompt = None
            await listener.until_end(waiting)
        assert (await client.history(waiting))["status"]["completed"] is True


async def test_a_name_that_no_file_can_have_stops_no_write(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    item = {"filename": "\ud800.png", "subfolder": "\udfff", "type": "output"}
    body = {"status": "completed", "outputs": {"2": {"images": [item]}, "\ud800": {}}}
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        odd = simulator.faults.add(
            HttpFault("GET /api/jobs/{id}", status=200, body=json.dumps(body)), times=None
        )
        simulator.faults.add(SocketFault("lose", event="*"), times=None)
        first = await client.submit(graphs.plain())
        assert (await client.ended(first))["status"]["completed"] is True
        simulator.faults.clear()
        assert odd.happened
        second = await client.run(graphs.plain(1))
        assert second["status"]["completed"] is True
        _, history = await client.get("history")
    async with running_proxy(simulator, tmp_path) as proxy:
        assert await Client(session, proxy.url).get("history") == (200, history)


async def test_a_wait_of_a_day_is_cut_short(simulator: Simulator, client: Client) -> None:
    asked = {"Retry-After": "86400"}
    simulator.faults.add(HttpFault(SUBMIT, status=429, headers=asked), times=None)
    async with client.session.post(
        client.url / "prompt", json={"prompt": graphs.plain()}
    ) as messages:
        assert (messages.status, messages.headers["Retry-After"]) == (503, "60")


async def test_a_wait_of_a_day_stops_no_reading(
    simulator: Simulator, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resilience, "MAX_RETRY_AFTER", 0.3)
    asked = {"Retry-After": "86400"}
    simulator.faults.add(SocketFault("lose", event="*"), times=None)
    for route in ("GET /api/jobs", "GET /api/jobs/{id}"):
        simulator.faults.add(HttpFault(route, status=503, headers=asked), times=2)
    first = await client.submit(graphs.plain())
    second = await client.submit(graphs.plain(1))
    for prompt_id in (first, second):
        assert (await client.ended(prompt_id))["status"]["completed"] is True


async def until_it_says_why(client: Client, prompt_id: str) -> dict[str, Any]:
    async with asyncio.timeout(TIMEOUT):
        while True:
            _, job = await client.get(f"api/jobs/{prompt_id}")
            if "queue_reason" in job:
                return dict(job)
            await asyncio.sleep(0.01)
