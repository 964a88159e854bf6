"""What goes to the cloud, when and where, and what becomes of a job that was not taken."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import gated
import graphs
import pytest
from stack import Client, running_proxy
from waiting import ids, queued, until_ended

from proxy.cloud.resilience import Backoff
from proxy.engine import accounts as account_health
from proxy.settings import AccountSettings, Secret
from proxy.simulator import HttpFault, Simulator

SUBMIT = "POST /api/prompt"
ONE = {"slots": 1, "slots_ahead": 0}


async def test_what_has_no_slot_waits_with_us(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    running = await client.submit(gated.GRAPH)
    waiting = [await client.submit(graphs.plain(color)) for color in range(3)]
    assert len(simulator.jobs) == 1
    assert await ids(client) == waiting
    assert (await client.get("prompt"))[1] == {"exec_info": {"queue_remaining": 4}}
    opened.set()
    assert await until_ended(client, 4) == [running, *waiting]


async def test_one_more_is_sent_ahead(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    async with running_proxy(simulator, tmp_path / "data", slots=1, slots_ahead=1) as proxy:
        client = Client(session, proxy.url)
        for _ in range(4):
            await client.submit(gated.GRAPH)
        assert len(simulator.jobs) == 2


@pytest.mark.parametrize("refusal", ["PAYMENT_REQUIRED", "QUEUE_LIMIT", "UNAVAILABLE"])
async def test_a_job_keeps_its_place_while_the_account_rests(
    simulator: Simulator,
    client: Client,
    opened: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
    refusal: str,
) -> None:
    for reason in account_health.RESTS:
        monkeypatch.setitem(account_health.RESTS, reason, Backoff(0.1, 1.0))
    await client.submit(gated.GRAPH)
    waiting = [await client.submit(graphs.plain(color)) for color in range(2)]
    simulator.switches.update({"refuse_prompt": refusal})
    opened.set()
    await simulator.wait_for_calls(SUBMIT, 3)
    await until_ended(client, 1)
    assert await queued(client) == waiting
    simulator.switches.refuse_prompt = None
    assert (await until_ended(client, 3))[1:] == waiting


async def test_a_new_job_tries_a_resting_account_and_tells_its_client_why_it_rests(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    await client.submit(gated.GRAPH)
    waiting = await client.submit(graphs.plain())
    simulator.switches.refuse_prompt = "PAYMENT_REQUIRED"
    opened.set()
    await simulator.wait_for_calls(SUBMIT, 2)
    await until_ended(client, 1)
    status, told = await client.post("prompt", {"prompt": graphs.plain(1)})
    assert (status, told["error"]["type"]) == (400, "PAYMENT_REQUIRED")
    assert await queued(client) == [waiting]


async def test_a_job_moves_to_the_account_that_takes_it(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with Simulator(extra_nodes=[gated.gate(opened)]) as other:
        accounts = [
            AccountSettings(
                name="one", base_url=simulator.base_url, key=Secret(simulator.key), slots=1
            ),
            AccountSettings(name="two", base_url=other.base_url, key=Secret(other.key), slots=1),
        ]
        async with running_proxy(
            simulator, tmp_path / "data", accounts=accounts, slots_ahead=0
        ) as proxy:
            client = Client(session, proxy.url)
            for _ in range(2):
                await client.submit(gated.GRAPH)
            assert (len(simulator.jobs), len(other.jobs)) == (1, 1)
            waiting = [await client.submit(graphs.plain(color)) for color in range(3)]
            simulator.switches.refuse_prompt = "PAYMENT_REQUIRED"
            opened.set()
            assert set(waiting) <= set(await until_ended(client, 5))
            assert (len(simulator.jobs), len(other.jobs)) == (1, 4)


async def test_a_cancel_while_the_job_is_being_sent_reaches_the_cloud_once(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    await client.submit(gated.GRAPH)
    sent = await client.submit(graphs.waiting())
    simulator.switches.late_answer = 0.5
    opened.set()
    await simulator.signal.until(lambda: len(simulator.jobs) == 2, 10)
    await until_ended(client, 1)
    status, answer = await client.post(f"api/jobs/{sent}/cancel")
    assert (status, answer) == (200, {"cancelled": True})
    assert await ids(client) == []
    job = list(simulator.jobs.values())[1]
    await simulator.signal.until(lambda: job.status == "cancelled", 10)
    assert simulator.calls["POST /api/jobs/{id}/cancel"] == 1
    simulator.switches.late_answer = 0.0
    assert (await client.ended(sent))["status"]["messages"][-1][0] == "execution_interrupted"
    after = await client.submit(graphs.plain())
    assert after in await until_ended(client, 3)


async def test_an_answer_that_got_lost_is_found_again_for_waiting_jobs_too(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    await client.submit(gated.GRAPH)
    simulator.faults.add(HttpFault(SUBMIT, reset=True, processed=True))
    await client.submit(graphs.plain())
    opened.set()
    await until_ended(client, 2)
    assert len(simulator.jobs) == 2
