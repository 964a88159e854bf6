"""How soon the proxy notices that the cloud, a process of its own, can be reached again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from cloud_process import CloudProcess
from stack import TIMEOUT, Client, running_proxy

from proxy.engine.policy import Policy
from proxy.simulator import HttpFault, Simulator

pytestmark = pytest.mark.attack

#: Seconds without a cloud, in which the delays between attempts grow beyond the bound.
OUTAGE = 14.0
#: Without the rule that is tested, the next try would come 6 seconds later.
GATEWAY_OUTAGE = 7.0
#: Seconds from the recovery until it is noticed.
BOUND = 2.0
#: Seconds between two looks of the web interface.
INTERVAL = 0.5


async def trouble(client: Client) -> str | None:
    """What the web interface says is wrong."""
    _, state = await client.get("proxy/api/interface")
    return state["trouble"]


@asynccontextmanager
async def ready(cloud: Any, folder: Path) -> AsyncIterator[Client]:
    """A client of a proxy that has reached the cloud, and tries to submit for as long as usual."""
    policy = {"submit_timeout": Policy().submit_timeout}
    async with (
        running_proxy(cloud, folder / "data", policy=policy) as proxy,
        aiohttp.ClientSession() as session,
        asyncio.timeout(TIMEOUT),
    ):
        client = Client(session, proxy.url)
        await client.until_ready()
        yield client


async def seconds_until_sent(
    client: Client, outage: float, end: Callable[[], Awaitable[None]]
) -> float:
    """Submit a job in an outage; return the seconds from its end until the job starts."""
    async with client.listening() as listener:
        job = await client.submit(graphs.plain())
        await asyncio.sleep(outage)
        await end()
        back = time.monotonic()
        await listener.until("execution_start", prompt_id=job)
    return time.monotonic() - back


async def test_the_web_interface_says_within_two_seconds_that_the_cloud_is_back(
    cloud_process: CloudProcess, tmp_path: Path
) -> None:
    async with ready(cloud_process, tmp_path) as client:
        await cloud_process.stop()
        began = time.monotonic()
        while time.monotonic() < began + OUTAGE:
            said = await trouble(client)
            await asyncio.sleep(INTERVAL)
        assert said == "Comfy Cloud cannot be reached: check the network of this machine."
        await cloud_process.start()
        back, heard = time.monotonic(), {said}
        while said is not None:
            await asyncio.sleep(INTERVAL)
            said = await trouble(client)
            heard.add(said)
        assert time.monotonic() - back < BOUND
        assert len(heard) == 2  # the socket is not a trouble of its own


async def test_a_job_that_waits_is_sent_within_two_seconds_of_the_return(
    cloud_process: CloudProcess, tmp_path: Path
) -> None:
    async with ready(cloud_process, tmp_path) as client:
        await cloud_process.stop()
        assert await seconds_until_sent(client, OUTAGE, cloud_process.start) < BOUND


async def test_a_job_is_sent_within_two_seconds_after_a_gateway_s_503(
    simulator: Simulator, tmp_path: Path
) -> None:
    async def heal() -> None:
        simulator.faults.clear()

    async with ready(simulator, tmp_path) as client:
        simulator.faults.add(HttpFault("*", status=503), times=None)
        assert await seconds_until_sent(client, GATEWAY_OUTAGE, heal) < BOUND


async def test_a_job_is_in_the_queue_within_a_second_while_the_cloud_is_away(
    cloud_process: CloudProcess, tmp_path: Path
) -> None:
    async with ready(cloud_process, tmp_path) as client:
        await cloud_process.stop()
        begun = time.monotonic()
        job = await client.submit(graphs.plain())
        assert time.monotonic() - begun < 1.0
        _, queue = await client.get("queue")
        assert [item[1] for item in queue["queue_running"] + queue["queue_pending"]] == [job]
