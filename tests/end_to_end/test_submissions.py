"""What a client hears of a submission that Comfy Cloud takes, refuses or does not answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import graphs
import pytest
from stack import TIMEOUT, Client, running_proxy

from proxy.cloud.event_socket import Timeouts
from proxy.cloud.resilience import CircuitBreaker
from proxy.engine import intake
from proxy.jobs import checks
from proxy.runtime.backoff import Backoff
from proxy.simulator import HttpFault, Simulator

SUBMIT = "POST /api/prompt"


@pytest.mark.parametrize(
    "fault",
    [HttpFault("*", status=503), HttpFault("*", status=502), HttpFault("*", reset=True)],
    ids=["busy", "gateway", "silent"],
)
async def test_a_job_waits_with_its_reason_while_the_circuit_is_open(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, fault: HttpFault
) -> None:
    circuit = CircuitBreaker(failures=1, silence=0.0, backoff=Backoff(600.0, 600.0))
    async with running_proxy(
        simulator, tmp_path, timeouts=Timeouts(breaker=lambda: circuit)
    ) as proxy:
        client = Client(session, proxy.url)
        await client.run(graphs.plain())
        simulator.faults.add(fault, times=None)
        async with asyncio.timeout(TIMEOUT):
            while not circuit.failing:
                await client.get("readyz")
                await asyncio.sleep(0.05)
        prompt_id = await client.submit(graphs.plain())
        _, queue = await client.get("queue")
        assert [item[1] for item in queue["queue_running"]] == [prompt_id]  # the first one
        _, job = await client.get(f"api/jobs/{prompt_id}")
        assert "Comfy Cloud" in job["queue_message"]
    assert len(simulator.jobs) == 1


async def test_a_job_that_a_silent_cloud_holds_up_is_in_the_queue_and_runs_once(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer comes although the cloud has not taken the job, as of a local server."""
    monkeypatch.setattr(intake, "ANSWER_TIMEOUT", 0.2)
    async with running_proxy(simulator, tmp_path, policy={"submit_timeout": 2 * TIMEOUT}) as proxy:
        client = Client(session, proxy.url)
        await client.run(graphs.plain())
        simulator.faults.add(HttpFault(SUBMIT, delay=3.0, reset=True), times=None)
        async with asyncio.timeout(TIMEOUT):
            prompt_id = await client.submit(graphs.plain(2))
        assert len(simulator.jobs) == 1
        _, queue = await client.get("queue")
        assert [item[1] for item in queue["queue_running"]] == [prompt_id]  # the first one
        simulator.faults.clear()
        assert (await client.ended(prompt_id))["status"]["completed"]
    assert len(simulator.jobs) == 2


@pytest.mark.parametrize(
    "refusal",
    [
        "PAYMENT_REQUIRED",
        "CLOUD_SUBSCRIPTION_REQUIRED",
        "FREE_TIER_EXHAUSTED",
        "PARTNER_NODE_PAYMENT_REQUIRED",
        "MODEL_PAYMENT_REQUIRED",
        "PARTNER_NODE_DISABLED",
    ],
)
async def test_what_needs_a_person_is_answered_at_once(
    simulator: Simulator, client: Client, refusal: str
) -> None:
    simulator.switches.update({"refuse_prompt": refusal})
    status, body = await client.post("prompt", {"prompt": graphs.plain()})
    assert status == 400
    assert body["error"]["type"] == refusal
    assert body["node_errors"] == {}
    assert simulator.calls[SUBMIT] == 1
    assert await client.get("queue") == (200, {"queue_running": [], "queue_pending": []})


@pytest.mark.parametrize("form", ["400", "200", "flat"])
async def test_an_invalid_graph_is_refused_in_comfyuis_form(
    simulator: Simulator, client: Client, form: str
) -> None:
    simulator.switches.update({"invalid_prompt": form})
    graph = graphs.plain()
    graph["1"]["inputs"]["width"] = -5
    status, body = await client.post("prompt", {"prompt": graph})
    assert status == 400
    assert set(body) == {"error", "node_errors"}
    assert set(body["error"]) == {"type", "message", "details", "extra_info"}


async def test_a_partly_valid_graph_runs_and_tells_its_errors(client: Client) -> None:
    graph = graphs.plain()
    graph["5"] = {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}
    async with client.listening() as listener:
        status, body = await client.post("prompt", {"prompt": graph, "client_id": client.client_id})
        assert status == 200
        assert list(body["node_errors"]) == ["5"]
        await listener.until_end(body["prompt_id"])
    entry = await client.history(body["prompt_id"])
    assert entry["prompt"][4] == ["2"]


async def test_a_job_that_was_only_announced_ends_as_lost(
    simulator: Simulator, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_MAX_NODES", 0)  # validated by the cloud alone
    simulator.switches.partly_valid = "ghost"
    graph = graphs.plain()
    graph["5"] = {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}
    async with client.listening() as listener:
        body = {"prompt": graph, "client_id": client.client_id}
        _, answer = await client.post("prompt", body)
        await listener.until_end(answer["prompt_id"])
    assert listener.of("execution_error")[0]["exception_type"] == "JobLost"


async def test_an_id_in_the_queue_is_not_taken_twice(client: Client) -> None:
    chosen = "7121851e-1054-57bd-bdfe-1bb2f96c0cf7"
    async with client.listening() as listener:
        await client.submit(graphs.waiting(), prompt_id=chosen)
        status, body = await client.post("prompt", {"prompt": graphs.plain(), "prompt_id": chosen})
        assert (status, body["error"]["type"]) == (409, "duplicate_prompt_id")
        assert body["node_errors"] == {}
        wrong = {"1": {"class_type": "NoSuchNode", "inputs": {}}}
        status, body = await client.post("prompt", {"prompt": wrong, "prompt_id": chosen})
        assert (status, body["error"]["type"]) == (400, "missing_node_type")
        await listener.until("executing", node="2")
        await client.post("interrupt")
        await listener.until_end(chosen)
        again = await client.submit(graphs.plain(), prompt_id=chosen)
        await listener.until_end(again)
    assert list((await client.get("history"))[1]) == [chosen]


async def test_numbers_are_given_and_echoed_as_comfyui_does(client: Client) -> None:
    async def number(**fields: object) -> object:
        _, body = await client.post("prompt", {"prompt": graphs.plain(), **fields})
        return body["number"]

    assert await number() == 0
    assert (await client.post("prompt", {"prompt": {}}))[0] == 400
    assert await number() == 2
    assert await number(front=True) == -3
    assert await number(number=-3.5, front=True) == -3.5
    assert await number(number="7") == 7.0
    assert await number() == 4


async def test_partner_nodes_get_the_accounts_key_and_nobody_sees_it(
    simulator: Simulator, client: Client
) -> None:
    graph = graphs.plain()
    graph["1"] = {
        "class_type": "FluxProUltraImageNode",
        "inputs": {
            "prompt": "a fox",
            "prompt_upsampling": False,
            "seed": 1,
            "aspect_ratio": "1:1",
            "raw": False,
        },
    }
    entry = await client.run(graph)
    assert entry["status"]["completed"] is True
    assert simulator.key not in str(entry)


async def test_seeds_beyond_64_bits_arrive_unharmed(simulator: Simulator, client: Client) -> None:
    await client.post("prompt", {"prompt": graphs.sampled(2**64 - 1)})
    (job,) = simulator.jobs.values()
    assert job.graph["3"]["inputs"]["seed"] == 2**64 - 1


async def test_only_known_fields_reach_the_cloud(simulator: Simulator, client: Client) -> None:
    body = {"prompt": graphs.plain(), "client_id": "me", "front": True, "more": {"x": 1}}
    await client.post("prompt", body)
    (job,) = simulator.jobs.values()
    assert set(job.extra_data) == {"api_key_comfy_org", "comfy_cloud_proxy"}
