"""The wall clock jumps; what lives by it are the stamps in records, never a job."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import gated
import graphs
import pytest
from skewed_clock import SkewedClock
from stack import Client, running_proxy

from proxy.runtime import clock as proxy_clock
from proxy.simulator import Simulator

YEAR = 365 * 86400.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SkewedClock:
    """The proxy's clock; that of the cloud goes right."""
    skewed = SkewedClock()
    monkeypatch.setattr(proxy_clock, "source", skewed)
    return skewed


@pytest.mark.parametrize("jumps", [(YEAR, -YEAR), (-YEAR, YEAR)], ids=["ahead", "back"])
async def test_a_job_lives_through_jumps_of_the_clock(
    tmp_path: Path, session: aiohttp.ClientSession, clock: SkewedClock, jumps: tuple[float, float]
) -> None:
    opened = asyncio.Event()
    async with (
        Simulator(extra_nodes=[gated.gate(opened)]) as simulator,
        running_proxy(simulator, tmp_path) as proxy,
    ):
        client = Client(session, proxy.url)
        async with client.listening() as listener:
            prompt_id = await client.submit(gated.GRAPH)
            await listener.until("executing", node="1")
            clock.ahead = jumps[0]
            reads = simulator.calls["GET /api/jobs"]
            await simulator.wait_for_calls("GET /api/jobs", reads + 2)
            assert (await client.get(f"history/{prompt_id}"))[1] == {}
            clock.ahead = jumps[1]
            opened.set()
            await listener.until_end(prompt_id)
        assert listener.types()[-2:] == ["execution_success", "executing"]
        job = (await client.get(f"api/jobs/{prompt_id}"))[1]
        assert job["execution_end_time"] >= job["execution_start_time"]


async def test_what_has_ended_stays_so_and_in_order_whatever_the_clock_says(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession, clock: SkewedClock
) -> None:
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        for ahead in (0.0, YEAR, -YEAR):
            clock.ahead = ahead
            await client.run(graphs.plain(int(ahead) % 1000))
        history: Any = (await client.get("history"))[1]
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        again: Any = (await client.get("history"))[1]
        assert list(again) == list(history)
        assert again == history
        assert (await client.get("queue"))[1] == {"queue_running": [], "queue_pending": []}
    assert len(simulator.jobs) == 3
