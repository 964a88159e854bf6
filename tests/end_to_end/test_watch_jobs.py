"""Jobs that end in odd ways on the cloud: each has one end, and it is the true one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from lives import assert_whole
from stack import Client, running_proxy

from proxy.simulator import HttpFault, JobFault, Simulator

ODD_ANSWERS: list[dict[str, Any]] = [
    {"status": 404},
    {"status": 429},
    {"status": 429, "headers": {"Retry-After": "1"}},
    {"status": 500},
    {"status": 503},
    {"status": 200, "body": "<html>"},
    {"status": 200, "body": "{}"},
    {"status": 200, "body": '{"jobs": [{"id": "a", "create_time": NaN}], "create_time": NaN}'},
    {"status": 200, "body": '{"execution_start_time": -1e999, "execution_end_time": 1e300}'},
    {"status": 200, "body": '{"update_time": 1%s}' % ("0" * 400)},
    {"status": 302, "headers": {"Location": "https://example.com/"}},
    {"reset": True},
    {"reset": True, "processed": True},
    {"cut": 20, "ending": "clean"},
    {"cut": 20, "ending": "close"},
    {"cut": 20, "ending": "reset"},
    {"delay": 0.3},
]


@pytest.mark.parametrize("after", [0, 2, 8])
async def test_a_job_that_the_cloud_lost_has_failed(
    simulator: Simulator, client: Client, after: int
) -> None:
    simulator.faults.add(JobFault("lost", after=after))
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.sampled())
        await listener.until_end(prompt_id)
        await assert_whole(client, listener, prompt_id, "execution_error")
    assert (await client.get(f"api/jobs/{prompt_id}"))[1]["status"] == "failed"


@pytest.mark.parametrize("after", [0, 2, 8])
async def test_a_failure_of_the_platform_is_reported_in_its_words(
    simulator: Simulator, client: Client, after: int
) -> None:
    simulator.faults.add(JobFault("service_error", after=after))
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.sampled())
        await listener.until_end(prompt_id)
        await assert_whole(client, listener, prompt_id, "execution_error")
    error = listener.of("execution_error")[0]
    assert error["exception_type"] == "ServiceError"
    assert error["exception_message"].startswith("The inference service went away.")


async def test_a_job_that_hangs_goes_on_until_it_is_cancelled(
    simulator: Simulator, client: Client
) -> None:
    simulator.faults.add(JobFault("hang", after=4))
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.sampled())
        await listener.until("executing")
        await asyncio.sleep(0.3)
        _, queue = await client.get("queue")
        assert [item[1] for item in queue["queue_running"]] == [prompt_id]
        await client.post("interrupt", {})
        await listener.until_end(prompt_id)
        await assert_whole(client, listener, prompt_id, "execution_interrupted")


async def test_a_job_that_the_cloud_runs_again_is_one_job(
    simulator: Simulator, client: Client
) -> None:
    simulator.faults.add(JobFault("retried", after=6))
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.sampled())
        await listener.until_end(prompt_id)
        await assert_whole(client, listener, prompt_id)
    assert len(simulator.jobs) == 1


@pytest.mark.parametrize("odd", ODD_ANSWERS, ids=str)
async def test_odd_answers_about_a_job_change_nothing_of_its_life(
    simulator: Simulator, client: Client, odd: dict[str, Any]
) -> None:
    details = simulator.faults.add(HttpFault("GET /api/jobs/{id}", **odd))
    simulator.faults.add(HttpFault("GET /api/jobs", **odd))
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.sampled())
        await listener.until_end(prompt_id)
        await assert_whole(client, listener, prompt_id)
    assert details.happened == 1


@pytest.mark.parametrize("says_when", [True, False])
async def test_under_a_rate_limit_every_job_comes_to_its_end(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, says_when: bool
) -> None:
    simulator.switches.update({"rate_limit": 8, "rate_limit_retry_after": says_when})

    async def run(client: Client, seed: int) -> None:
        async with client.listening() as listener:
            prompt_id = await client.submit(graphs.sampled(seed))
            await listener.until_end(prompt_id)
        assert listener.types()[-2:] == ["execution_success", "executing"]

    async with running_proxy(simulator, tmp_path, policy={"submit_timeout": 30.0}) as proxy:
        await asyncio.gather(*(run(Client(session, proxy.url), seed) for seed in range(4)))
    assert len(simulator.jobs) == 4


async def test_a_burst_of_submissions_above_the_rate_is_taken_whole(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    policy = {"submit_timeout": 30.0, "connected_wait": 10.0}
    async with running_proxy(simulator, tmp_path, slots=20, policy=policy) as proxy:
        client = Client(session, proxy.url)
        await client.until_ready()
        simulator.switches.update({"rate_limit": 3, "rate_limit_form": "nested"})
        ids = await asyncio.gather(*(client.submit(graphs.plain(seed)) for seed in range(20)))
        simulator.switches.rate_limit = 0
        for prompt_id in ids:
            assert (await client.ended(prompt_id))["status"]["completed"]
    assert len(simulator.jobs) == 20
