"""Jobs on their way to the cloud."""

from __future__ import annotations

import asyncio

import gated
import graphs
from stack import Client
from waiting import ids, until_ended

from proxy.simulator import HttpFault, Simulator

SUBMIT = "POST /api/prompt"


async def test_a_cancel_while_the_job_is_being_sent_reaches_the_cloud_once(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    await client.submit(gated.GRAPH)
    sent = await client.submit(graphs.waiting())
    simulator.switches.late_answer = 0.5
    opened.set()
    await simulator.signal.until(lambda: len(simulator.jobs) == 2, 10)
    status, answer = await client.post(f"api/jobs/{sent}/cancel")
    assert (status, answer) == (200, {"cancelled": True})
    assert await ids(client) == []
    job = list(simulator.jobs.values())[1]
    await simulator.signal.until(lambda: job.status == "cancelled", 10)
    assert simulator.calls["POST /api/jobs/{id}/cancel"] == 1
    assert (await client.get(f"history/{sent}"))[1] == {}
    simulator.switches.late_answer = 0.0
    after = await client.submit(graphs.plain())
    assert after in await until_ended(client, 2)


async def test_an_answer_that_got_lost_is_found_again_for_waiting_jobs_too(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    await client.submit(gated.GRAPH)
    simulator.faults.add(HttpFault(SUBMIT, reset=True, processed=True))
    await client.submit(graphs.plain())
    opened.set()
    await until_ended(client, 2)
    assert len(simulator.jobs) == 2
